"""The results folder of an evaluation: each rollout is on disk as soon as it is done, and a rerun goes on there."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from foreact.vla.errors import ForeActError
from foreact.vla.files import drop_unfinished_line
from foreact.vla.results import Record, read_chains, read_rollouts

_ELSEWHERE = "choose another folder by out=DIR"


class EvaluationError(ForeActError):
    """An evaluation cannot begin, go on or finish."""


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """One line per key that differs, nested keys joined by dots."""
    flat = [dict(_flatten(side)) for side in (before, now)]
    return [
        f"{key}: {flat[0].get(key, '(absent)')} there, {flat[1].get(key, '(absent)')} now"
        for key in sorted({*flat[0], *flat[1]})
        if flat[0].get(key) != flat[1].get(key)
    ]


def _flatten(value: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, item in value.items():
        rows += _flatten(item, f"{prefix}{key}.") if isinstance(item, dict) else [(prefix + key, item)]
    return rows


class EvaluationFolder:
    """One evaluation's files; use it in a `with`. Only one process may have it open."""

    def __init__(self, path: Path, identity: dict[str, Any], *, resume: bool, chains: bool = False) -> None:
        """Open or begin.

        Args:
            path: The folder; made when missing.
            identity: Everything that a rollout's outcome depends on. A folder begun with another one is refused.
            chains: Whether its records are chains (`chains.jsonl`) or rollouts of single tasks (`rollouts.jsonl`).
            resume: Whether rollouts that are already there count; if not, a folder that has some is refused.

        Raises:
            EvaluationError: If it cannot be written, is in use, or belongs to an evaluation with other settings.
            ResultsError: If its records are damaged.
        """
        self.path = path
        self._file: TextIO | None = None
        self._chains = chains
        self._records_path = path / ("chains.jsonl" if chains else "rollouts.jsonl")
        identity = json.loads(json.dumps(identity))
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._file = self._records_path.open("a", encoding="utf-8")
        except OSError as error:
            raise EvaluationError(f"cannot write results to {path}: {error.strerror}; {_ELSEWHERE}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise EvaluationError(f"another evaluation is writing to {path}; {_ELSEWHERE}") from error
        try:
            self.records = self._earlier(identity, resume)
        except ForeActError:
            self._file.close()
            raise

    def _earlier(self, identity: dict[str, Any], resume: bool) -> list[Record]:
        settings = self.path / "settings.json"
        drop_unfinished_line(self._records_path)
        records: list[Record] = [*(read_chains if self._chains else read_rollouts)(self._records_path)]
        if not records:
            settings.write_text(json.dumps(identity, indent=2) + "\n")
            return []
        if not resume:
            raise EvaluationError(
                f"{self.path} already holds {len(records)} rollouts and resume=false; "
                "delete the folder or choose another one by out=DIR"
            )
        try:
            before = json.loads(settings.read_text())
        except (OSError, ValueError) as error:
            raise EvaluationError(f"{settings} cannot be read ({error}); {_ELSEWHERE}") from error
        changed = differences(before, identity)
        if changed:
            lines = "\n".join(f"  - {line}" for line in changed)
            raise EvaluationError(
                f"{self.path} holds {len(records)} rollouts of an evaluation with other settings:\n{lines}\n"
                "Use the same settings to go on with it, or choose another folder by out=DIR."
            )
        return records

    def add(self, record: Record) -> None:
        """Write one finished rollout."""
        assert self._file is not None
        self._file.write(record.model_dump_json() + "\n")
        self._file.flush()
        self.records.append(record)

    def __enter__(self) -> EvaluationFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._file is not None
        self._file.close()
