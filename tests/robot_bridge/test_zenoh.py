"""Bridge and robot over Zenoh, through a router in this process on the loopback address; keys as rmw_zenoh has them."""

from __future__ import annotations

import socket
import struct
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("zenoh", reason="needs eclipse-zenoh: pip install '.[zenoh]'")

import zenoh

from foreact.robot_bridge.network import NetworkScope
from foreact.robot_bridge.topic_names import Qos, TopicSpec, make_topics
from foreact.robot_bridge.transport_errors import TransportError
from foreact.robot_bridge.types import RobotMode, State, TopicReport, Trajectory
from foreact.robot_bridge.zenoh_graph import attachment, message_key, qos_text, read_token, token
from foreact.robot_bridge.zenoh_transport import ZenohRobotSide, ZenohTransport, zenoh_refusals

SCOPE = NetworkScope(domain_id=5)
NAMES = make_topics({}, [("front", 480, 640)], ("a1", "a2"), ("f1", "f2"))
STRING_HASH = "RIHS01_df668c740482bbd48fb39d76a70dfd4bd59db1288021743503259e948f6b1a18"


class Box:
    """An `Inbox` that keeps everything."""

    def __init__(self) -> None:
        self.got: dict[str, list[Any]] = defaultdict(list)

    def frame(self, frame: Any) -> None:
        self.got["frame"].append(frame)

    def joints(self, sample: Any) -> None:
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
        self.got["command"].append((name, value))
        return True, "done"


def until(what: Callable[[], object], seconds: float = 5.0) -> float:
    began = time.monotonic()
    while not what():
        assert time.monotonic() - began < seconds, "it did not happen"
        time.sleep(0.01)
    return time.monotonic() - began


@pytest.fixture(scope="module")
def router() -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp/127.0.0.1:{free.getsockname()[1]}"
    config = zenoh.Config()
    config.insert_json5("mode", '"router"')
    config.insert_json5("listen/endpoints", f'["{address}"]')
    config.insert_json5("scouting/multicast/enabled", "false")
    with zenoh.open(config):
        yield address


@pytest.fixture
def ends(router: str) -> Iterator[tuple[ZenohTransport, Box, ZenohRobotSide, dict[str, list[Any]]]]:
    box, told = Box(), defaultdict(list)
    bridge, side = ZenohTransport(NAMES, SCOPE, router=router), ZenohRobotSide(NAMES, SCOPE, router=router)
    side.start(told["trajectory"].append, told["gripper"].append, lambda *bad: told["bad"].append(bad))
    side.publish_mode(RobotMode.PROTECTIVE_STOP)
    bridge.start(box)
    until(lambda: report(bridge, "trajectory").subscribers == 1 and report(bridge, "joints").publishers == 1)
    yield bridge, box, side, told
    bridge.close()
    side.close()


def report(bridge: ZenohTransport, role: str) -> TopicReport:
    return next(r for r in bridge.graph() if r.role == role)


Ends = tuple[ZenohTransport, Box, ZenohRobotSide, dict[str, list[Any]]]


def test_both_directions_and_the_last_mode_for_late_listeners(ends: Ends) -> None:
    bridge, box, side, told = ends
    image = np.random.default_rng(0).integers(0, 255, (480, 640, 3)).astype(np.uint8)
    until(lambda: box.got["mode"] == [RobotMode.PROTECTIVE_STOP])
    for n in range(3):
        side.publish_frame("front", image, 7.0 + n)
        side.publish_joints([0.1, 0.2], [0.0, 0.0], 0.04, 7.0)
        until(lambda n=n: len(box.got["frame"]) == len(box.got["joints"]) == n + 1)
    assert np.array_equal(box.got["frame"][2].image, image) and box.got["frame"][2].stamp_s == 9.0
    assert box.got["joints"][0].position.tolist() == [0.1, 0.2] and not box.got["bad"]
    bridge.send_trajectory(
        Trajectory(
            start_s=0.0, time_from_start_s=np.array([0.1]), position=np.array([[1.0, 2.0]]), velocity=np.zeros((1, 2)),
            acceleration=np.zeros((1, 2)),
        )
    )  # fmt: skip
    bridge.send_gripper(1.0)
    until(lambda: told["trajectory"] and told["gripper"])
    assert told["trajectory"][0].position.tolist() == [[1.0, 2.0]] and told["gripper"] == [1.0]


