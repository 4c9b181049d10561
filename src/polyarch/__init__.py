"""polyarch: one tag, every architecture."""
