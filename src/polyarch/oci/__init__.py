"""Pure types of the OCI and Docker image specifications: no input or output happens in this room."""
