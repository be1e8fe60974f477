"""Bags written by rosbags' own writer, and how their messages fall on the ticks of a contract."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from foreact.datasets.formats.base import FormatError, Source
from foreact.datasets.formats.registry import recognise
from foreact.datasets.formats.resample import NS, Resampler, resample, runs
from foreact.datasets.formats.rosbag import RosbagSource
from foreact.datasets.formats.topics import read_topic_map
from foreact.vla.contract import Camera, Contract, ContractMismatch, Field
from foreact.vla.errors import ConfigError

TYPES = get_typestore(Stores.ROS2_JAZZY)
CONTRACT = Contract(
    embodiment="arm",
    rate_hz=10,
    cameras=(Camera(name="front", height=12, width=16), Camera(name="wrist", height=8, width=8)),
    state=(Field(name="joints", size=2, unit="rad"), Field(name="tcp", size=3, unit="m", frame="base")),
    action=(Field(name="target", size=2, unit="rad"),),
)
MAP = """
max_age_s: 0.25
cameras:
  front: {topic: /front/image_raw}
  wrist: {topic: /wrist/compressed}
state:
  joints: {topic: /joint_states, joints: [shoulder, elbow]}
  tcp: {topic: /tcp, fields: [pose.position.x, pose.position.y, pose.position.z]}
action:
  target: {topic: /commands, index: [2, 0]}
