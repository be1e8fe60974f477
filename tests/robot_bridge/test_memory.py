"""Bridge and robot in one process, by direct calls under a clock that the test sets."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pytest

from foreact.robot_bridge.topic_names import make_topics
from foreact.robot_bridge.transport_errors import TransportError
from foreact.robot_bridge.transport_memory import MemoryLink
from foreact.robot_bridge.types import CameraFrame, JointSample, RobotMode, State, Trajectory

NAMES = make_topics({}, [("front", 4, 6)], ("a1", "a2"))


class Box:
    """An `Inbox` that keeps everything."""

    def __init__(self) -> None:
        self.got: dict[str, list[Any]] = defaultdict(list)

    def frame(self, frame: CameraFrame) -> None:
        self.got["frame"].append(frame)

    def joints(self, sample: JointSample) -> None:
        self.got["joints"].append(sample)

    def mode(self, mode: RobotMode, received_s: float) -> None:
        self.got["mode"].append((mode, received_s))

    def instruction(self, text: str, received_s: float) -> None:
        self.got["instruction"].append((text, received_s))

    def description(self, urdf: str) -> None:
        self.got["description"].append(urdf)

    def bad_message(self, role: str, message: str, received_s: float) -> None:
        self.got["bad"].append((role, message))

    def command(self, name: str, value: bool) -> tuple[bool, str]:
        self.got["command"].append((name, value))
        return True, "done"


class Clock:
    now = 10.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def setup() -> tuple[MemoryLink, Box, Clock, dict[str, list[Any]]]:
    clock, box, told = Clock(), Box(), defaultdict(list)
    link = MemoryLink(NAMES, clock, epoch_s=1000.0)
    link.transport.start(box)
    link.robot.start(told["trajectory"].append, told["gripper"].append)
    return link, box, clock, told


Setup = tuple[MemoryLink, Box, Clock, dict[str, list[Any]]]


def rest(start_s: float = 10.0) -> Trajectory:
    return Trajectory(
        start_s=start_s, time_from_start_s=np.array([0.1, 0.2]), position=np.ones((2, 2)), velocity=np.zeros((2, 2)),
        acceleration=np.zeros((2, 2)),
    )  # fmt: skip


def test_everything_arrives_at_once_with_the_time_of_the_clock(setup: Setup) -> None:
    link, box, clock, told = setup
    image = np.arange(72, dtype=np.uint8).reshape(4, 6, 3)
    clock.now = 11.0
    link.robot.publish_frame("front", image, 1011.0)
    image[:] = 0  # the sender may use its buffer again
    link.robot.publish_joints([0.1, 0.2], [1.0, 2.0], 0.03, 1011.0)
    link.robot.publish_mode(RobotMode.REFLEX)
    frame, sample = box.got["frame"][0], box.got["joints"][0]
    assert frame.image.ravel().tolist() == list(range(72)) and (frame.received_s, frame.sequence) == (11.0, 0)
    assert sample.position.tolist() == [0.1, 0.2] and (sample.gripper_width_m, sample.received_s) == (0.03, 11.0)
    assert box.got["mode"] == [(RobotMode.REFLEX, 11.0)]
    sent = rest()
    link.transport.send_trajectory(sent)
    sent.position[:] = 9.0
    link.transport.send_gripper(-0.3)
    assert told["trajectory"][0].position.tolist() == [[1, 1], [1, 1]] and told["trajectory"][0].stamp_s == 0.0
    assert told["trajectory"][0].received_s == 11.0 and told["gripper"] == [-1.0]


def test_stamped_trajectories_say_when_they_begin() -> None:
    told: list[Any] = []
    link = MemoryLink(NAMES.model_copy(update={"stamped": True}), Clock(), epoch_s=1000.0)
    link.robot.start(told.append, lambda _: None)
    link.transport.send_trajectory(rest(10.25))
    assert told[0].stamp_s == 1010.25


def test_operators_words_and_buttons(setup: Setup) -> None:
    link, box, _, _ = setup
    link.say(" lift the red block\n")
    link.say("a\x07b")
    assert box.got["instruction"] == [("lift the red block", 10.0)]
    assert box.got["bad"][0][0] == "instruction" and "U+0007" in box.got["bad"][0][1]
    assert link.command("stop") == (True, "done") and box.got["command"] == [("stop", True)]


def test_what_breaks_the_contract_is_refused(setup: Setup) -> None:
    link, box, _, _ = setup
    link.robot.publish_frame("front", np.zeros((6, 4, 3), np.uint8), 1.0)
    link.robot.publish_joints([0.1], [0.0], 0.0, 1.0)
    link.robot.publish_joints([0.1, np.nan], [0.0, 0.0], 0.0, 1.0)
    assert [role for role, _ in box.got["bad"]] == ["camera front", "joints", "joints"]
    assert "6x4" in box.got["bad"][0][1] and "not finite" in box.got["bad"][2][1]
    assert not box.got["frame"] and not box.got["joints"]


def test_the_graph_shows_both_ends_and_rates(setup: Setup) -> None:
    link, _, clock, _ = setup
    link.transport.graph()
    for _ in range(30):
        link.robot.publish_joints([0.0, 0.0], [0.0, 0.0], 0.0, 1.0)
    clock.now += 1.0
    found = {r.role: r for r in link.transport.graph()}
    assert found["joints"].publishers == found["joints"].subscribers == 1
    assert found["joints"].rate_hz == pytest.approx(30.0)
    assert found["trajectory"].publishers == found["trajectory"].subscribers == 1
    link.robot.close()
    found = {r.role: r for r in link.transport.graph()}
    assert found["joints"].publishers == 0 and found["trajectory"].subscribers == 0


def test_nothing_passes_after_closing(setup: Setup) -> None:
    link, box, _, told = setup
    link.transport.close()
    link.transport.send_trajectory(rest())
    link.transport.send_state(State.FAULT, None)
    link.robot.publish_mode(RobotMode.OK)
    link.say("anything")
    assert not told["trajectory"] and not box.got["mode"] and not box.got["instruction"] and not link.sent["state"]
    assert link.command("arm")[0] is False
    with pytest.raises(TransportError, match="new MemoryLink"):
        link.transport.start(box)
