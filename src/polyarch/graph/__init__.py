"""Stages × platforms become one graph of frozen vertices, named by the digests of their definitions."""
