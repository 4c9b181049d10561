"""Nodes that are BuildKit daemons in pods of a cluster, which are made, scaled, found again and removed here.

What talks to the cluster needs the package ``kubernetes`` (``pip install 'polyarch[kubernetes]'``), and is
imported only where such a node is used.
"""
