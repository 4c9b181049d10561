"""Runs while the image is built, on the platform it is built for."""

import unittest

from greeting import greeting


class Greeting(unittest.TestCase):
    def test_names_everything(self) -> None:
        text = greeting("you", "aarch64", "aarch64")
        self.assertIn("hello you", text)
        self.assertIn("on aarch64, built on aarch64", text)
