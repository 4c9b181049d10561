"""Builders and their nodes: who solves a graph."""
