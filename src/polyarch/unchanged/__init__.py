"""Answers a build of which nothing has changed: from what the last one depended on, without planning it."""
