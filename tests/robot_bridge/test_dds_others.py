"""Others on the bridge's topics: operators are answered, rivals and misfits are named in time, nonsense is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from foreact.robot_bridge.network import NetworkScope
from foreact.robot_bridge.topic_names import make_topics
from foreact.robot_bridge.types import (
    CameraFrame,
    JointSample,
    RobotMode,
    State,
    TopicReport,
)

pytest.importorskip("cyclonedds", reason="needs cyclonedds: pip install '.[robot]'")

from foreact.robot_bridge.dds_transport import DdsRobotSide, DdsTransport

SCOPE = NetworkScope(domain_id=102 + os.getpid() % 100)
NAMES = make_topics({}, [("front", 48, 64), ("wrist", 24, 32)], ("a1", "a2"), ("f1", "f2"))


class Box:
    """An `Inbox` that keeps everything."""

    def __init__(self) -> None:
        self.got: dict[str, list[Any]] = defaultdict(list)

    def frame(self, frame: CameraFrame) -> None:
        self.got[frame.camera].append(frame)

    def joints(self, sample: JointSample) -> None:
        self.got["joints"].append(sample)

    def mode(self, mode: RobotMode, received_s: float) -> None:
        self.got["mode"].append(mode)

    def instruction(self, text: str, received_s: float) -> None:
        self.got["instruction"].append(text)

    def description(self, urdf: str) -> None:
        self.got["description"].append(urdf)

    def bad_message(self, role: str, message: str, received_s: float) -> None:
        self.got["bad"].append((role, message))

    def command(self, name: str, value: bool) -> tuple[bool, str]:
        self.got["command"].append((name, value, threading.current_thread().name))
        return name != "arm", f"{name} was heard"


def until(what: Callable[[], object], seconds: float = 5.0) -> float:
    """How long it took until `what` was true."""
    began = time.monotonic()
    while not what():
        assert time.monotonic() - began < seconds, "it did not happen"
        time.sleep(0.01)
    return time.monotonic() - began


@pytest.fixture
def box() -> Box:
    return Box()


@pytest.fixture
def bridge(box: Box) -> Iterator[DdsTransport]:
    made = DdsTransport(NAMES, SCOPE, hardware_id="panda")
    made.start(box)
    yield made
    made.close()


@pytest.fixture
def robot(bridge: DdsTransport) -> Iterator[tuple[DdsRobotSide, dict[str, list[Any]]]]:
    told: dict[str, list[Any]] = defaultdict(list)
    made = DdsRobotSide(NAMES, SCOPE)
    made.start(told["trajectory"].append, told["gripper"].append, lambda role, text: told["bad"].append((role, text)))
    until(lambda: report(bridge, "trajectory").subscribers == 1 and report(bridge, "camera front").publishers == 1)
    yield made, told
    made.close()


def report(bridge: DdsTransport, role: str) -> TopicReport:
    return next(r for r in bridge.graph() if r.role == role)


class Other:
    """A participant of someone else: writers and readers with any QoS, messages as text of `rosbags`."""

    def __init__(self) -> None:
        from cyclonedds.domain import DomainParticipant

        self.participant = DomainParticipant(SCOPE.domain_id)
        self.kept: list[Any] = []

    def topic(self, name: str, kind: str, prefix: str = "rt") -> Any:
        from cyclonedds.topic import Topic

        from foreact.robot_bridge.dds_types import idl_type

        return Topic(self.participant, prefix + name, idl_type(kind))

    def writer(self, name: str, kind: str, *policies: Any, prefix: str = "rt") -> Any:
        from cyclonedds.pub import DataWriter
        from cyclonedds.qos import Qos

        self.kept.append(DataWriter(self.participant, self.topic(name, kind, prefix), Qos(*policies)))
        return self.kept[-1]

    def reader(self, name: str, kind: str, *policies: Any) -> Any:
        from cyclonedds.qos import Qos
        from cyclonedds.sub import DataReader

        self.kept.append(DataReader(self.participant, self.topic(name, kind), Qos(*policies)))
        return self.kept[-1]

    def write(self, writer: Any, kind: str, **fields: Any) -> None:
        from foreact.robot_bridge.dds_types import idl_type
        from foreact.robot_bridge.ros_make import RosbagsMaker
        from foreact.robot_bridge.ros_types import encode

        writer.write(idl_type(kind)(encode(RosbagsMaker().new(kind, **fields), kind)))

    def close(self) -> None:
        for entity in (*self.kept, self.participant):
            entity.__del__()


@pytest.fixture
def other(bridge: DdsTransport) -> Iterator[Other]:
    made = Other()
    yield made
    made.close()


def reliable_latched() -> list[Any]:
    from cyclonedds.qos import Policy

    return [Policy.Reliability.Reliable(0), Policy.Durability.TransientLocal]


def test_operators_are_heard_and_answered(bridge: DdsTransport, box: Box, other: Other) -> None:
    from cyclonedds.qos import Policy

    reply = other.reader("/foreact/reply", "std_msgs/msg/String", Policy.Reliability.Reliable(0))
    words = other.writer("/foreact/instruction", "std_msgs/msg/String", *reliable_latched())
    other.write(words, "std_msgs/msg/String", data="open the drawer ")
    until(lambda: box.got["instruction"] == ["open the drawer"])
    other.write(words, "std_msgs/msg/String", data="rm\x00")
    until(lambda: box.got["bad"])
    role, sentence = box.got["bad"][0]
    assert role == "instruction" and "U+0000" in sentence
    buttons = {n: other.writer(f"/foreact/{n}", "std_msgs/msg/Bool", Policy.Reliability.Reliable(0)) for n in
               ("arm", "stop", "takeover")}  # fmt: skip
    until(lambda: all(report(bridge, n).publishers == 1 for n in buttons))
    for name, value, called in (
        ("arm", True, ("arm", True)), ("arm", False, ("disarm", False)), ("stop", True, ("stop", True)),
        ("takeover", True, ("takeover", True)), ("takeover", False, ("takeover", False)),
    ):  # fmt: skip
        n = len(box.got["command"])
        other.write(buttons[name], "std_msgs/msg/Bool", data=value)
        until(lambda n=n: len(box.got["command"]) == n + 1)
        assert box.got["command"][n][:2] == called
    assert box.got["command"][2][2] != box.got["command"][0][2], "a stop has a thread of its own"
    other.write(buttons["stop"], "std_msgs/msg/Bool", data=False)
    time.sleep(0.2)
    assert len(box.got["command"]) == 5, "a stop button that is released is no command"
    from foreact.robot_bridge.ros_types import decode

    answers = []
    until(lambda: [answers.append(s.raw) for s in reply.take(10)] or len(answers) >= 1)
    said = json.loads(decode(answers[-1], "std_msgs/msg/String", "reply").data)
    assert said["done"] and said["command"] == "takeover" and said["message"] == "takeover was heard"


def test_late_listeners_get_the_state(bridge: DdsTransport, other: Other) -> None:
    from foreact.robot_bridge.ros_types import decode

    bridge.send_state(State.READY, None)
    reader = other.reader("/foreact/state", "std_msgs/msg/String", *reliable_latched())
    got: list[bytes] = []
    until(lambda: got.extend(s.raw for s in reader.take(10)) or got)
    assert json.loads(decode(got[0], "std_msgs/msg/String", "state").data) == {"state": "ready"}


@pytest.mark.fault("B18", n=3, event="a second publisher on the command, a camera or the joint states")
@pytest.mark.parametrize("role", ["trajectory", "camera front", "joints"])
def test_a_second_publisher_is_counted_within_two_seconds(
    bridge: DdsTransport, robot: tuple[DdsRobotSide, dict[str, list[Any]]], other: Other, role: str
) -> None:
    found = report(bridge, role)
    assert found.publishers == 1 and not found.qos_problem
    other.writer(found.topic, found.expected_type)
    took = until(lambda: report(bridge, role).publishers == 2)
    assert took < 2.0
    if role == "trajectory":
        assert any("publishes here too" in note for note in report(bridge, role).notes)
    other.close()
    until(lambda: report(bridge, role).publishers == 1)


@pytest.mark.fault("B18", n=1, event="a client of the controller's action")
def test_a_client_of_the_controllers_action_is_counted(bridge: DdsTransport, other: Other) -> None:
    writer = other.writer("/joint_trajectory_controller/follow_joint_trajectory/_action/send_goalRequest",
                          "std_msgs/msg/String", prefix="rq")  # fmt: skip
    took = until(lambda: report(bridge, "trajectory").publishers == 2)
    assert writer is not None and took < 2.0
    assert any("may send goals to /joint_trajectory_controller" in note for note in report(bridge, "trajectory").notes)
    other.close()
    until(lambda: report(bridge, "trajectory").publishers == 1)


@pytest.mark.fault("B18", n=1, event="a second bridge, in another process")
def test_a_second_bridge_is_named_within_two_seconds(bridge: DdsTransport) -> None:
    script = (
        "import sys, time\n"
        "from foreact.robot_bridge.dds_transport import DdsTransport\n"
        "from foreact.robot_bridge.network import NetworkScope\n"
        "from foreact.robot_bridge.topic_names import TopicNames\n"
        "names = TopicNames.model_validate_json(sys.argv[1])\n"
        "class Inbox:\n"
        "    def __getattr__(self, name): return lambda *a: None\n"
        "t = DdsTransport(names, NetworkScope(domain_id=int(sys.argv[2])))\n"
        "t.start(Inbox()); print('open', flush=True); sys.stdin.readline(); t.close()\n"
    )
    second = NAMES.model_copy(update={"node": "second"}).model_dump_json()
    with subprocess.Popen(
        [sys.executable, "-c", script, second, str(SCOPE.domain_id)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:  # fmt: skip
        assert process.stdout and process.stdin
        assert process.stdout.readline().strip() == "open"
        took = until(lambda: "/second publishes here too" in report(bridge, "trajectory").notes)
        assert took < 2.0 and report(bridge, "trajectory").publishers == 2
        process.stdin.write("\n")
        process.stdin.flush()
        until(lambda: report(bridge, "trajectory").publishers == 1)
        process.wait(10)


def misfit_cases() -> dict[str, tuple[str, str, Callable[[Other, str, str], Any], str]]:
    from cyclonedds.qos import Policy
    from cyclonedds.util import duration

    P = Policy
    R = P.Reliability.Reliable(0)
    T = P.Durability.TransientLocal
    writers: dict[str, tuple[str, list[Any], str]] = {
        "instruction that is not kept": ("instruction", [R], "durability (offered volatile"),
        "mode by best effort": ("mode", [P.Reliability.BestEffort, T], "reliability (offered best effort"),
        "camera by exclusive owners": ("camera front", [P.Ownership.Exclusive], "ownership (offered exclusive"),
        "joints in another partition": ("joints", [P.Partition(["left"])], "partition (offered 'left'"),
        "joints in XCDR2 only": ("joints", [P.DataRepresentation(False, True)], "data representation (offered XCDR2"),
        "arm by best effort": ("arm", [P.Reliability.BestEffort], "reliability (offered best effort"),
    }
    readers: dict[str, tuple[str, list[Any], str]] = {
        "controller that wants old commands": ("trajectory", [R, T], "durability (offered volatile, requested trans"),
        "controller with a deadline": ("trajectory", [R, P.Deadline(duration(seconds=1))], "deadline (offered infin"),
        "controller that wants life signs": (
            "gripper", [R, P.Liveliness.ManualByTopic(duration(seconds=1))], "liveliness (offered automatic",
        ),
        "viewer that wants old frames": ("foresight front", [R, T], "durability (offered volatile"),
    }  # fmt: skip
    made = {name: (role, words, lambda o, t, k, q=q: o.writer(t, k, *q), "in") for name, (role, q, words) in
            writers.items()}  # fmt: skip
    made |= {name: (role, words, lambda o, t, k, q=q: o.reader(t, k, *q), "out") for name, (role, q, words) in
             readers.items()}  # fmt: skip
    return made  # type: ignore[return-value]


@pytest.mark.fault("B19", n=10, event="a writer or reader whose QoS does not fit")
@pytest.mark.parametrize("name", list(misfit_cases()))
def test_qos_that_does_not_fit_is_named_within_two_seconds(bridge: DdsTransport, other: Other, name: str) -> None:
    role, words, make, direction = misfit_cases()[name]
    before = report(bridge, role)  # type: ignore[arg-type]
    assert before.qos_problem == "" and before.direction == direction
    endpoint = make(other, before.topic, before.expected_type)  # type: ignore[operator]
    took = until(lambda: report(bridge, role).qos_problem)  # type: ignore[arg-type]
    sentence = report(bridge, role).qos_problem  # type: ignore[arg-type]
    assert took < 2.0 and before.topic in sentence and words in sentence, sentence
    # DDS itself agrees that they are not connected.
    matched = endpoint.get_matched_subscriptions if direction == "in" else endpoint.get_matched_publications
    assert matched() == []
    other.close()
    until(lambda: not report(bridge, role).qos_problem)  # type: ignore[arg-type]


def test_endpoints_that_fit_are_not_accused(bridge: DdsTransport, other: Other) -> None:
    from cyclonedds.qos import Policy

    P = Policy
    other.writer("/joint_states", "sensor_msgs/msg/JointState", P.Reliability.Reliable(0), P.Durability.TransientLocal)
    other.writer("/front/image_raw", "sensor_msgs/msg/Image", P.Reliability.BestEffort)
    sub = other.reader(NAMES.trajectory, "trajectory_msgs/msg/JointTrajectory", P.Reliability.BestEffort)
    until(lambda: report(bridge, "trajectory").subscribers == 1 and report(bridge, "joints").publishers == 1)
    until(lambda: sub.get_matched_publications())
    assert [r.qos_problem for r in bridge.graph()] == [""] * len(bridge.graph())


def test_a_topic_of_another_type_is_named(bridge: DdsTransport, other: Other) -> None:
    other.writer("/front/image_raw", "sensor_msgs/msg/CompressedImage")
    until(lambda: report(bridge, "camera front").found_types)
    found = report(bridge, "camera front")
    assert found.found_types == ("sensor_msgs/msg/CompressedImage",)
    assert "never connected" in found.notes[0]


def test_wrong_messages_are_reported_and_the_next_good_one_is_heard(
    bridge: DdsTransport, box: Box, other: Other
) -> None:
    from cyclonedds.core import DDSException
    from cyclonedds.qos import Policy

    from foreact.robot_bridge.dds_types import idl_type
    from foreact.robot_bridge.messages_out import joint_state
    from foreact.robot_bridge.ros_make import RosbagsMaker
    from foreact.robot_bridge.ros_types import encode

    kind = "sensor_msgs/msg/JointState"
    writer = other.writer("/joint_states", kind, Policy.Reliability.Reliable(0))
    until(lambda: writer.get_matched_subscriptions())
    wrong = [
        encode(joint_state(RosbagsMaker(), names, positions, velocities, 1.0), kind)
        for names, positions, velocities in (
            (["a1"], [1.0], []), (["a1", "a2"], [1.0], []), (["a1", "a2"], [1.0, float("nan")], []),
            (["a1", "a2"], [1.0, 2.0], [3.0]), (["a1", "a1", "a2"], [1.0, 2.0, 3.0], []),
        )
    ]  # fmt: skip
    wrong.append(wrong[0].replace(b"a1", b"\xff\xfe"))
    refused = 0
    for n in range(200):
        try:
            writer.write(idl_type(kind)(wrong[n % len(wrong)]))
        except DDSException:  # DDS looks at the layout by itself
            refused += 1
        time.sleep(0.002)
    until(lambda: len(box.got["bad"]) > 50)
    assert not box.got["joints"] and {role for role, _ in box.got["bad"]} == {"joints"} and refused < 50
    side = DdsRobotSide(NAMES, SCOPE)
    side.start(lambda _: None, lambda _: None)
    until(lambda: report(bridge, "joints").publishers == 2)
    until(lambda: side.publish_joints([1.0, 2.0], [0.0, 0.0], 0.0, 9.0) or box.got["joints"])
    side.close()
