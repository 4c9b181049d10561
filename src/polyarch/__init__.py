"""polyarch: one tag, every architecture.

    import polyarch

    outcome = polyarch.build(".", platforms=["linux/amd64", "linux/arm64"], tags=["app:1"], push=True)
    print(outcome.digest)

``build``, ``merge``, ``inspect``, ``push`` and ``run`` return values, take a progress callback and raise
``PolyarchError``. Importing this module imports nothing else before it is used.
"""

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost as much as Python's start

if TYPE_CHECKING:
    from polyarch.api import build, inspect, merge, push, run
    from polyarch.errors import (
        CancelledError,
        ContentError,
        DockerfileError,
        NotFoundError,
        PolyarchError,
        RegistryError,
        StepError,
        UnsupportedError,
        UsageError,
    )

_API = ("build", "inspect", "merge", "push", "run")

__all__ = [
    "CancelledError",
    "ContentError",
    "DockerfileError",
    "NotFoundError",
    "PolyarchError",
    "RegistryError",
    "StepError",
    "UnsupportedError",
    "UsageError",
    "build",
    "inspect",
    "merge",
    "push",
    "run",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module("polyarch.api" if name in _API else "polyarch.errors"), name)
