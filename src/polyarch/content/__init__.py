"""Content-addressed stores: one protocol, and what can be done with any of them."""
