"""The script `pmesh`: nothing but what must be there before the package is imported, which takes 0.1 s."""

import sys


def main() -> int:
    """Run the process's command line; returns the exit code."""
    try:
        from pmesh.cli import main as run

        return run()
    except KeyboardInterrupt:
        if sys.stderr is not None:
            sys.stderr.write("pmesh: interrupted\n")
        return 130
