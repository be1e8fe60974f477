"""`foreact data edit`: an edited copy of a store."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from dataclasses import asdict
from pathlib import Path


def run(
    store: Path,
    out: Path,
    *,
    drop: list[str],
    keep: list[str],
    merge: list[Path],
    relabel: Path | None,
    trim: list[str],
    split: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Write the new store, or say what would be written.

    Raises:
        ConfigError, StoreError, ContractMismatch: As `plan_edit` and `run_edit`.
    """
    from foreact.commands.data import _progress
    from foreact.datasets.edit import run_edit
    from foreact.datasets.edit_plan import EditOptions, plan_edit

    options = EditOptions(
        drop=_names(drop), keep=_names(keep), merge=merge, relabel=relabel, trim=_names(trim), split=split
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a damaged episode that is to be copied is an error here
        plan = plan_edit(store, options)
    splits = Counter(str(step.meta["split"]) for step in plan.steps if "split" in step.meta)
    found: dict = {"episodes": len(plan.steps), "notes": plan.notes, "splits": dict(splits)}
    if not as_json:
        for note in plan.notes:
            print(f"note: {note}")
        if splits:
            print("splits: " + ", ".join(f"{name} {count}" for name, count in sorted(splits.items())))
    if dry_run:
        sources = sum(len(s) for s in plan.stores)
        print(json.dumps(found, indent=2) if as_json else f"would write {len(plan.steps)} of {sources} episodes")
        return
    with _progress("edit") as progress:
        report = run_edit(plan, out, progress)
    if as_json:
        print(json.dumps(found | asdict(report), indent=2))
        return
    text = f"{out}: wrote {report.written} episodes, {report.bytes / 1e6:.2f} MB"
    text += f"; {report.present} were there" if report.present else ""
    text += f"; {report.encoded_again} encoded again" if report.encoded_again else ""
    print(f"{text}; hash {report.hash}")


def _names(texts: list[str]) -> list[str]:
    return [name for text in texts for name in text.split(",") if name]
