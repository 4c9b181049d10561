"""``python -m polyarch``: the command line."""

import sys

from polyarch.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
