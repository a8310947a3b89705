"""`python -m pmesh` is the command `pmesh`."""

import sys

if __name__ == "__main__":
    try:
        from pmesh.cli import main

        code = main()
    except KeyboardInterrupt:
        if sys.stderr is not None:
            sys.stderr.write("pmesh: interrupted\n")
        code = 130
    sys.exit(code)