def test_keys_and_attachments_are_those_of_rmw_zenoh(ends: Ends, router: str) -> None:
    """What a plain Zenoh session sees, against the layout in rmw_zenoh's design document."""
    bridge, box, _, _ = ends
    config = zenoh.Config()
    config.insert_json5("mode", '"client"')
    config.insert_json5("connect/endpoints", f'["{router}"]')
    config.insert_json5("scouting/multicast/enabled", "false")
    seen: list[Any] = []
    with zenoh.open(config) as session:
        listener = session.declare_subscriber("5/foreact/state/**", seen.append)
        until(lambda: bridge.send_state(State.READY, None) or seen)
        assert str(seen[0].key_expr) == f"5/foreact/state/std_msgs::msg::dds_::String_/{STRING_HASH}"
        number, sent_ns, length, gid = struct.unpack("<qqB16s", seen[0].attachment.to_bytes())
        assert number >= 1 and abs(sent_ns / 1e9 - time.time()) < 10 and length == 16 and len(set(gid)) > 4
        assert seen[0].payload.to_bytes()[:4] == b"\x00\x01\x00\x00"
        body = b"close the drawer\x00"
        payload = b"\x00\x01\x00\x00" + struct.pack("<I", len(body)) + body
        key = f"5/foreact/instruction/std_msgs::msg::dds_::String_/{STRING_HASH}"
        until(lambda: session.put(key, payload, attachment=attachment(1, 0, bytes(16))) or box.got["instruction"])
        assert box.got["instruction"][0] == "close the drawer"
        session.put(key, b"\x00\x01\x00\x00\xff\xff\xff\x7f")
        until(lambda: box.got["bad"])
        assert box.got["bad"][0][0] == "instruction"
        listener.undeclare()
        tokens = {str(r.ok.key_expr) for r in session.liveliness().get("@ros2_lv/5/**") if r.ok is not None}
    nodes = {read_token(t).node for t in tokens}  # type: ignore[union-attr]
    assert nodes == {"/foreact", "/robot_sim"} and sum("/NN/" in t for t in tokens) == 2
    mine = next(t for t in tokens if "%foreact%state" in t)
    assert mine.endswith(f"/MP/%/%/foreact/%foreact%state/std_msgs::msg::dds_::String_/{STRING_HASH}/:1:,1:,:,:,,")


@pytest.mark.fault("B18", n=1, event="a second publisher on the command, over Zenoh")
def test_a_second_bridge_is_counted_within_two_seconds(ends: Ends, router: str) -> None:
    bridge, *_ = ends
    second = ZenohTransport(NAMES.model_copy(update={"node": "second"}), SCOPE, router=router)
    second.start(Box())
    took = until(lambda: report(bridge, "trajectory").publishers == 2)
    assert took < 2.0 and "/second publishes here too" in report(bridge, "trajectory").notes
    second.close()
    until(lambda: report(bridge, "trajectory").publishers == 1)


@pytest.mark.fault("B18", n=1, event="a client of the controller's action, over Zenoh")
def test_a_client_of_the_controllers_action_is_counted(ends: Ends, router: str) -> None:
    import zenoh

    bridge, *_ = ends
    goals = TopicSpec("x", next(s.goals for s in NAMES.specs() if s.role == "trajectory"), "std_msgs/msg/String", "out",
                      Qos())  # fmt: skip
    assert goals.topic == "/joint_trajectory_controller/follow_joint_trajectory/_action/send_goal"
    config = zenoh.Config()
    config.insert_json5("mode", '"client"')
    config.insert_json5("connect/endpoints", f'["{router}"]')
    config.insert_json5("scouting/multicast/enabled", "false")
    with zenoh.open(config) as session:
        there = session.liveliness().declare_token(token(SCOPE.domain_id, "f0", 9, "SC", "/", "planner", goals))
        took = until(lambda: report(bridge, "trajectory").publishers == 2)
        assert took < 2.0 and any("/planner may send goals" in n for n in report(bridge, "trajectory").notes)
        there.undeclare()
    until(lambda: report(bridge, "trajectory").publishers == 1)


def test_tokens_can_be_read_back() -> None:
    spec = TopicSpec("x", "/left/cam/image_raw", "sensor_msgs/msg/Image", "out", Qos(reliable=False, depth=5))
    found = read_token(token(7, "ab12", 3, "MP", "/left", "driver", spec))
    assert found is not None and (found.session, found.kind, found.node) == ("ab12", "MP", "/left/driver")
    assert (found.topic, found.type) == ("/left/cam/image_raw", "sensor_msgs/msg/Image")
    assert read_token(token(7, "ab12", 0, "NN", "/", "driver")).node == "/driver"  # type: ignore[union-attr]
    assert read_token("something/else") is None and read_token("@ros2_lv/1/2") is None
    assert qos_text(Qos(depth=10)) == "::,10:,:,:,," and qos_text(spec.qos) == "2::,5:,:,:,,"
    # From the documentation of rmw_zenoh_cpp.
    assert message_key(0, "/chatter", "std_msgs/msg/String") == f"0/chatter/std_msgs::msg::dds_::String_/{STRING_HASH}"


def test_without_a_router_there_is_a_sentence() -> None:
    bridge = ZenohTransport(NAMES, SCOPE, router="tcp/127.0.0.1:1")
    with pytest.raises(TransportError, match="rmw_zenohd"):
        bridge.start(Box())
    bridge.close()


@pytest.mark.fault("S15", n=3, event="arming over a Zenoh router")
def test_a_router_is_trusted_only_by_a_person() -> None:
    assert "all interfaces" in zenoh_refusals()[0] and "not this machine" in zenoh_refusals("tcp/10.0.0.2:7447")[0]
    assert zenoh_refusals("tcp/10.0.0.2:7447", allow_network=True) == []


def test_nothing_is_sent_after_closing(router: str) -> None:
    bridge = ZenohTransport(NAMES, SCOPE, router=router)
    bridge.start(Box())
    bridge.close()
    bridge.close()
    bridge.send_state(State.FAULT, None)
    assert bridge.graph() == []
