"""``polyarch build --dry-run``: the plan, with the reason for every step, and nothing run."""

from __future__ import annotations

import sys

from polyarch.cli.build import made_by
from polyarch.pipeline import preview
from polyarch.request import BuildRequest


def show(request: BuildRequest) -> int:
    """Print every step: its name, whether it is cached and, if not, why; then how each platform is made."""
    plan, steps = preview(request)
    for name, how, verdict in steps:
        note = f"{how}; {verdict}" if how else verdict
        print(f"{name.splitlines()[0]}\n    {note}")
    print()
    for target in plan.targets:
        share = plan.share_of(target)
        made = made_by(plan.strategy(target), share.node, share.reason(target.platform))
        print(f"{target.platform!s:<16} {made}")
    for share in plan.shares:
        if share.silent:
            print(f"warning: {share.silent}; it is planned by what was declared", file=sys.stderr)
    print("nothing was run", file=sys.stderr)
    return 0
