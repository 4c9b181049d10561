"""Make the message modules of ``polyarch.builder.buildkit.protocol`` from the protocol files beside them.

    python scripts/make_protocol.py [--check]

``--check`` changes nothing and fails when a module is not what it would become. Needs grpcio-tools.
"""

from __future__ import annotations

import sys
import tempfile
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "src"
FOLDER = SOURCES / "polyarch" / "builder" / "buildkit" / "protocol"


def generate(target: Path) -> dict[str, str]:
    """The modules' texts by file name."""
    names = sorted(str(path.relative_to(SOURCES)) for path in FOLDER.glob("*.proto"))
    wellknown = str(resources.files("grpc_tools") / "_proto")
    options = [f"-I{SOURCES}", f"-I{wellknown}", f"--python_out={target}", f"--pyi_out={target}"]
    if protoc.main(["protoc", *options, *names]):
        raise SystemExit("protoc failed")
    made = (target / FOLDER.relative_to(SOURCES)).iterdir()
    return {path.name: path.read_text() for path in sorted(made)}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        made = generate(Path(folder))
    if "--check" in sys.argv[1:]:
        old = [name for name, text in made.items() if not _same(FOLDER / name, text)]
        if old:
            raise SystemExit(f"not up to date: {', '.join(old)}; run scripts/make_protocol.py")
        return
    for name, text in made.items():
        (FOLDER / name).write_text(text)


def _same(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text() == text


if __name__ == "__main__":
    main()
