"""A whole episode through bridge, gate, controller and arm: what happens when nothing, or little, goes wrong."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from bridge_chain import REST, Script, World, small_robot

from foreact.datasets.store import Store
from foreact.datasets.verify import verify_store
from foreact.robot_bridge import record_session
from foreact.robot_bridge.causes import Cause
from foreact.robot_bridge.observe import Observer
from foreact.robot_bridge.planner_hook import robot_hook
from foreact.robot_bridge.record_bridge import BridgeRecorder
from foreact.robot_bridge.types import State
from foreact.sim.embodiment import desk_contract
from foreact.vla.errors import ForeActError
from foreact.vla.policy import Observation, Plan
from foreact.vla.serving.requests import Anchor


def test_from_warm_up_to_disarmed(tmp_path: Path) -> None:
    world = World(tmp_path)
    assert world.state is State.DISARMED
    world.arm_it()
    world.run(0.5)
    assert world.state is State.READY  # armed, but nobody has said a word
    assert not world.link.sent["trajectory"]
    world.link.say("open the drawer")
    world.until(lambda: world.state is State.RUNNING, 1.0)
    before = world.q
    world.run(4.0)
    assert world.state is State.RUNNING
    assert np.abs(world.q - before).max() > 0.05
    assert world.bridge.command("stop", True, world.now_s)[0]
    world.until(lambda: world.state is State.READY, 1.0)
    world.run(0.15)  # the arm's servo follows its command 37 ms behind
    assert world.speed < REST
    where = world.q
    world.run(2.0)
    np.testing.assert_allclose(world.q, where, atol=2e-3)  # the words that were stopped are not taken up again
    world.link.say("close the drawer")
    world.until(lambda: world.state is State.RUNNING, 1.0)
    world.run(0.5)
    since = world.now_s
    assert world.bridge.command("arm", False, world.now_s) == (True, "disarmed")
    assert world.rest_after(since)[0] <= 0.3
    assert world.state is State.DISARMED
    assert world.robot.counts["alarms"] == 0
    assert world.robot.controller.counts["rejected"] == 0


def test_every_step_is_shown_once_and_every_third_is_planned(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.script.asked.clear()
    world.go(seconds=4.0)
    asked = [(a["step"], a["kind"]) for a in world.script.asked if a["kind"] != "reset" and a["step"] >= 0]
    first = max(i for i, (step, _) in enumerate(asked) if step == 0)
    steps = [step for step, _ in asked[first:]]
    assert steps == list(range(len(steps)))
    assert [kind for _, kind in asked[first:]] == [["plan", "observe", "observe"][step % 3] for step in steps]


def test_the_command_follows_the_policys_targets_at_its_stretched_rate(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.go(seconds=3.0)
    period = world.settings.period_s
    before, now = world.gate.step, world.now_s
    world.run(2.0)
    assert world.gate.step - before == pytest.approx((world.now_s - now) / period, abs=1.01)
    moves = [speed for t, speed, _ in world.moves if t > now]
    # 0.2 rad either way at 0.25 rad per step of 1/6 s: at most 0.2 * 0.25 * 6 rad/s
    assert 0.1 < max(moves) < 0.2 * 0.25 * 6.0 * 1.2


def test_the_gripper_moves_only_while_running(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.arm_it()
    world.run(0.5)
    assert not world.link.sent["gripper"]
    world.link.say("open the drawer")
    world.until(lambda: world.state is State.RUNNING)
    world.run(9.0)
    assert list(world.link.sent["gripper"])[:3] == [1.0, -1.0, 1.0]  # it changes every 20 steps
    world.bridge.command("stop", True, world.now_s)
    count = len(world.link.sent["gripper"])
    world.run(5.0)
    assert len(world.link.sent["gripper"]) == count


def test_after_being_disarmed_the_gripper_is_told_anew(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.go(seconds=0.5)
    assert list(world.link.sent["gripper"]) == [1.0]
    world.bridge.command("arm", False, world.now_s)
    world.run(1.0)  # somebody may have opened or closed it by hand
    world.go("once more", seconds=0.1)
    assert list(world.link.sent["gripper"])[1:] == [world.gate.gripper_command]


def test_a_dry_run_makes_commands_and_sends_none(tmp_path: Path) -> None:
    world = World(tmp_path, dry_run=True)
    where = world.q
    world.arm_it()
    world.link.say("open the drawer")
    world.until(lambda: world.state is State.RUNNING)
    world.run(0.3)
    assert world.bridge.report.sent_count > 5
    assert not world.link.sent["trajectory"]
    assert not world.link.sent["gripper"]
    np.testing.assert_allclose(world.q, where, atol=1e-3)


def test_reasons_known_beforehand_keep_it_from_being_armed(tmp_path: Path) -> None:
    world = World(tmp_path, refusals=("the network is open",))
    assert world.bridge.command("arm", True, world.now_s) == (False, "not armed: the network is open")
    assert world.state is State.DISARMED


def test_an_unknown_command_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    done, sentence = World(tmp_path).bridge.command("dance", True, 0.0)
    assert not done
    assert "arm, disarm, stop" in sentence


@pytest.mark.fault("B18", n=1, event="a second bridge for the same robot is armed while the first one runs")
def test_a_second_bridge_is_refused_and_gets_its_turn_afterwards(tmp_path: Path) -> None:
    one = World(tmp_path)
    one.go()
    two = World(tmp_path)  # the same lease; a body of its own is not needed, it is refused
    done, sentence = two.bridge.command("arm", True, two.now_s)
    assert not done
    assert "another bridge" in sentence
    one.close()
    two.arm_it()
    two.close()


def test_an_operator_is_answered_from_another_thread_by_the_next_tick(tmp_path: Path) -> None:
    world = World(tmp_path)
    found: list[tuple[bool, str]] = []
    caller = threading.Thread(target=lambda: found.append(world.link.command("arm")))
    caller.start()
    for _ in range(2000):
        world.step()
        if found:
            break
    caller.join(2.0)
    assert found == [(True, "armed")]
    assert world.state is State.READY


@pytest.mark.fault("B9", n=1, event="the gate wakes up long after somebody asked it to arm")
def test_arming_that_nobody_waits_for_any_more_is_not_done(tmp_path: Path) -> None:
    world = World(tmp_path)
    assert world.link.command("arm") == (False, "the bridge did not answer in time")  # nobody ticks
    world.run(0.5)
    assert world.state is State.DISARMED
    world.arm_it()
    assert world.link.command("disarm")[0] is False
    world.run(0.05)
    assert world.state is State.DISARMED  # that is always welcome, however late


@pytest.mark.fault("B24", n=5, event="the way from picture to command is measured for every plan and published")
def test_diagnostics_say_once_a_second_what_everybody_does(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.go(seconds=3.0)
    sent = world.link.sent["diagnostics"]
    assert len(sent) == pytest.approx(world.now_s - 1000.0, abs=1.5)
    lines = {line.name.partition(": ")[2]: line for line in sent[-1]}
    assert lines["gate"].message.startswith("running")
    assert lines["policy"].message == "answers"
    assert float(lines["camera rgb_static"].values["rate Hz"]) == pytest.approx(30.0, rel=0.05)
    assert float(lines["policy"].values["inference p50 ms"]) == pytest.approx(80.0, abs=1.0)
    # frame to command: its own age when it is looked at, 80 ms of the policy, then the next tick
    assert 80.0 <= float(lines["policy"].values["camera to command p99 ms"]) <= 80.0 + 33.4 + 20.0
    assert lines["joints"].level == 0


def test_states_are_told_when_they_change_and_once_a_second(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.go(seconds=2.0)
    said = [state for state, _ in world.link.sent["state"]]
    assert said[0] is State.DISARMED
    assert said[-1] is State.RUNNING
    assert said.count(State.RUNNING) == pytest.approx(3, abs=1)


# ---- foresight -------------------------------------------------------------------------------------------------------


def foresee(level: int):
    """A policy that expects its cameras to show one grey level."""

    def change(reply: dict, request) -> dict:
        if request["foresight"]:
            images = {k: v for k, v in request.items() if k.startswith("image/")}
            reply |= {f"foresight/{k.removeprefix('image/')}": np.full_like(v, level) for k, v in images.items()}
        return reply

    return change


@pytest.mark.parametrize(("expected", "warns"), [(160, False), (10, True)])
def test_foresight_that_does_not_come_true_is_a_warning_and_nothing_else(
    tmp_path: Path, expected: int, warns: bool
) -> None:
    world = World(tmp_path, sweep=0.08)
    world.script.change = foresee(expected)
    world.go()
    try:
        for i in range(40):  # the room grows lighter and darker between a plan and the step that it foresees
            world.body.level = 160 if world.body.level == 100 else 100
            world.until(lambda s=world.gate.step + i % 2: world.gate.step > s)
        assert world.state is State.RUNNING, world.tail()
        assert world.bridge.conversation.watch.ratio is not None
        assert world.bridge.conversation.watch.warns is warns
        line = next(line for line in world.link.sent["diagnostics"][-1] if line.name.endswith("foresight"))
        assert line.level == int(warns)
    finally:
        world.body.level = 100


def test_foresight_is_sent_with_the_stamp_of_what_was_looked_at(tmp_path: Path) -> None:
    world = World(tmp_path, latency_s=lambda: 0.15)
    world.script.change = foresee(50)
    stamps: list[float] = []
    world.link.transport.send_foresight = lambda images, stamp_s: stamps.append(world.now_s - stamp_s)  # type: ignore
    world.go(seconds=3.0)
    assert len(stamps) > 3
    assert min(stamps) >= 0.15 - 1e-6


@pytest.mark.fault("B1", n=6, event="foresight or actions in a policy's reply that are no pictures, no actions")
@pytest.mark.parametrize(
    "bad",
    [
        {"foresight/rgb_static": np.zeros((3, 3, 3), np.uint8)},
        {"foresight/rgb_static": "nothing"},
        {"foresight/no_such_camera": np.zeros((24, 32, 3), np.uint8)},
        {"actions": [[1.0], [1.0, 2.0]]},
        {"actions": np.zeros(())},
        {"actions": np.zeros((0, 7))},
    ],
    ids=range(6),
)
def test_a_policys_other_words_cannot_bring_the_bridge_down(tmp_path: Path, bad: dict) -> None:
    world = World(tmp_path)
    world.script.change = lambda reply, _: {**reply, **bad}
    world.go(seconds=2.0)
    world.bridge.conversation.executed_action()
    assert world.state is State.RUNNING


# ---- real actions ----------------------------------------------------------------------------------------------------


class Relative(Script):
    """Relative actions of the desk's contract, solved by the real hook of `foreact serve --robot`."""

    def __init__(self) -> None:
        super().__init__(np.zeros(7))
        self.to_joints = robot_hook("desk_sim")(desk_contract())

    def infer(self, request):
        if request["kind"] != "plan":
            return {}
        steps = request["step"] + np.arange(self.rows)
        actions = np.zeros((1, self.rows, 7), np.float32)
        actions[0, :, 2] = np.where(steps % 24 < 12, 0.4, -0.4)  # 8 mm up, and down again
        actions[0, :, 6] = 1.0
        anchor = Anchor(joint_position=np.array(request["anchor"]), gripper_command=request["gripper_command"])
        found = self.to_joints(
            Observation(images={}, state=np.zeros((1, 1), np.float32), instruction=["up"], slots=[0]),
            Plan(actions=actions), anchor,
        )  # fmt: skip
        return {**found, "actions": actions[0]}


