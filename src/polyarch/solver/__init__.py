"""Walks a graph it does not understand: what is cached, what must run, what may run side by side."""
