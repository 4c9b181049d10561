"""Operations on files as the daemon is told of them: COPY, ADD, WORKDIR, and files in the Dockerfile."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence

from polyarch.builder.buildkit.protocol import llb_pb2 as pb
from polyarch.graph.vertex import CopyAction, FileOp, InlineOp, MakeDirectoryAction
from polyarch.ops.canvas import TIMELESS_NS

CAPS = ("file.base",)
_UNSET = -1  # a mode or a time that is not given, an input that is empty, an output nobody needs


class Inputs:
    """The inputs of an operation, each once; what is empty is -1."""

    def __init__(self) -> None:
        self.digests: dict[str, int] = {}

    def add(self, digest: str) -> int:
        """The number of an input."""
        return self.digests.setdefault(digest, len(self.digests)) if digest else _UNSET

    def messages(self) -> list[pb.Input]:
        """The inputs in order."""
        return [pb.Input(digest=digest) for digest in self.digests]


def inline(op: InlineOp) -> pb.Op:
    """A file whose content stands in the Dockerfile."""
    content = op.content.encode("utf-8", "surrogateescape")
    made = pb.FileActionMkFile(path="/" + op.name, mode=op.mode, data=content, timestamp=TIMELESS_NS)
    return _alone(pb.FileAction(input=_UNSET, secondary_input=_UNSET, output=0, mkfile=made))


def directory(path: str, mode: int, uid: int, gid: int) -> pb.Op:
    """A root filesystem with nothing but one directory."""
    owner = pb.ChownOpt(user=pb.UserOpt(by_id=uid), group=pb.UserOpt(by_id=gid))
    made = pb.FileActionMkDir(path=path, mode=mode, owner=owner, timestamp=_UNSET)
    return _alone(pb.FileAction(input=_UNSET, secondary_input=_UNSET, output=0, mkdir=made))


def _alone(action: pb.FileAction) -> pb.Op:
    return pb.Op(file=pb.FileOp(actions=[action]))


def file_op(op: FileOp, digests: Sequence[str]) -> pb.Op:
    """The actions of ``op`` in a row, on the base or on nothing."""
    inputs = Inputs()
    numbers = [inputs.add(digest) for digest in digests]
    current = _UNSET if op.detached else numbers[0]
    actions = []
    total = len(inputs.digests)
    for number, action in enumerate(op.actions):
        output = 0 if number == len(op.actions) - 1 else _UNSET
        message = pb.FileAction(input=current, secondary_input=_UNSET, output=output)
        match action:
            case MakeDirectoryAction():
                message.mkdir.CopyFrom(_mkdir(action, op, current))
            case CopyAction():
                message.secondary_input = numbers[action.input]
                message.copy.CopyFrom(_copy(action, op, current))
        actions.append(message)
        current = total + number
    return pb.Op(inputs=inputs.messages(), file=pb.FileOp(actions=actions))


def caps(op: FileOp) -> tuple[str, ...]:
    """What the daemon must be able to do for ``op``."""
    copies = [action for action in op.actions if isinstance(action, CopyAction)]
    found = list(CAPS)
    if any(copy.include or copy.exclude for copy in copies):
        found.append("file.copy.includeexcludepatterns")
    return tuple(found)


def _mkdir(action: MakeDirectoryAction, op: FileOp, base: int) -> pb.FileActionMkDir:
    made = pb.FileActionMkDir(
        path=posixpath.join("/", action.path),
        mode=action.mode,
        make_parents=True,
        timestamp=TIMELESS_NS if op.epoch is None else op.epoch * 10**9,
    )
    if action.owner:
        made.owner.CopyFrom(_owner(action.owner, base))
    return made


def _copy(action: CopyAction, op: FileOp, base: int) -> pb.FileActionCopy:
    symbols = bool(action.chmod) and not action.chmod[0].isdigit()
    copied = pb.FileActionCopy(
        src=action.source,
        dest=action.destination,
        mode=int(action.chmod, 8) if action.chmod and not symbols else _UNSET,
        mode_symbols=action.chmod if symbols else "",
        follow_symlink=action.follow,
        dir_copy_contents=action.contents_only,
        attempt_unpack=action.unpack,
        create_dest_path=True,
        allow_wildcard=action.wildcards,
        allow_empty_wildcard=action.wildcards,
        timestamp=_UNSET if op.epoch is None else op.epoch * 10**9,
        include_patterns=action.include,
        exclude_patterns=action.exclude,
    )
    if action.chown:
        copied.owner.CopyFrom(_owner(action.chown, base))
    return copied


def _owner(spec: str, base: int) -> pb.ChownOpt:
    """``user[:group]``; names are looked up in the base, and a number alone is both."""
    user, _, group = spec.partition(":")
    owner = pb.ChownOpt()
    if user:
        owner.user.CopyFrom(_one(user, base))
    if group:
        owner.group.CopyFrom(_one(group, base))
    elif user.isascii() and user.isdigit():
        owner.group.CopyFrom(_one(user, base))
    return owner


def _one(name: str, base: int) -> pb.UserOpt:
    if name.isascii() and name.isdigit():
        return pb.UserOpt(by_id=int(name))
    return pb.UserOpt(by_name=pb.NamedUserOpt(name=name, input=base))
