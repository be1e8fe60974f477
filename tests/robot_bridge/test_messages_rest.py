"""Joint states, words, modes and trajectories: what is read, what is refused, and both ways through CDR."""

from __future__ import annotations

import json
import math
import struct
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreact.robot_bridge import messages_in, messages_out
from foreact.robot_bridge.ros_make import RosbagsMaker
from foreact.robot_bridge.ros_types import dds_name, decode, encode, ros_name, type_hash
from foreact.robot_bridge.topic_names import make_topics
from foreact.robot_bridge.transport_errors import BadMessage
from foreact.robot_bridge.types import DiagnosticLine, Event, RobotMode, State, Trajectory
from foreact.vla.errors import ConfigError

ARM, FINGERS = ("a1", "a2", "a3"), ("left", "right")
STAMP = SimpleNamespace(sec=5, nanosec=0)
NAMES = make_topics({}, [("front", 48, 64)], ARM, FINGERS)


def joints(name: list[str], position: list[float], velocity: list[float]) -> SimpleNamespace:
    header = SimpleNamespace(stamp=STAMP)
    return SimpleNamespace(header=header, name=name, position=position, velocity=velocity, effort=[])


def test_joints_are_found_by_name_whatever_their_order() -> None:
    message = joints(["right", "a3", "x", "a1", "left", "a2"], [0.01, 3, 9, 1, 0.02, 2], [0, 30, 90, 10, 0, 20])
    sample = messages_in.joint_sample(message, ARM, FINGERS, 8.0)
    assert sample is not None and sample.velocity is not None
    assert sample.position.tolist() == [1, 2, 3] and sample.velocity.tolist() == [10, 20, 30]
    assert sample.gripper_width_m == pytest.approx(0.03) and (sample.stamp_s, sample.received_s) == (5.0, 8.0)


def test_velocities_and_gripper_may_be_missing_as_a_whole() -> None:
    sample = messages_in.joint_sample(joints(list(ARM), [1, 2, 3], []), ARM, FINGERS, 0.0)
    assert sample is not None and sample.velocity is None and sample.gripper_width_m is None


def test_joint_states_of_another_device_are_not_ours() -> None:
    assert messages_in.joint_sample(joints(["left", "right"], [0, 0], []), ARM, FINGERS, 0.0) is None
    assert messages_in.joint_sample(joints([], [], []), ARM, FINGERS, 0.0) is None


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (joints(["a1", "a2"], [1, 2], []), "lack a3"),
        (joints(["a1", "a2", "a3"], [1, 2], []), "2 positions of 3 joints"),
        (joints(["a1", "a2", "a3"], [1, 2, 3, 4], []), "4 positions of 3 joints"),
        (joints(["a1", "a2", "a3"], [1, 2, 3], [1, 2]), "2 velocities of 3 joints"),
        (joints(["a1", "a2", "a3", "a1"], [1, 2, 3, 4], []), "twice"),
        (joints(["a1", "a2", "a3"], [1, math.nan, 3], []), "not finite"),
        (joints(["a1", "a2", "a3"], [1, math.inf, 3], []), "not finite"),
        (joints(["a1", "a2", "a3"], [1, 2, 3], [0, 0, -math.inf]), "not finite"),
        (joints(["a1", "a2", "a3", "left"], [1, 2, 3, 0], []), "only some of the gripper"),
        (joints(["a1", "a2", "a3", "left", "right"], [1, 2, 3, math.nan, 0], []), "not finite"),
    ],
)
def test_joint_states_that_are_not_whole_are_refused(message: SimpleNamespace, words: str) -> None:
    with pytest.raises(BadMessage, match=words):
        messages_in.joint_sample(message, ARM, FINGERS, 0.0)


def test_nan_of_a_joint_that_is_not_ours_does_not_matter() -> None:
    message = joints(["a1", "a2", "a3", "other"], [1, 2, 3, math.nan], [0, 0, 0, math.nan])
    assert messages_in.joint_sample(message, ARM, FINGERS, 0.0) is not None


@pytest.mark.fault("S18", n=300, event="instruction texts of any kind")
@settings(max_examples=300, deadline=None)
@given(st.text(max_size=600))
def test_only_printable_words_of_at_most_512_bytes_pass(text: str) -> None:
    try:
        words = messages_in.instruction(SimpleNamespace(data=text))
    except BadMessage:
        return
    assert words == text.strip() and 0 < len(words.encode()) <= 512
    assert words.isprintable() or any(ord(c) > 127 for c in words)
    assert not any(ord(c) < 32 or ord(c) == 127 for c in words)


