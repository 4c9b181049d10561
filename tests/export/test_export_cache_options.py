"""``--cache-to`` and ``--cache-from``: scopes keep caches under one name apart."""

from __future__ import annotations

import pytest

from polyarch.errors import UsageError
from polyarch.export.cache_options import parse_from, parse_to


def test_every_scope_is_a_cache_of_its_own() -> None:
    (written,) = parse_to(["type=registry,ref=example.com/app:cache,scope=web"])
    (read,) = parse_from(["type=registry,ref=example.com/app:cache,scope=web"])
    assert written.reference == read.reference and str(read.reference) == "example.com/app:cache-web"
    (plain,) = parse_from(["type=registry,ref=example.com/app:cache"])
    assert str(plain.reference) == "example.com/app:cache"
    (folder,) = parse_to(["type=local,dest=/d,scope=web"])
    (same,) = parse_from(["type=local,src=/d,scope=web"])
    assert folder.tag == same.tag == "latest-web"


@pytest.mark.parametrize(
    "text",
    [
        "type=inline,scope=a",
        "type=registry,ref=example.com/app:cache,scope=a/b",
        f"type=registry,ref=example.com/app:{'a' * 100},scope={'b' * 60}",
    ],
)
def test_scopes_that_cannot_be(text: str) -> None:
    with pytest.raises(UsageError):
        parse_to([text])
