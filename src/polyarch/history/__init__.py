"""What builds did: a file for each, written while it runs, read by ``polyarch history`` and ``logs``."""
