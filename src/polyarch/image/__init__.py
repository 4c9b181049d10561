"""Images as values: config, manifest and index; assembled from layers, read back from any store, located."""
