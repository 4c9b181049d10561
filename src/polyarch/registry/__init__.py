"""The OCI distribution API: a client whose repositories are stores, and a server over a layout."""
