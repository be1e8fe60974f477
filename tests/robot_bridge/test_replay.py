"""The scheduler under latency, loss, reorder and duplicates: nothing stale, no seam; and the replay would see one."""

from __future__ import annotations

import numpy as np
import pytest

from foreact.robot_bridge import replay as replay_module
from foreact.robot_bridge.limits import load_limits
from foreact.robot_bridge.replay import ReplayReport, ReplaySettings, replay
from foreact.robot_bridge.replay_wishes import Recorded, Wandering
from foreact.robot_bridge.schedule_path import Fade
from foreact.robot_bridge.scheduler import Refusal, Scheduler, SchedulerSettings
from foreact.vla.errors import ConfigError

PANDA = load_limits("panda")
ACCELERATION = np.array(PANDA.acceleration)
MODES = ("replace", "frozen_prefix", "ensemble")


def run(mode: str, *, late_steps: float = 2.0, **values: float) -> ReplayReport:
    settings = ReplaySettings(**values)  # type: ignore[arg-type]
    scheduler = SchedulerSettings(mode=mode, late_steps=late_steps, acceleration=PANDA.acceleration)  # type: ignore[arg-type]
    return replay(Wandering(PANDA, settings.period_s, seed=settings.seed), scheduler, settings, ACCELERATION)


def check(report: ReplayReport, acceleration_share: float = 1.0) -> None:
    """B12 and B13."""
    assert report.stale == 0
    assert report.seam_rad <= 1e-9  # of 5e-3
    assert report.seam_rad_s <= 1e-9
    assert report.acceleration_share <= acceleration_share
    assert report.accepted + sum(report.refused.values()) == report.arrived


@pytest.mark.fault("B13", n=1000, event="seam between chunks at random latency")
@pytest.mark.parametrize("mode", MODES)
def test_seams_are_smooth_at_the_latency_of_a_good_policy(mode: str) -> None:
    report = run(mode, steps=400, latency_high_s=0.25)
    check(report)
    assert report.seams > 330
    assert report.underruns == 0
    assert report.latency_p50_s == pytest.approx(0.125, abs=0.03)


@pytest.mark.fault("B12", n=3000, event="latency 0 to 2 s, 10 % reordered, 10 % twice, 5 % lost, new instructions")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("late_steps", [2.0, 20.0])
def test_nothing_stale_is_executed_in_bad_weather(mode: str, late_steps: float) -> None:
    report = run(
        mode, steps=700, late_steps=late_steps, latency_high_s=2.0, reorder=0.1, duplicate=0.1, loss=0.05,
        change_every=80, seed=1,
    )  # fmt: skip
    # Soft-masked rows of chunks that are seconds old may step more than the arm can; the gate's limiter rounds that.
    check(report, acceleration_share=1.5 if mode == "frozen_prefix" and late_steps > 2 else 1.0)
    assert report.executed > (100 if late_steps > 2 else 10)
    assert {"duplicate", "overtaken", "other_instruction"} <= report.refused.keys()
    assert ("late" in report.refused) == (late_steps == 2.0)
    assert report.underruns > 0


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.fault("B12", n=100_000, event="latency 0 to 2 s, 10 % reordered, 10 % twice, 5 % lost, new instructions")
@pytest.mark.parametrize("mode", MODES)
def test_nothing_stale_is_executed_in_a_hundred_thousand_rows(mode: str) -> None:
    executed, seed = 0, 0
    while executed < 34_000:
        report = run(
            mode, steps=6000, late_steps=20.0, tick_s=0.03, latency_high_s=2.0, reorder=0.1, duplicate=0.1, loss=0.05,
            change_every=200, seed=seed,
        )  # fmt: skip
        check(report, acceleration_share=np.inf)  # ticks of 30 ms see more of a bend than the bound is for
        executed, seed = executed + report.executed, seed + 1


def test_a_replay_repeats_exactly() -> None:
    assert run("replace", steps=60, reorder=0.2).as_dict() == run("replace", steps=60, reorder=0.2).as_dict()


def test_nothing_moves_if_nothing_arrives() -> None:
    report = run("replace", steps=50, loss=1.0)
    assert (report.arrived, report.executed, report.seams) == (0, 0, 0)
    assert report.standing_s == pytest.approx(report.simulated_s, abs=0.02)


def test_the_plan_runs_out_when_the_policy_is_asked_too_seldom() -> None:
    assert run("replace", steps=200, plan_every=9, latency_high_s=0.1).underruns == 0
    assert run("replace", steps=200, plan_every=12, latency_high_s=0.1).underruns > 10


def test_a_recorded_path_is_followed() -> None:
    path = np.cumsum(np.random.default_rng(0).normal(size=(80, 7)) * 0.002, axis=0)
    settings = ReplaySettings(steps=100, latency_high_s=0.1)
    wishes = Recorded(path, disagreement_rad=0.0)
    report = replay(wishes, SchedulerSettings(acceleration=PANDA.acceleration), settings, ACCELERATION)
    check(report)
    assert report.executed > 90


# --- that it would be seen: schedulers with a fault each --------------------------------------------------------------


class _TakesAnything(Scheduler):
    """Does not ask how old a chunk is, or whether it came before."""

    def _judge(self, chunk, now):
        return None if chunk.step <= now else Refusal.FROM_THE_FUTURE


class _SkipsByTheClock(Scheduler):
    """Skips the rows whose time has passed, executed or not."""

    def executed(self, since, until):
        return max(0.0, until - since)


class _ForgetsTheFlush(Scheduler):
    """Goes on with the old instruction."""

    def flush(self, step_now=None, instruction_id=None):
        self._instruction = None


@pytest.mark.parametrize("faulty", [_TakesAnything, _SkipsByTheClock, _ForgetsTheFlush])
def test_a_scheduler_that_executes_stale_rows_is_found_out(faulty: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_module, "Scheduler", faulty)
    report = run("replace", steps=400, late_steps=20.0, latency_high_s=1.5, reorder=0.1, duplicate=0.1, change_every=60)
    assert report.stale > 0


def test_a_switch_without_a_blend_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Fade, "at", lambda self, time: None)
    report = run("replace", steps=100)
    assert report.seam_rad > 1e-3
    assert report.acceleration_share > 1.0


@pytest.mark.parametrize(
    "values",
    [{"steps": 0}, {"loss": 1.5}, {"latency_low_s": 2.0, "latency_high_s": 1.0}, {"tick_s": 1.0}, {"period_s": 0.0}],
)
def test_a_wrong_setting_is_named(values: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"replay: (steps|loss|latency_high_s|tick_s|period_s) must be in"):
        ReplaySettings(**values)  # type: ignore[arg-type]


def test_a_path_that_is_none_is_refused() -> None:
    for bad in (np.zeros(7), np.zeros((1, 7)), np.full((3, 7), np.nan)):
        with pytest.raises(ConfigError, match="recorded path"):
            Recorded(bad)
