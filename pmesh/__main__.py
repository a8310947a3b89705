"""`python -m pmesh` is the command `pmesh`."""

import sys

from pmesh.cli import main

if __name__ == "__main__":
    sys.exit(main())
