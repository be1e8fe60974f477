"""Looks through a trajectory store for what will spoil a training: `foreact data lint`.

`verify` asks whether the bytes are those that were recorded; this asks whether what was recorded makes sense. Rules are
in the modules `lint_*`; docs/quality.md lists them.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from foreact.datasets.codecs import codec_from_spec
from foreact.datasets.layout import NewerFormat, StoreError
from foreact.datasets.lint_across import ACROSS_RULES, AcrossRule, Brief, brief_of
from foreact.datasets.lint_base import SEVERITIES, EpisodeScan, Finding, Limits, Rule, make_finding, parts, unit
from foreact.datasets.lint_control import CONTROL_RULES
from foreact.datasets.lint_images import IMAGE_RULES, scan_camera
from foreact.datasets.lint_language import LANGUAGE_RULES
from foreact.datasets.lint_state import STATE_RULES
from foreact.datasets.lint_workers import look_at_all
from foreact.datasets.reader import EpisodeReader
from foreact.datasets.store import Store
from foreact.datasets.table import EpisodeInfo
from foreact.vla.contract import Contract

EPISODE_RULES: tuple[Rule, ...] = (*IMAGE_RULES, *STATE_RULES, *CONTROL_RULES, *LANGUAGE_RULES)
DAMAGED = ("damaged", "error", "an episode or a pack cannot be read")
TIMESTAMPS = ("timestamp", "timestamp_s", "timestamps", "time_s")
"""Names of extras that are taken for the time of each frame [s]."""


@dataclass(kw_only=True)
class LintReport:
    """What `lint_store` found."""

    findings: list[Finding] = field(default_factory=list)
    """Errors first, then by episode and rule."""
    episodes: int = 0
    frames: int = 0

    def counts(self) -> dict[str, int]:
        """Severity -> number of findings."""
        found = Counter(finding.severity for finding in self.findings)
        return {severity: found[severity] for severity in SEVERITIES}

    def failed(self, strict: bool = False) -> bool:
        """Whether there are errors, or warnings when strict."""
        return any(f.severity == "error" or (strict and f.severity == "warning") for f in self.findings)

    def of(self, episode: str) -> list[Finding]:
        """The findings of one episode; "" for the store."""
        return [finding for finding in self.findings if finding.episode == episode]


def all_rules() -> list[tuple[str, str, str]]:
    """(name, severity, what it finds) of every rule."""
    rules: list[Rule | AcrossRule] = [*EPISODE_RULES, *ACROSS_RULES]
    return [DAMAGED, *((rule.name, rule.severity, rule.what) for rule in rules)]


def lint_store(
    path: Path | str,
    *,
    episodes: int | None = None,
    limits: Limits | None = None,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> LintReport:
    """Look through a store; nothing is written.

    Args:
        path: Folder of the store.
        episodes: Only the first so many, in the order of names.
        limits: From where on something is reported.
        workers: Processes for stores that are worth it; the report does not depend on it. A script that asks for
            several needs `if __name__ == "__main__":`, as always with processes in Python.
        progress: Called with the number of episodes done so far and in all.

    Raises:
        NoStore, NewerFormat, StoreError: If there is no store, or not one that can be opened, or a process dies.
            Damaged episodes are findings.
    """
    limits = limits or Limits()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the damaged are findings here
        store = Store.open(path)
    report, briefs = LintReport(), list[Brief]()
    for name, why in store.damaged.items():
        report.findings.append(make_finding(DAMAGED[0], "error", name.removeprefix("episodes/"), (None, None, why)))
    numbers = range(len(store) if episodes is None else min(episodes, len(store)))
    for done, seen in enumerate(look_at_all(store, numbers, limits, workers), 1):
        report.findings += seen.findings
        if seen.brief is not None:
            briefs.append(seen.brief)
            report.episodes += 1
            report.frames += seen.brief.info.length
        if progress is not None:
            progress(done, len(numbers))
    for across in ACROSS_RULES:
        report.findings += across.findings(briefs, store.contract, limits)
    order = {severity: number for number, severity in enumerate(SEVERITIES)}
    report.findings.sort(key=lambda f: (order[f.severity], f.episode, f.rule, f.start or 0))
    return report


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What was found in one episode."""

    findings: list[Finding]
    brief: Brief | None
    """For the rules about all episodes; None for an episode that cannot be read."""


def look_at(store: Store, number: int, limits: Limits) -> Seen:
    """Read the episode of that number and try every rule about single episodes.

    Raises:
        NewerFormat: If a later ForeAct wrote it. If it is damaged, that is the finding.
    """
    info = store.index[number]
    try:
        reader = store.reader(info.name)
        scan = scan_episode(reader, info, store.contract, limits)
        brief = brief_of(scan, reader)
    except NewerFormat:
        raise
    except StoreError as error:
        return Seen(findings=[make_finding(DAMAGED[0], "error", info.name, (None, None, str(error)))], brief=None)
    return Seen(findings=[found for rule in EPISODE_RULES for found in rule.findings(scan)], brief=brief)


def scan_episode(reader: EpisodeReader, info: EpisodeInfo, contract: Contract, limits: Limits) -> EpisodeScan:
    """Everything the rules look at, of one episode.

    Raises:
        DamagedEpisode: If a checksum is wrong.
    """
    stored = reader.read(cameras=())
    state = None if stored.state is None else stored.state.astype(np.float64)
    times = next((stored.extras[name] for name in TIMESTAMPS if name in stored.extras), None)
    if times is not None and times.size != info.length:
        times = None
    return EpisodeScan(
        info=info,
        contract=contract,
        limits=limits,
        state=None if state is None else _unwrapped(state, contract),
        stored_state=np.zeros((info.length, 0)) if state is None else state,
        action=None if stored.action is None else stored.action.astype(np.float64),
        timestamps_s=None if times is None else times.reshape(-1).astype(np.float64),
        cameras={camera: scan_camera(reader, camera, limits) for camera in info.cameras},
        still_codec=codec_from_spec(info.codec).group == 1,
    )


def _unwrapped(state: np.ndarray, contract: Contract) -> np.ndarray:
    out = state.copy()
    for part, at in parts(contract.state):
        scale, kind = unit(part)
        if kind == "rad":
            out[:, at] = np.unwrap(state[:, at], axis=0, period=2 * np.pi / scale)
    return out
