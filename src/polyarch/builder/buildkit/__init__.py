"""Nodes that are BuildKit daemons: reached, spoken to, and given our graph.

Everything here needs grpcio and protobuf, which nothing else does: import it only where such a node is used.
"""