def test_relative_actions_of_the_contract_move_the_tool_as_they_say(tmp_path: Path) -> None:
    world = World(tmp_path, client=Relative())
    world.arm_it()
    world.link.say("up")
    world.until(lambda: world.state is State.RUNNING)
    high = []
    for _ in range(500):
        world.step()
        high.append(world.tool)
    assert world.state is State.RUNNING, world.tail()
    path = np.array(high)
    # 12 steps of 0.4 * 20 mm each way
    assert np.ptp(path[:, 2]) == pytest.approx(12 * 0.008, abs=0.012)
    assert np.ptp(path[:, :2], axis=0).max() < 0.01


def test_actions_of_a_policy_with_another_order_are_kept_as_the_robots_contract_has_them(tmp_path: Path) -> None:
    world = World(tmp_path)
    own = world.settings.contract
    required = own.model_copy(update={"action": (own.action[2], own.action[0], own.action[1])})  # gripper first
    world.bridge.conversation._observer = Observer(world.settings, world.kinematics, required)
    world.script.change = lambda reply, _: {**reply, "actions": np.tile(np.arange(7.0), (10, 1))}
    world.go(seconds=1.0)
    found = world.bridge.conversation.executed_action()
    assert found is not None
    assert found.tolist() == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 0.0]


