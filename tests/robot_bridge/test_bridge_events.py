"""What goes wrong, in the whole chain: who notices, how soon, and how far the tool still goes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from bridge_chain import REST, World

from foreact.robot_bridge.causes import Cause
from foreact.robot_bridge.types import RobotMode, State
from foreact.vla.errors import ForeActError

LED_BACK = 0.1
"""The command of an arm that is held is led back to where it is held at no more than this [rad/s]."""
STOP_S, STOP_M = 0.3, 0.05
"""From the HOLD or FAULT until the arm rests, and the way of the tool meanwhile."""


@dataclass(frozen=True)
class Bad:
    """Something goes wrong while the arm moves."""

    row: str
    event: str
    do: Callable[[World], object]
    cause: Cause
    seen_s: float
    """Within this the arm is told to stop."""
    fault_s: float = np.inf
    """Within this it is a FAULT, if it lasts."""


def camera(name: str, fault: str, amount: float = 0.0) -> Callable[[World], object]:
    return lambda world: world.robot.set_camera_fault(name, fault, amount)


def joints(**values: float) -> Callable[[World], object]:
    return lambda world: [setattr(world.robot.joint_faults, key, value) for key, value in values.items()]


def replies(**values: object) -> Callable[[World], object]:
    return lambda world: setattr(world.script, "change", lambda reply, _: {**reply, **values})


def leads(away: Callable[[np.ndarray], np.ndarray]) -> Callable[[World], object]:
    def do(world: World) -> None:
        world.script.change = lambda reply, _: {**reply, "joint_position": away(reply["joint_position"])}

    return do


def graph(**values: object) -> Callable[[World], object]:
    def do(world: World) -> None:
        asked = world.link.transport.graph
        changed = lambda: [replace(r, **values) if r.role == "camera rgb_static" else r for r in asked()]  # noqa: E731
        world.link.transport.graph = changed  # type: ignore[method-assign]

    return do


def fails(request: object) -> dict:
    raise ForeActError("out of memory")


PERIOD = 1.0 / 6.0
PLAN = 3 * PERIOD
"""Between two plans; a plan takes 80 ms."""
BADS = [
    Bad("B10", "a camera stops", camera("rgb_static", "stop"), Cause.CAMERA_STALE, 0.12, 0.52),
    Bad("B10", "the other camera stops", camera("rgb_gripper", "stop"), Cause.CAMERA_STALE, 0.12, 0.52),
    Bad("B10", "a camera slows to 3 Hz", camera("rgb_static", "slow", 10), Cause.CAMERA_STALE, 0.5),
    Bad("B10", "pictures come 0.3 s late, truly stamped", camera("rgb_static", "delay", 0.3), Cause.CAMERA_STALE, 0.12),
    Bad("B11", "a camera freezes, stamps go on", camera("rgb_static", "freeze"), Cause.CAMERA_FROZEN, 0.3),
    Bad("B10", "one camera lags by 50 ms", camera("rgb_gripper", "stamp", -0.05), Cause.CAMERAS_OUT_OF_SYNC, 0.3),
    Bad("B17", "stamps of a camera 0.2 s ahead", camera("rgb_static", "stamp", 0.2), Cause.STAMPS, 0.12, 0.52),
    Bad("B6", "joint states cease", joints(drop=1.0), Cause.JOINTS_STALE, 0.04, 0.12),
    Bad("B17", "joint states stamped 0.3 s back", joints(stamp_offset_s=-0.3), Cause.STAMPS, 0.04, 0.12),
    Bad("B22", "a joint jams", lambda w: w.robot.block_joint(w.body.joints[int(np.abs(w.script.sweep).argmax())]),
        Cause.LEASH, 2.5),
    Bad("B1", "plans of NaN", leads(lambda q: np.full_like(q, np.nan)), Cause.CHUNK_BAD, PLAN + 0.12),
    Bad("B1", "plans of another arm", leads(lambda q: q[:, :6]), Cause.CHUNK_BAD, PLAN + 0.12),
    Bad("B1", "plans of float32", leads(lambda q: q.astype(np.float32)), Cause.CHUNK_BAD, PLAN + 0.12),
    Bad("B1", "replies without joint targets", replies(joint_position=None), Cause.CHUNK_BAD, PLAN + 0.12),
    Bad("B1", "a policy that cannot solve its own plan", replies(refused="too far"), Cause.CHUNK_BAD, PLAN + 0.12),
    Bad("B13", "a plan leaps by 0.15 rad", leads(lambda q: q + 0.15), Cause.DISCONTINUITY, PLAN + 0.12),
    Bad("B1", "a plan far beyond the joints' range", leads(lambda q: q + 9.0), Cause.OUT_OF_RANGE, PLAN + 0.12),
    Bad("B12", "plans take 0.4 s, more than two periods", lambda w: setattr(w.policy, "latency_s", lambda: 0.4),
        Cause.LATE_INFERENCE, PLAN + 0.36),
    Bad("B12", "no plan comes any more", lambda w: setattr(w.policy, "latency_s", lambda: 60.0), Cause.LATE_INFERENCE,
        PLAN + 0.36),
    Bad("B7", "the policy falls silent (SIGSTOP)", lambda w: setattr(w.policy, "silent_since_s", w.now_s),
        Cause.POLICY_LOST, 0.1, 0.5),
    Bad("B7", "the policy's connection closes (SIGKILL)", lambda w: setattr(w.policy, "lost", True), Cause.POLICY_LOST,
        0.02, 0.5),
    Bad("B7", "the policy fails (out of memory)", lambda w: setattr(w.script, "infer", fails), Cause.POLICY_LOST,
        PLAN + 0.12, PLAN + 0.5),
    Bad("B17", "the clock of stamps jumps by +1 h", lambda w: setattr(w, "offset_s", 3600.0), Cause.CLOCK_JUMP, 0.1),
    Bad("B17", "the clock of stamps jumps by -1 h", lambda w: setattr(w, "offset_s", -3600.0), Cause.CLOCK_JUMP, 0.1),
    Bad("B17", "the clock of stamps jumps by +1 s", lambda w: setattr(w, "offset_s", 1.0), Cause.CLOCK_JUMP, 0.1),
    Bad("B17", "the clock of stamps jumps by -1 s", lambda w: setattr(w, "offset_s", -1.0), Cause.CLOCK_JUMP, 0.1),
    Bad("B18", "somebody else publishes pictures", graph(publishers=2), Cause.DUPLICATE_PUBLISHER, 1.02, 1.02),
    Bad("B19", "a publisher whose QoS does not fit", graph(qos_problem="RELIABILITY"), Cause.QOS_MISMATCH, 1.02, 1.02),
    Bad("B20", "pictures of another size",
        lambda w: w.link.robot.publish_frame("rgb_static", np.zeros((48, 64, 3), np.uint8), w.now_s),
        Cause.IMAGE_CONTRACT, 0.02, 0.02),
    Bad("B5", "another robot describes itself", lambda w: w.link.robot.publish_description("<robot/>"),
        Cause.WRONG_ROBOT, 0.02, 0.02),
    Bad("B15", "emergency stop", lambda w: w.robot.set_mode(RobotMode.EMERGENCY_STOP), Cause.ROBOT_MODE, 0.02, 0.02),
    Bad("B15", "protective stop", lambda w: w.robot.set_mode(RobotMode.PROTECTIVE_STOP), Cause.ROBOT_MODE, 0.02, 0.02),
    Bad("B15", "reflex", lambda w: w.robot.set_mode(RobotMode.REFLEX), Cause.ROBOT_MODE, 0.02, 0.02),
]  # fmt: skip


def undo(world: World) -> None:
    """What a test did to the shared body."""
    world.body.block(None)


def goes_wrong(bad: Bad, folder: Path, number: int) -> tuple[float, float, float]:
    """Let it go wrong at a random moment; when it was seen [s], how long the stop took [s], and how far it went [m]."""
    world = World(folder, number, sweep=0.1, turn=0.45)
    try:
        world.go(seconds=float(np.random.default_rng([16, number]).uniform(0.8, 2.0)))
        # some moment at which the arm moves well: where it rests there is nothing to stop
        world.until(lambda: world.speed > 0.08, 8.0)
        assert world.state is State.RUNNING, world.tail()
        before = world.now_s
        bad.do(world)
        world.until(lambda: world.state in (State.HOLD, State.FAULT), bad.seen_s + 0.011)
        seen_s = world.now_s
        assert world.gate.cause is bad.cause, world.tail()
        if bad.cause is Cause.LEASH:  # no new plan: it would try again as soon as its command is back where it is held
            world.policy.latency_s = lambda: 60.0
        stop_s, far_m = world.rest_after(world.now_s, 1.0, REST if bad.cause is not Cause.LEASH else LED_BACK)
        if bad.fault_s < np.inf:
            world.until(lambda: world.state is State.FAULT, 0.02)
            assert world.hold_s(before, State.FAULT) <= bad.fault_s + 0.011
        return seen_s - before, stop_s, far_m
    finally:
        undo(world)
        world.close()


def all_stop(bad: Bad, folder: Path, trials: int) -> None:
    found = [goes_wrong(bad, folder, number) for number in range(trials)]
    assert max(stop for _, stop, _ in found) <= STOP_S
    assert max(far for _, _, far in found) <= STOP_M


def marked(bads: list[Bad], trials: int) -> list:
    marks = [pytest.mark.fault(b.row, n=trials, event=f"{b.event} (whole chain)") for b in bads]
    return [pytest.param(b, id=b.event.replace(" ", "_"), marks=m) for b, m in zip(bads, marks, strict=True)]


@pytest.mark.fault("B29", n=len(BADS), event="every kind of failure, in the whole chain: the log names its cause")
def test_the_table_has_every_cause_that_a_robot_in_motion_can_give() -> None:
    other = {
        # seen only before the arm is armed
        Cause.START_POSE, Cause.NOT_ALLOWED, Cause.POLICY_SLOW, Cause.POLICY_IDENTITY, Cause.SECOND_BRIDGE,
        Cause.PACKET_LOSS, Cause.TOPIC_MISSING,
        # tests of their own
        Cause.INSTRUCTION_CHANGED, Cause.TICK_LATE, Cause.OPERATOR, Cause.EXHAUSTED, Cause.TOPIC_TYPE,
        # a transport hands on no joint states that could be bad in another way than these
        Cause.JOINTS_BAD, Cause.GRIPPER_SILENT,
    }  # fmt: skip
    assert {bad.cause for bad in BADS} | other == set(Cause)


@pytest.mark.parametrize("bad", marked(BADS, 1))
def test_whatever_goes_wrong_is_seen_in_time_and_the_arm_stops(bad: Bad, tmp_path: Path) -> None:
    all_stop(bad, tmp_path, 1)


@pytest.mark.slow
@pytest.mark.parametrize("bad", marked(BADS, 100))
def test_whatever_goes_wrong_is_seen_in_time_and_the_arm_stops_100(bad: Bad, tmp_path: Path) -> None:
    all_stop(bad, tmp_path, 100)


@pytest.mark.fault(
    "B6", n=4, event="the bridge dies (SIGKILL) at a random moment: the arm stops by itself (whole chain)"
)
@pytest.mark.parametrize("number", range(4))
def test_the_arm_needs_nobody_to_stop(number: int, tmp_path: Path) -> None:
    world = World(tmp_path, number, sweep=0.1, turn=0.45)
    world.go(seconds=1.0 + 0.13 * number)
    world.until(lambda: world.speed > 0.08, 8.0)
    world.bridge_runs = False
    stop_s, far_m = world.rest_after(world.now_s)
    assert stop_s <= STOP_S
    assert far_m <= STOP_M


@pytest.mark.fault(
    "B9", n=6, event="the bridge is stopped and goes on (SIGSTOP, SIGCONT, suspend): no motion without re-arm"
)
@pytest.mark.parametrize("asleep_s", [0.6, 0.8, 1.2, 2.0, 5.0, 60.0])
def test_a_bridge_that_slept_does_not_go_on(asleep_s: float, tmp_path: Path) -> None:
    world = World(tmp_path)
    world.go(seconds=1.0)
    world.bridge_runs = False
    world.run(asleep_s)
    where, world.bridge_runs = world.q, True
    world.run(5.0)
    assert world.state is State.FAULT
    assert world.gate.cause is Cause.TICK_LATE
    np.testing.assert_allclose(world.q, where, atol=2e-3)
    world.link.say("go on")
    world.run(1.0)
    assert world.state is State.FAULT


@pytest.mark.fault("B28", n=3, event="ticks that are 0.1 to 0.4 s late: counted, HOLD, and on again from rest")
@pytest.mark.parametrize("late_s", [0.1, 0.2, 0.4])
def test_a_bridge_that_was_late_holds_and_goes_on(late_s: float, tmp_path: Path) -> None:
    world = World(tmp_path)
    world.go(seconds=1.0)
    world.bridge_runs = False
    world.run(late_s)
    world.bridge_runs, since = True, world.now_s
    world.step()
    assert world.state is State.HOLD
    assert world.gate.late_ticks == 1
    world.until(lambda: world.state is State.RUNNING, 2.0)
    before = world.bridge.gate.log.last(1)[0].at_s
    assert min(speed for t, speed, _ in world.moves if since < t < before) <= REST


@pytest.mark.fault(
    "B15", n=30, event="an emergency stop is released: FAULT stays, nothing is sent, nothing moves (whole chain)"
)
@pytest.mark.parametrize("mode", [RobotMode.EMERGENCY_STOP, RobotMode.PROTECTIVE_STOP, RobotMode.REFLEX])
def test_release_of_an_emergency_stop_moves_nothing(mode: RobotMode, tmp_path: Path) -> None:
    emergency_stops(mode, tmp_path, 10)


@pytest.mark.slow
@pytest.mark.fault(
    "B15", n=102, event="an emergency stop is released: FAULT stays, nothing is sent, nothing moves (whole chain)"
)
@pytest.mark.parametrize("mode", [RobotMode.EMERGENCY_STOP, RobotMode.PROTECTIVE_STOP, RobotMode.REFLEX])
def test_release_of_an_emergency_stop_moves_nothing_102(mode: RobotMode, tmp_path: Path) -> None:
    emergency_stops(mode, tmp_path, 34)


def emergency_stops(mode: RobotMode, folder: Path, trials: int) -> None:
    world, rng = World(folder, sweep=0.05), np.random.default_rng(15)
    for _ in range(trials):
        world.go(seconds=float(rng.uniform(0.1, 0.6)))
        world.robot.set_mode(mode)
        sent = world.bridge.report.sent_count
        world.step()
        assert world.state is State.FAULT
        world.run(0.3)
        where = world.q
        world.robot.set_mode(RobotMode.OK)
        world.link.say("go on")
        world.run(0.5)
        assert world.bridge.report.sent_count == sent
        np.testing.assert_allclose(world.q, where, atol=1e-3)
        assert not world.bridge.command("arm", True, world.now_s)[0]  # a FAULT is first acknowledged
        world.bridge.command("arm", False, world.now_s)
        world.run(0.3)


@pytest.mark.fault("B16", n=20, event="new words while the arm moves and old plans are on their way (whole chain)")
def test_after_new_words_nothing_old_is_done(tmp_path: Path) -> None:
    instruction_changes(tmp_path, 20)


@pytest.mark.slow
@pytest.mark.fault("B16", n=200, event="new words while the arm moves and old plans are on their way (whole chain)")
def test_after_new_words_nothing_old_is_done_200(tmp_path: Path) -> None:
    instruction_changes(tmp_path, 200)


def instruction_changes(folder: Path, trials: int) -> None:
    rng = np.random.default_rng(200)
    world = World(folder, sweep=0.05, latency_s=lambda: float(rng.uniform(0.02, 0.3)))
    world.go("task 0")
    for i in range(1, trials + 1):
        world.until(lambda: world.state is State.RUNNING, 8.0)
        world.run(float(rng.uniform(0.05, 0.7)))
        if world.state is not State.RUNNING:  # a plan came late just then
            world.until(lambda: world.state is State.RUNNING, 8.0)
        asked, since = len(world.script.asked), world.now_s
        sent: list[float | None] = []
        to_robot = world.link.transport.send_trajectory

        def hear(trajectory, sent=sent, to_robot=to_robot) -> None:
            sent.append(trajectory.observed_s)
            to_robot(trajectory)

        world.link.transport.send_trajectory = hear  # type: ignore[method-assign]
        world.link.say(f"task {i}")
        world.step()
        assert world.state is State.HOLD
        assert world.gate.cause is Cause.INSTRUCTION_CHANGED
        world.until(lambda: world.state is State.RUNNING, 8.0)
        world.run(0.1)
        world.link.transport.send_trajectory = to_robot  # type: ignore[method-assign]
        assert all(observed is None or observed >= since for observed in sent)
        assert sent[0] is None  # the first is the stop
        after = world.script.asked[asked:]
        assert after[0]["kind"] == "reset"
        assert {a["prompt"] for a in after if a["kind"] != "reset"} == {f"task {i}"}
    world.close()


@pytest.mark.fault("S18", n=4, event="instructions that are empty, too long, or no text (whole chain)")
@pytest.mark.parametrize("text", ["", "x" * 513, "\x00", b"open"])
def test_bad_instructions_change_nothing(text: object, tmp_path: Path) -> None:
    world = World(tmp_path)
    world.go(seconds=0.5)
    words = world.bridge.conversation.words_id
    world.link.say(text)
    world.run(0.5)
    assert world.bridge.conversation.words_id == words
    assert world.state is State.RUNNING


@pytest.mark.fault("B10", n=2, event="no inference is run on a picture older than the bound")
@pytest.mark.parametrize("name", ["rgb_static", "rgb_gripper"])
def test_nothing_is_asked_about_old_pictures(name: str, tmp_path: Path) -> None:
    world = World(tmp_path)
    world.go(seconds=1.0)
    world.robot.set_camera_fault(name, "stop")
    world.run(0.11)
    asked = len(world.script.asked)
    world.run(3.0)
    assert len(world.script.asked) == asked


@pytest.mark.fault("B10", n=1, event="cameras out of sync for a moment only: HOLD, and on again")
def test_cameras_that_agree_again_let_the_arm_go_on(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.go(seconds=1.0)
    world.robot.set_camera_fault("rgb_gripper", "stamp", -0.05)
    world.until(lambda: world.state is State.HOLD, 1.0)
    world.run(0.5)
    world.robot.set_camera_fault("rgb_gripper")
    world.until(lambda: world.state is State.RUNNING, 2.0)


def test_a_chunk_that_runs_out_stops_the_arm(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.go(seconds=1.0)
    world.script.rows = 3  # as many as are executed: nothing is left while the next plan is made
    world.until(lambda: world.state is State.HOLD, 2.0)
    assert world.gate.cause is Cause.EXHAUSTED


@pytest.mark.fault(
    "B21", n=2, event="the server states another checkpoint or contract than the robot file (whole chain)"
)
@pytest.mark.parametrize("name", ["checkpoint", "contract_hash"])
def test_a_robot_file_can_insist_on_one_policy(name: str, tmp_path: Path) -> None:
    from bridge_chain import small_robot

    world = World(tmp_path, robot=small_robot(gate={"identity": {name: "d" * 64}}))
    done, sentence = world.bridge.command("arm", True, world.now_s)
    assert not done
    assert name in sentence


@pytest.mark.fault("B14", n=1, event="a policy whose inferences are too slow is not armed (whole chain)")
def test_a_policy_that_is_too_slow_is_not_armed(tmp_path: Path) -> None:
    world = World(tmp_path, latency_s=lambda: 0.45)  # of 0.5 s between plans; 0.4 s are allowed
    done, sentence = world.bridge.command("arm", True, world.now_s)
    assert not done
    assert "450 ms" in sentence