instruction: {topic: /instruction}
"""


def stamp() -> Any:
    time = TYPES.types["builtin_interfaces/msg/Time"](sec=0, nanosec=0)
    return TYPES.types["std_msgs/msg/Header"](stamp=time, frame_id="")


def message(kind: str, **values: Any) -> Any:
    return TYPES.types[kind](**values)


def front(level: int, encoding: str = "bgr8") -> Any:
    channels = {"bgr8": 3, "rgba8": 4, "mono8": 1}[encoding]
    step = 16 * channels + 5  # rows may be padded
    data = np.zeros((12, step), np.uint8)
    data[:, : 16 * channels] = np.tile(np.array([level, 0, 9, 255], np.uint8)[:channels], 16)
    return message(
        "sensor_msgs/msg/Image", header=stamp(), height=12, width=16, encoding=encoding, is_bigendian=0, step=step,
        data=data.reshape(-1),
    )  # fmt: skip


def wrist(level: int) -> Any:
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (level, level, level)).save(file, "PNG")
    data = np.frombuffer(file.getvalue(), np.uint8)
    return message("sensor_msgs/msg/CompressedImage", header=stamp(), format="rgb8; png compressed bgr8", data=data)


def joints(t: float, swapped: bool) -> Any:
    names, values = ["gripper", "shoulder", "elbow"], [9.0, t, -t]
    if swapped:  # the order of joints is not fixed
        names, values = names[::-1], values[::-1]
    return message(
        "sensor_msgs/msg/JointState", header=stamp(), name=names, position=np.array(values), velocity=np.zeros(0),
        effort=np.zeros(0),
    )  # fmt: skip


def pose(t: float) -> Any:
    point = message("geometry_msgs/msg/Point", x=t, y=2 * t, z=3 * t)
    turn = message("geometry_msgs/msg/Quaternion", x=0.0, y=0.0, z=0.0, w=1.0)
    inner = message("geometry_msgs/msg/Pose", position=point, orientation=turn)
    return message("geometry_msgs/msg/PoseStamped", header=stamp(), pose=inner)


def command(t: float) -> Any:
    layout = message("std_msgs/msg/MultiArrayLayout", dim=[], data_offset=0)
    return message("std_msgs/msg/Float64MultiArray", layout=layout, data=np.array([t, 7.0, t + 1]))


def write_bag(
    path: Path, gap: tuple[float, float] = (9, 9), storage: StoragePlugin = StoragePlugin.MCAP,
    compress: CompressionMode = CompressionMode.NONE, encoding: str = "bgr8",
) -> Path:  # fmt: skip
    """2 s: pictures every 0.1 s from 0.0, joints and pose every 0.02 s, commands every 0.05 s; no pictures in `gap`."""
    writer = Writer(path, version=9, storage_plugin=storage)
    if compress != CompressionMode.NONE:
        writer.set_compression(compress, CompressionFormat.ZSTD)
    with writer:
        kinds = {
            "/front/image_raw": "sensor_msgs/msg/Image",
            "/wrist/compressed": "sensor_msgs/msg/CompressedImage",
            "/joint_states": "sensor_msgs/msg/JointState",
            "/tcp": "geometry_msgs/msg/PoseStamped",
            "/commands": "std_msgs/msg/Float64MultiArray",
            "/instruction": "std_msgs/msg/String",
            "/unused": "std_msgs/msg/String",
        }
        topics = {topic: writer.add_connection(topic, kind, typestore=TYPES) for topic, kind in kinds.items()}

        def send(topic: str, ms: int, value: Any) -> None:
            writer.write(topics[topic], 10**18 + ms * 1_000_000, TYPES.serialize_cdr(value, kinds[topic]))

        send("/instruction", -50, message("std_msgs/msg/String", data="open the drawer"))
        for ms in range(0, 2001, 10):
            t = ms / 1000
            if ms == 1500:
                send("/instruction", ms, message("std_msgs/msg/String", data="close it"))
            if ms % 100 == 0 and not gap[0] <= t < gap[1]:
                send("/front/image_raw", ms, front(ms // 100, encoding))
                send("/wrist/compressed", ms, wrist(ms // 100))
            if ms % 20 == 0:
                send("/joint_states", ms, joints(t, swapped=ms % 40 == 0))
                send("/tcp", ms, pose(t))
            if ms % 50 == 0:
                send("/commands", ms, command(t))
            send("/unused", ms, message("std_msgs/msg/String", data="x"))
    return path


def source(path: Path, topics: str = MAP, contract: Contract = CONTRACT, **options: str) -> RosbagSource:
    file = path.parent / "topics.yaml"
    file.write_text(topics)
    return RosbagSource(path, contract, topics=str(file), **options)


@pytest.mark.parametrize("storage", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
@pytest.mark.parametrize("encoding", ["bgr8", "rgba8", "mono8"])
def test_a_bag_at_the_rate_of_the_contract(tmp_path: Path, storage: StoragePlugin, encoding: str) -> None:
    path = write_bag(tmp_path / "bag", storage=storage, encoding=encoding)
    assert recognise(path) == recognise(tmp_path) == "rosbag"
    bag = source(path)
    assert isinstance(bag, Source) and bag.names() == ["bag"]
    episode = bag.read("bag")
    assert len(episode) == 21
    # A message exactly on the tick counts for it.
    red, blue = {"bgr8": (9, 0), "rgba8": (0, 9), "mono8": (0, 0)}[encoding]
    pixel = episode.images["front"][:, 5, 6].tolist()
    expected = {"bgr8": lambda k: [red, 0, k], "rgba8": lambda k: [k, 0, blue], "mono8": lambda k: [k, k, k]}[encoding]
    assert pixel == [expected(k) for k in range(21)]
    assert episode.images["wrist"].shape == (21, 8, 8, 3) and episode.images["wrist"][:, 0, 0, 0].tolist() == list(
        range(21)
    )
    t = np.arange(21) / 10
    np.testing.assert_allclose(episode.state, np.stack([t, -t, t, 2 * t, 3 * t], 1), rtol=1e-6)  # pyright: ignore
    np.testing.assert_allclose(episode.action, np.stack([t + 1, t], 1), rtol=1e-6)  # pyright: ignore
    assert episode.instruction == "open the drawer"  # sent once, before everything else
    assert [(s.start, s.end, s.instruction) for s in episode.segments] == [
        (0, 15, "open the drawer"),
        (15, 21, "close it"),
    ]


def test_values_between_ticks_are_the_latest_before(tmp_path: Path) -> None:
    contract = CONTRACT.model_copy(update={"rate_hz": 30.0})
    bag = source(write_bag(tmp_path / "bag"), contract=contract)
    episode = bag.read(bag.names()[0])
    ticks = np.arange(len(episode)) / 30
    assert len(episode) == 61
    np.testing.assert_allclose(np.asarray(episode.state)[:, 0], np.floor(ticks / 0.02 + 1e-6) * 0.02, atol=1e-6)
    assert episode.images["wrist"][:, 0, 0, 0].tolist() == np.floor(ticks / 0.1 + 1e-6).astype(int).tolist()


def test_a_gap_ends_an_episode_and_begins_another(tmp_path: Path) -> None:
    bag = source(write_bag(tmp_path / "bag", gap=(0.5, 1.2)), shortest="3")
    assert bag.names() == ["bag-000", "bag-001"]
    # The picture of 0.4 s is good for 0.25 s: ticks 0.0 to 0.6; then 1.2 to 2.0.
    assert [len(bag.read(name)) for name in bag.names()] == [7, 9]
    assert source(tmp_path / "bag", shortest="8").names() == ["bag"]
    with pytest.raises(FormatError, match="at no time all topics"):
        source(tmp_path / "bag", MAP.replace("0.25", "0.001")).names()


def test_a_folder_of_bags_and_single_mcap_files(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_bag(tmp_path / "bags" / name)
    single = tmp_path / "three.mcap"
    single.write_bytes(next((tmp_path / "bags" / "one").glob("*.mcap")).read_bytes())
    assert source(tmp_path / "bags").names() == ["one", "two"]
    assert len(source(single).read("three")) == 21


@pytest.mark.parametrize("mode", [CompressionMode.STORAGE, CompressionMode.MESSAGE, CompressionMode.FILE])
def test_chunks_may_be_compressed_whole_bags_may_not(tmp_path: Path, mode: CompressionMode) -> None:
    path = write_bag(tmp_path / "bag", compress=mode)
    if mode == CompressionMode.STORAGE:
        assert len(source(path).read("bag")) == 21
    else:
        with pytest.raises(FormatError, match="ros2 bag convert|damaged|neither a bag"):
            source(path).names()


def test_what_is_missing_or_wrong_is_named(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "bag")
    with pytest.raises(ConfigError, match="give --contract FILE and --set topics=FILE"):
        RosbagSource(path)
    with pytest.raises(FormatError, match=r"no topic /wrong; its topics: /commands, /front"):
        source(path, MAP.replace("/commands", "/wrong")).names()
    with pytest.raises(ContractMismatch, match="'wrist' of the contract has no topic"):
        source(path, MAP.replace("  wrist: {topic: /wrist/compressed}\n", ""))
    with pytest.raises(
        FormatError, match=r"no position of \['knee'\]; the message has \['elbow', 'shoulder', 'gripper'\]"
    ):
        source(path, MAP.replace("elbow", "knee")).read("bag")
    with pytest.raises(FormatError, match=r"has 3 numbers; index \[2, 5\] were asked for"):
        source(path, MAP.replace("[2, 0]", "[2, 5]")).read("bag")
    with pytest.raises(FormatError, match=r"has no 'pose.position.w'"):
        source(path, MAP.replace("position.z", "position.w")).read("bag")
    with pytest.raises(FormatError, match=r"has no '__class__.__init__'"):
        source(path, MAP.replace("pose.position.z", "__class__.__init__")).read("bag")
    with pytest.raises(FormatError, match="JointState, not a picture"):
        source(path, MAP.replace("/front/image_raw", "/joint_states")).read("bag")
    with pytest.raises(ConfigError, match=r"state.joints: .*only one of joints"):
        source(path, MAP.replace("joints: [shoulder, elbow]", "joints: [a], index: [0]"))


def test_a_bag_that_was_cut_off_is_named(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "bag")
    file = next(path.glob("*.mcap"))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(FormatError, match="cut off"):
        source(path).names()


@given(
    st.lists(st.integers(0, 2000), min_size=1, max_size=30).map(sorted),
    st.integers(1, 50),
    st.integers(0, 300),
)
def test_resampling_agrees_with_looking_at_every_message(stamps: list[int], rate: int, age: int) -> None:
    times = np.array(stamps, np.int64) * 1_000_000
    heard = resample({"a": times}, rate, age * 1_000_000)
    ticks, index, good = heard.times, heard.index["a"], heard.good
    for tick, found, is_good in zip(ticks, index, good, strict=True):
        before = [i for i, time in enumerate(times) if time <= tick]
        assert found == before[-1]
        assert is_good == (tick - times[before[-1]] <= age * 1_000_000)
    assert ticks[0] == times[0] and ticks[-1] <= times[-1] < ticks[-1] + NS / rate + 1
    covered = {i for a, b in runs(good, 1) for i in range(a, b)}
    assert covered == set(np.flatnonzero(good))


MESSAGES = st.lists(st.tuples(st.integers(0, 3 * 10**9), st.sampled_from("abk")), min_size=1, max_size=60)


@given(MESSAGES, st.sampled_from([1.0, 7.5, 30.0, 29.97, 60.0]), st.integers(0, 10**9), st.integers(0, 2**20))
def test_what_arrives_bit_by_bit_falls_on_the_same_ticks(
    messages: list[tuple[int, str]], rate_hz: float, max_age_ns: int, asked: int
) -> None:
    """`k` is only kept, `a` and `b` are needed; after message i is asked for ticks if bit i of `asked` is set."""
    messages = sorted([(0, "a"), (5 * 10**8, "b"), *messages])
    times = {topic: np.array([t for t, other in messages if other == topic], np.int64) for topic in "abk"}
    whole = resample(times, rate_hz, max_age_ns, kept="k")
    stream = Resampler("ab", rate_hz, max_age_ns, kept="k")
    parts = []
    for number, (time, topic) in enumerate(messages):
        stream.extend(topic, [time])
        later = messages[number + 1][0] if number + 1 < len(messages) else time + 1
        if asked >> (number % 20) & 1:
            due = stream.due(later - 1)
            parts.append(stream.settled(later - 1))
            assert due == (len(parts[-1]) > 0)
    parts.append(stream.finish())
    assert np.array_equal(np.concatenate([part.times for part in parts]), whole.times)
    assert np.array_equal(np.concatenate([part.good for part in parts]), whole.good)
    for topic in "abk":
        assert np.array_equal(np.concatenate([part.index[topic] for part in parts]), whole.index[topic])


@given(st.integers(0, 10**11), st.floats(0.5, 240))
def test_ticks_go_exactly_to_the_last_message(span_ns: int, rate_hz: float) -> None:
    heard = resample({"a": np.array([7, 7 + span_ns])}, rate_hz, 0)
    assert heard.times[-1] <= 7 + span_ns < 7 + round(len(heard) * (NS / rate_hz))


def test_messages_out_of_order_are_refused() -> None:
    stream = Resampler("a", 30.0, 0)
    stream.extend("a", [5])
    with pytest.raises(ValueError, match="not in order"):
        stream.extend("a", [4])
    with pytest.raises(ValueError, match="at least one topic"):
        Resampler((), 30.0, 0)


def test_topic_map_refuses_aliases_and_unknown_keys(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("cameras: &x {front: {topic: /a}}\nstate: *x\n")
    with pytest.raises(FormatError, match="YAML alias"):
        read_topic_map(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_text("cameras: {front: {topic: /a, resize: 3}}\n")
    with pytest.raises(ConfigError, match="cameras.front.resize: Extra inputs"):
        read_topic_map(tmp_path / "b.yaml")
