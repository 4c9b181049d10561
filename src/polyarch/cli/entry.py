"""The console script. What needs nothing is answered before anything is imported."""

import sys


def run() -> None:
    """Run the command line and exit with its code."""
    if sys.argv[1:] in (["--version"], ["version"]):
        from polyarch.version import VERSION

        print("polyarch", VERSION)
        sys.exit(0)
    from polyarch.cli.main import main

    sys.exit(main())
