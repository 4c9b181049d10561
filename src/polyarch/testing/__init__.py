"""What only tests import: contract suites, random images, and servers that fail on command."""
