"""`foreact data lint`: look for what will spoil a training."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import typer

SHOWN_PER_RULE = 20


def run(store: Path, *, episodes: int | None, strict: bool, as_json: bool, workers: int | None = None) -> None:
    """Print the findings; exit status 1 on errors, and on warnings when strict. As many processes as cores by default.

    Raises:
        StoreError: If there is no store that can be opened.
    """
    from foreact.commands.data import _progress
    from foreact.datasets.lint import lint_store
    from foreact.datasets.lint_workers import cores

    with _progress("lint") as progress:
        report = lint_store(store, episodes=episodes, workers=workers or cores(), progress=progress)
    failed = report.failed(strict)
    if as_json:
        found = {"ok": not failed, "counts": report.counts(), "episodes": report.episodes, "frames": report.frames}
        print(json.dumps(found | {"findings": [asdict(finding) for finding in report.findings]}, indent=2))
    else:
        shown: Counter[str] = Counter()
        for finding in report.findings:
            shown[finding.rule] += 1
            if shown[finding.rule] <= SHOWN_PER_RULE:
                print(finding)
        for rule, count in shown.items():
            if count > SHOWN_PER_RULE:
                print(f"{rule}: {count - SHOWN_PER_RULE} more; --json prints all")
        counts = ", ".join(f"{count} {severity}s" for severity, count in report.counts().items())
        print(f"{store}: {report.episodes} episodes, {report.frames} frames: {counts}")
    if failed:
        raise typer.Exit(1)
