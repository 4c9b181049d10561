"""Checks before a build runs and after it: bases, executors, and whether each variant is what it says."""
