"""How two polyarchs talk over one byte stream: frames that survive a broken connection, and calls on top."""
