"""Nodes reached with the user's own OpenSSH: one byte stream to ``polyarch node`` there, no port."""