@pytest.mark.fault("S18", n=12, event="hostile or empty instructions")
@pytest.mark.parametrize(
    "text",
    ["", "  \n ", "a\x00b", "open\nthe drawer", "a\x1b[31mb", "a\u202eb", "a\u200bb", "x" * 513, "é" * 257, "\ud800",
     "a\u2028b", 7],
)  # fmt: skip
def test_hostile_instructions_are_refused(text: object) -> None:
    with pytest.raises(BadMessage, match="instruction"):
        messages_in.instruction(SimpleNamespace(data=text))


@pytest.mark.fault("S18", n=1, event="instruction bytes that are not UTF-8")
def test_bytes_that_are_not_utf8_are_refused() -> None:
    body = b"\xff\xfe bad\x00"
    with pytest.raises(BadMessage, match="std_msgs/msg/String"):
        decode(b"\x00\x01\x00\x00" + struct.pack("<I", len(body)) + body, "std_msgs/msg/String", "the instruction")


def test_words_with_accents_and_text_that_looks_like_code_stay_as_they_are() -> None:
    for text in ("öffne die Schublade", "{0} %s $(reboot) ../../etc", "开抽屉"):
        assert messages_in.instruction(SimpleNamespace(data=f" {text}\n")) == text


@pytest.mark.parametrize(
    ("kind", "field", "value", "mode"),
    [
        ("std_msgs/msg/String", "data", "ok", RobotMode.OK),
        ("std_msgs/msg/String", "data", " Protective_Stop ", RobotMode.PROTECTIVE_STOP),
        ("std_msgs/msg/String", "data", "fine", RobotMode.UNKNOWN),
        ("std_msgs/msg/Bool", "data", True, RobotMode.EMERGENCY_STOP),
        ("std_msgs/msg/Bool", "data", False, RobotMode.OK),
        ("ur_dashboard_msgs/msg/SafetyMode", "mode", 1, RobotMode.OK),
        ("ur_dashboard_msgs/msg/SafetyMode", "mode", 3, RobotMode.PROTECTIVE_STOP),
        ("ur_dashboard_msgs/msg/SafetyMode", "mode", 7, RobotMode.EMERGENCY_STOP),
        ("ur_dashboard_msgs/msg/SafetyMode", "mode", 9, RobotMode.REFLEX),
        ("ur_dashboard_msgs/msg/SafetyMode", "mode", 11, RobotMode.UNKNOWN),
        ("ur_dashboard_msgs/msg/SafetyMode", "mode", 200, RobotMode.UNKNOWN),
    ],
)
def test_modes(kind: str, field: str, value: object, mode: RobotMode) -> None:
    message = RosbagsMaker().new(kind, **{field: value})
    assert messages_in.robot_mode(decode(encode(message, kind), kind, "it"), kind) is mode


def test_a_trajectory_arrives_as_it_was_sent() -> None:
    sent = Trajectory(
        start_s=0.0,
        time_from_start_s=np.array([0.01, 0.2, 1.999999999]),
        position=np.arange(9.0).reshape(3, 3),
        velocity=-np.arange(9.0).reshape(3, 3),
        acceleration=np.arange(9.0).reshape(3, 3) / 7,
    )
    kind = "trajectory_msgs/msg/JointTrajectory"
    data = encode(messages_out.joint_trajectory(RosbagsMaker(), ARM, sent, 12.25), kind)
    found = messages_in.trajectory(decode(data, kind, "it"), 3.0)
    assert found.joints == ARM and (found.stamp_s, found.received_s) == (12.25, 3.0)
    assert np.allclose(found.time_from_start_s, sent.time_from_start_s, atol=1e-9, rtol=0)
    assert found.velocity is not None and found.acceleration is not None
    assert np.array_equal(found.position, sent.position) and np.array_equal(found.velocity, sent.velocity)
    assert np.array_equal(found.acceleration, sent.acceleration)


def point(positions: list[float], velocities: list[float]) -> SimpleNamespace:
    after = SimpleNamespace(sec=0, nanosec=1)
    return SimpleNamespace(positions=positions, velocities=velocities, accelerations=[], time_from_start=after)


