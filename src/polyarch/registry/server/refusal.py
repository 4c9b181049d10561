"""Saying no as the distribution specification wants it said ("Error Codes")."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType


class Refusal(Exception):
    """A request that is answered with an error. ``code`` is one of the specification's words."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        detail: object = None,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.detail = detail
        self.headers = headers

    def body(self) -> bytes:
        """The JSON of the answer."""
        entry: dict[str, object] = {"code": self.code, "message": self.message}
        if self.detail is not None:
            entry["detail"] = self.detail
        return json.dumps({"errors": [entry]}).encode()
