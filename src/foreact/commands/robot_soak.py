"""Robot, policy and gate in real time for long: what grows, what comes late, what stops for good."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from foreact.commands.robot_demo import open_operator
from foreact.commands.robot_processes import Stand
from foreact.robot_bridge.operator import NoBridge, Operator

_EACH_S = 30.0
_SAMPLE_S = 5.0
_SETTLED = 0.2
"""Part of the time that is left out of the slopes: what is loaded on first use."""
_JUDGE_S = 1800.0
"""Slopes of shorter runs say nothing."""
MIB_PER_HOUR = 1.0
POLICY_CAUSES = ("chunk_bad", "out_of_range", "discontinuity", "leash")
"""What a gate answers by stopping for good because the policy, or what it touches, wants it so."""


@dataclass
class Report:
    """What was seen."""

    seconds: float = 0.0
    instructions: int = 0
    not_armed: list[str] = field(default_factory=list)
    holds: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    memory: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    """Process -> (seconds, resident memory [MiB])."""
    files: dict[str, list[int]] = field(default_factory=dict)
    """Process -> open files."""
    loop: dict[str, str] = field(default_factory=dict)
    """What the gate's diagnostics say of its loop, at the end."""

    def slope(self, process: str) -> float:
        """Growth of memory [MiB/h]."""
        points = np.array([p for p in self.memory[process] if p[0] >= _SETTLED * self.seconds])
        return float(3600.0 * np.polyfit(points[:, 0], points[:, 1], 1)[0]) if len(points) > 2 else float("nan")

    def late(self) -> int:
        """Ticks of the gate that began more than 50 ms late."""
        return int(self.loop.get("late", "0"))

    def problems(self) -> list[str]:
        """Sentences; none if all was well."""
        found = [f"{n} times FAULT: {cause}" for cause, n in self.faults.items() if cause not in POLICY_CAUSES]
        found += [f"not armed: {sentence}" for sentence in self.not_armed]
        found += [f"{self.late()} ticks began more than 50 ms late"] if self.late() else []
        found += [] if "late" in self.loop else ["the gate said nothing about its loop"]
        for process, counts in self.files.items():
            settled = counts[int(_SETTLED * len(counts)) :]
            if settled and settled[-1] > max(settled[: max(1, len(settled) // 2)]):
                found.append(f"{process}: open files grew from {settled[0]} to {settled[-1]}")
        if self.seconds >= _JUDGE_S:
            found += [
                f"{process}: memory grew by {self.slope(process):.2f} MiB/h"
                for process in self.memory
                if not self.slope(process) <= MIB_PER_HOUR
            ]
        return found

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "seconds": self.seconds, "instructions": self.instructions, "not_armed": self.not_armed,
            "holds": dict(self.holds), "faults": dict(self.faults), "loop": self.loop,
            "memory_mib_per_hour": {p: self.slope(p) for p in self.memory},
            "memory": self.memory,
            "open_files": self.files,
            "problems": self.problems(),
        }  # fmt: skip

    def table(self) -> str:
        """For people."""
        lines = [f"{self.seconds / 60:.1f} minutes, {self.instructions} instructions"]
        for process, points in self.memory.items():
            counts = self.files[process]
            lines.append(
                f"  {process:7} {points[0][1]:6.0f} to {points[-1][1]:6.0f} MiB ({self.slope(process):+.2f} MiB/h), "
                f"open files {counts[0]} to {counts[-1]}"
            )
        lines.append(f"  HOLDs {dict(self.holds) or 0}, FAULTs {dict(self.faults) or 0}; gate's loop {self.loop}")
        return "\n".join([*lines, *(self.problems() or ["nothing grew, nothing was late, nothing stopped for good"])])


def soak_test(
    checkpoint: str, robot: str, out: Path, seconds: float, domain_id: int, *,
    say: Callable[[str], None] = lambda _: None,
) -> Report:  # fmt: skip
    """Let it run for so long.

    Raises:
        ForeActError: If a process ends.
    """
    from foreact.sim.language import validation_instruction
    from foreact.sim.tasks import FIXTURE_TASKS

    report = Report()
    with Stand(checkpoint, robot, out, domain_id=domain_id) as stand:
        person = open_operator(stand)
        began = sampled = time.monotonic()
        try:
            turn = began - _EACH_S
            while (now := time.monotonic()) - began < seconds:
                if now - turn >= _EACH_S:
                    turn, task = now, FIXTURE_TASKS[report.instructions % len(FIXTURE_TASKS)]
                    _begin(stand, person, report, task, validation_instruction(task))
                if now - sampled >= _SAMPLE_S:
                    sampled = now
                    _sample(stand, report, now - began)
                    say(f"{now - began:6.0f} s: HOLDs {report.holds.total()}, FAULTs {report.faults.total()}")
                if _listen(stand, report):
                    turn = -_EACH_S  # the policy had its way, and the gate ended it: on to the next words
            with suppress(NoBridge):
                person.command("arm", False)
        finally:  # hours are not lost because somebody ends it, or a process does
            report.seconds = time.monotonic() - began
            report.loop = _loop(person)
            (out / "soak.json").write_text(json.dumps(report.as_dict(), indent=2) + "\n")
            person.close()
    return report


def _begin(stand: Stand, person: Operator, report: Report, task: str, words: str) -> None:
    with suppress(NoBridge):  # what it does not answer now it is asked again below
        person.command("arm", False)
    stand.children["robot"].ask({"do": "reset", "task": task, "start": report.instructions % 10})
    time.sleep(1.0)
    done, sentence = person.arm(5.0)
    if not done:
        report.not_armed.append(sentence)
        return
    report.instructions += 1
    person.say(words)


def _listen(stand: Stand, report: Report) -> bool:
    """Whether the gate stopped for good because of the policy."""
    ended = False
    line = stand.children["gate"].next(0.2)
    if line is not None and line.get("kind") == "state" and line["state"] in ("hold", "fault"):
        (report.holds if line["state"] == "hold" else report.faults)[str(line["cause"])] += 1
        ended = line["state"] == "fault" and line["cause"] in POLICY_CAUSES
    for name in ("robot", "policy"):
        stand.children[name].check()
        while stand.children[name].next(0.0) is not None:
            pass
    return ended


def _sample(stand: Stand, report: Report, at_s: float) -> None:
    for name, child in stand.children.items():
        child.check()  # of one that has ended there is nothing to read
        folder = Path(f"/proc/{child.process.pid}")
        fields = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines() if ":" in line)
        report.memory.setdefault(name, []).append((at_s, int(fields["VmRSS"].split()[0]) / 1024))
        report.files.setdefault(name, []).append(len(list((folder / "fd").iterdir())))


def _loop(person: Operator) -> dict[str, str]:
    statuses = [] if person.diagnostics is None else person.diagnostics.status
    found = [status for status in statuses if status.name.endswith(": loop")]
    return {pair.key: pair.value for status in found for pair in status.values}
