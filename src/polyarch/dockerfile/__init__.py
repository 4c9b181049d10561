"""Dockerfiles: text to syntax tree to instructions to stages; shell words; checks."""

from __future__ import annotations

from polyarch.dockerfile.ast import Dockerfile
from polyarch.dockerfile.parser import parse

__all__ = ["Dockerfile", "parse"]
