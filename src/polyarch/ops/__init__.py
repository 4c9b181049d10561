"""What each operation of the graph means: its cache keys, and how it is done."""
