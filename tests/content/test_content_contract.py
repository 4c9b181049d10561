"""The stores of our own keep the contract."""

from pathlib import Path

import pytest

from polyarch.content.chain import Chain
from polyarch.content.layout import Layout
from polyarch.content.memory import MemoryStore
from polyarch.testing.store_contract import StoreContract


class TestMemory(StoreContract):
    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore()


class TestLayout(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Layout:
        return Layout(tmp_path / "layout")


class TestChain(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Chain:
        return Chain([Layout(tmp_path / "first"), MemoryStore()])
