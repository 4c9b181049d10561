"""The console script. What needs nothing is answered before anything is imported."""

import sys


def run() -> None:
    """Run the command line and exit with its code."""
    if sys.argv[1:] in (["--version"], ["version"]):
        from polyarch.version import VERSION

        print("polyarch", VERSION)
        sys.exit(0)
    if sys.argv[1:2] == ["build"]:
        from polyarch.cli.unchanged import answer

        code = answer(sys.argv[1:])
        if code is not None:
            sys.exit(code)
    import gc

    from polyarch.cli.quickly import importing

    with importing():
        from polyarch.cli.main import main

    code = main()
    gc.freeze()  # the process ends: nobody wants its garbage collected
    sys.exit(code)