@pytest.mark.parametrize(
    ("points", "words"),
    [
        ([point([1, 2], [])], "point 0 .* 2 positions for 3 joints"),
        ([point([1, 2, 3], [1, 2, 3]), point([1, 2, 3], [])], "point 1 .* 0 velocities"),
        ([point([], [])], "no positions"),
        ([point([1, 2, 3], [])] * 10_001, "10,001 points"),
    ],
)
def test_uneven_trajectories_are_refused(points: list[SimpleNamespace], words: str) -> None:
    header = SimpleNamespace(stamp=STAMP)
    with pytest.raises(BadMessage, match=words):
        messages_in.trajectory(SimpleNamespace(header=header, joint_names=list(ARM), points=points), 0.0)


def test_the_gripper_command_goes_both_ways() -> None:
    kind = "std_msgs/msg/Float64MultiArray"
    for command, each in ((1.0, 0.04), (-1.0, 0.0)):
        message = decode(encode(messages_out.gripper(RosbagsMaker(), command, NAMES), kind), kind, "it")
        assert message.data.tolist() == [each, each]
        assert messages_in.gripper(message, 0.08, 0.0, 2) == command
    for data in ([0.04], [math.nan, 0.0], []):
        with pytest.raises(BadMessage, match="expected 2 finite"):
            messages_in.gripper(SimpleNamespace(data=data), 0.08, 0.0, 2)


def test_diagnostics_and_state_say_what_they_are_told() -> None:
    kind = "diagnostic_msgs/msg/DiagnosticArray"
    line = DiagnosticLine(name="gate", level=2, message="stopped", values={"p99 [ms]": "3.5"})
    found = decode(encode(messages_out.diagnostics(RosbagsMaker(), [line], 4.5, "panda"), kind), kind, "it")
    status = found.status[0]
    assert (status.level, status.name, status.message, status.hardware_id) == (2, "gate", "stopped", "panda")
    assert [(v.key, v.value) for v in status.values] == [("p99 [ms]", "3.5")]
    assert (found.header.stamp.sec, found.header.stamp.nanosec) == (4, 500_000_000)
    event = Event(at_s=1.0, kind="state", cause="estop", message="the robot stopped", state=State.FAULT, data={"n": 3})
    said = json.loads(messages_out.state(RosbagsMaker(), State.FAULT, event).data)
    assert said["state"] == "fault" and said["cause"] == "estop" and said["data"] == {"n": 3}


def test_type_hashes_are_those_that_ros_announces() -> None:
    # From the documentation of rmw_zenoh_cpp (Apache-2.0) and of REP-2016's tools.
    assert type_hash("std_msgs/msg/String") == "RIHS01_df668c740482bbd48fb39d76a70dfd4bd59db1288021743503259e948f6b1a18"
    assert type_hash("sensor_msgs/msg/Image").startswith("RIHS01_d31d41a9")
    for kind in ("sensor_msgs/msg/Image", "control_msgs/msg/JointTrajectoryControllerState"):
        assert ros_name(dds_name(kind)) == kind
    assert dds_name("std_msgs/msg/String") == "std_msgs::msg::dds_::String_" and ros_name("Plain") == "Plain"


def test_names_follow_conventions_and_may_be_chosen() -> None:
    specs = {spec.role: spec for spec in NAMES.specs()}
    assert specs["camera front"].topic == "/front/image_raw" and not specs["camera front"].qos.reliable
    assert specs["instruction"].topic == "/foreact/instruction" and specs["instruction"].qos.transient_local
    assert specs["arm"].qos.reliable and not specs["arm"].qos.transient_local
    assert specs["foresight front"].topic == "/foreact/foresight/front/compressed"
    other = make_topics(
        {"cameras": {"front": "/c/compressed"}, "namespace": "/left", "node": "gate", "joint_states": "js"},
        [("front", 4, 4)], ARM,
    )  # fmt: skip
    specs = {spec.role: spec for spec in other.specs()}
    assert specs["camera front"].type == "sensor_msgs/msg/CompressedImage"
    assert specs["joints"].topic == "/left/js" and specs["arm"].topic == "/left/gate/arm"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"cameras": {"frnt": "/x"}}, "cameras of the contract"),
        ({"cameras": ["front"]}, "cameras of the contract"),
        ({"joint_states": "/two words"}, "no ROS 2 name"),
        ({"joint_states": "/x/"}, "no ROS 2 name"),
        ({"joint_states": "/foreact/instruction"}, "two roles"),
        ({"mode": {"type": "std_msgs/msg/Int8"}}, "cannot read a mode"),
        ({"jointstates": "/x"}, "jointstates"),
        ({"arm_joints": ["a", "a"]}, "different names"),
    ],
)
def test_wrong_names_are_named(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_topics(settings, [("front", 48, 64)], ARM)
