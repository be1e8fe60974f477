"""Robot, policy and gate as real processes over DDS: one of them is killed or stopped while the arm moves."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("cyclonedds", reason="needs pip's cyclonedds: pip install '.[robot]'")

from foreact.commands.demo import find_checkpoint
from foreact.commands.robot_kills import BOUND_S, KINDS, Report, Trial, kill_test

DOMAIN = 60 + os.getpid() % 40


def trial(**changes: object) -> Trial:
    good = {"process": "gate", "signal": "SIGKILL", "speed_rad_s": 0.2, "rest_s": 0.25, "after_rad_s": 0.0}
    return Trial(**{**good, "state": "disarmed", **changes})  # type: ignore[arg-type]


def test_a_trial_is_missed_if_the_arm_moves_too_long_or_again_or_might() -> None:
    assert not trial().missed
    assert not trial(state="fault").missed
    assert trial(rest_s=BOUND_S + 0.01).missed
    assert trial(after_rad_s=0.02).missed
    assert all(trial(state=state).missed for state in ("ready", "running", "hold"))
    report = Report([trial(), trial(rest_s=0.4), trial(process="policy", rest_s=0.9)])
    assert report.misses == 1
    rows = [line.split() for line in report.table().splitlines()]
    assert rows[1] == ["gate", "SIGKILL", "2", "0", "0.400", "0.400"]
    assert rows[2] == ["policy", "SIGKILL", "1", "1", "0.900", "0.900"]
    assert report.as_dict()["rows"][2]["missed"] is True


EVENTS = {
    "B8": "{name} of the {process}'s process while the arm moves",
    "B9": "{name} of the {process}'s process: no motion before it is armed again",
}
ANSWERED_BY = {"gate": ("B8", "B9"), "policy": ("B7", "B9")}


def faults(process: str, name: str, n: int) -> list[pytest.MarkDecorator]:
    first, second = ANSWERED_BY[process]
    texts = zip((first, second), EVENTS.values(), strict=True)
    return [pytest.mark.fault(row, n=n, event=text.format(name=name, process=process)) for row, text in texts]


def kills(kinds: tuple[tuple[str, str], ...], n: int, folder: Path) -> None:
    report = kill_test(str(find_checkpoint()), "desk_sim", folder, n, DOMAIN, kinds=kinds)
    assert len(report.trials) == n * len(kinds)
    assert report.misses == 0, report.as_dict()


FEW = (("gate", "SIGKILL"), ("policy", "SIGSTOP"))


@pytest.mark.parametrize("kinds", [pytest.param(FEW, marks=[m for kind in FEW for m in faults(*kind, 1)])])
def test_whoever_dies_the_arm_rests(kinds: tuple[tuple[str, str], ...], tmp_path: Path) -> None:
    kills(kinds, 1, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [pytest.param(kind, id="_".join(kind), marks=faults(*kind, 300)) for kind in KINDS])
def test_whoever_dies_the_arm_rests_300(kind: tuple[str, str], tmp_path: Path) -> None:
    kills((kind,), 300, tmp_path)
