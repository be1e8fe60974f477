"""Chunks through the whole gate, with the policy's answers late, lost, doubled and out of order."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from foreact.robot_bridge.gate_settings import GateSettings
from foreact.robot_bridge.limits import load_limits
from foreact.robot_bridge.replay import ReplaySettings
from foreact.robot_bridge.replay_gate import GateReplayReport, replay_gate
from foreact.robot_bridge.replay_wishes import Recorded, Wandering
from foreact.vla.errors import ForeActError

PANDA = load_limits("panda")


def run(**values: float) -> GateReplayReport:
    settings = ReplaySettings(**values)  # type: ignore[arg-type]
    return replay_gate(Wandering(PANDA, settings.period_s, reach_rad=0.1, seed=settings.seed), PANDA, settings)


def check(report: GateReplayReport) -> None:
    """The arm's motion itself, whatever the network did."""
    assert report.velocity_share <= 0.25 + 1e-6  # speed_fraction
    assert report.acceleration_share <= 1.0
    assert report.step_rad <= 0.25 * max(PANDA.velocity) * 0.01 + 1e-6
    assert report.at_rest_s <= 0.5


def test_a_good_policy_is_never_held() -> None:
    report = run(steps=150, latency_high_s=0.1)
    check(report)
    assert (report.holds, report.faults, report.refused) == (0, 0, 0)
    assert report.running_s > 0.98 * report.simulated_s
    assert report.step_rad > 1e-3


@pytest.mark.fault("B27", n=4, event="1 to 30 % of the policy's answers lost, 50 to 500 ms late")
@pytest.mark.parametrize(("loss", "delay_s"), [(0.01, 0.05), (0.1, 0.15), (0.3, 0.05), (0.3, 0.5)])
def test_lost_and_late_answers_hold_the_arm_and_never_hurry_it(loss: float, delay_s: float) -> None:
    report = run(steps=150, loss=loss, latency_low_s=delay_s, latency_high_s=delay_s + 0.1, seed=3)
    check(report)
    assert report.causes.keys() <= {"late_inference", "exhausted"}
    if delay_s > 0.3:  # every answer is later than two policy steps: the arm never moves
        assert report.running_s == 0.0
        assert report.step_rad == 0.0
    else:
        assert report.running_s > 0.5 * report.simulated_s


@pytest.mark.fault(
    "B12", n=400, event="through the gate: latency 0 to 2 s, reorder, duplicates, loss, new instructions"
)
def test_bad_weather_through_the_gate() -> None:
    report = run(
        steps=400, latency_high_s=2.0, reorder=0.1, duplicate=0.1, loss=0.05, change_every=60, seed=5
    )  # fmt: skip
    check(report)
    assert report.holds > 3
    assert report.refused > 100
    assert 0.0 < report.running_s < 0.6 * report.simulated_s


def test_a_leap_in_the_policys_wishes_is_not_followed() -> None:
    path = np.zeros((60, 7)) + [0.0, -0.4, 0.0, -2.2, 0.0, 1.9, 0.7]
    path[30:, 0] += 0.6
    wishes = Recorded(path, disagreement_rad=0.0)
    report = replay_gate(wishes, PANDA, ReplaySettings(steps=60, latency_high_s=0.05))
    check(report)
    assert report.causes.get("discontinuity", 0) + report.causes.get("out_of_range", 0) >= 1


def test_a_gate_that_cannot_arm_says_why() -> None:
    wishes = Wandering(PANDA, 1 / 7.5)
    with pytest.raises(ForeActError, match="does not arm in a replay: .*topics"):
        replay_gate(wishes, PANDA, ReplaySettings(steps=5), GateSettings(gripper_required=False, require_clock=False))


def test_the_report_is_plain_numbers() -> None:
    found = run(steps=3).as_dict()
    assert found.keys() == {f.name for f in dataclasses.fields(GateReplayReport)}
