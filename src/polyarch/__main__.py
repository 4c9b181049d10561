"""``python -m polyarch``: the command line."""

from polyarch.cli.entry import run

if __name__ == "__main__":
    run()