# ---- recording -------------------------------------------------------------------------------------------------------


def test_what_was_done_is_recorded_in_a_store_that_verifies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = {"s": 1000.0}
    ns = SimpleNamespace(monotonic_ns=lambda: round(clock["s"] * 1e9), time_ns=lambda: round(clock["s"] * 1e9))
    monkeypatch.setattr(record_session, "time", ns)
    store = tmp_path / "store"
    recorder = BridgeRecorder(small_robot(), store)
    world = World(tmp_path, recorder=recorder)

    def run(seconds: float) -> None:
        for _ in range(round(seconds / 0.01)):
            world.step()
            clock["s"] = world.now_s

    clock["s"] = world.now_s
    for words in ("open the drawer", "close the drawer"):
        world.arm_it()
        world.link.say(words)
        run(4.0)
        assert world.state is State.RUNNING, world.tail()
        world.bridge.command("arm", False, world.now_s)
        run(0.5)
        while recorder.ending:  # the disk does not know of the clock of this test
            time.sleep(0.01)
    world.close()
    assert recorder.problems == []
    report = verify_store(store)
    assert not report.problems, report
    found = Store.open(store)
    assert len(found) == 2
    for i, words in enumerate(("open the drawer", "close the drawer")):
        assert found.index[i].instruction == words
        # one frame per policy step of 1/6 s, in 4 s less what it took to begin
        assert 15 <= found.index[i].length <= 24


def test_the_event_log_can_be_read_back(tmp_path: Path) -> None:
    from foreact.robot_bridge.event_log import EventLog

    world = World(tmp_path)
    world.gate.log = EventLog(tmp_path / "events.jsonl")
    world.go()
    world.bridge.close()
    lines = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    states = [line["state"] for line in lines if line["kind"] == "state"]
    assert states == ["ready", "running", "disarmed"]
    assert lines[-1]["cause"] == Cause.OPERATOR


def test_a_recording_that_fails_is_told_and_stops_no_arm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = BridgeRecorder(small_robot(), tmp_path / "store")

    def full(_: str) -> None:
        raise ForeActError("the disk is full")

    monkeypatch.setattr(recorder._recorder, "begin", full)
    world = World(tmp_path, recorder=recorder)
    world.go()
    told = [event.message for event in world.log.last(100) if event.kind == "recording"]
    assert told == ["recording: the disk is full"]
    assert world.state is State.RUNNING
    world.close()
