"""Bags as they are written: read by others, cut off in many places, on a full disk, and behind a slow one."""

from __future__ import annotations

import errno
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory
from rosbags.rosbag2 import Reader

from foreact.datasets.formats.base import FormatError
from foreact.datasets.formats.mcap_check import check_mcap
from foreact.robot_bridge import record_messages as messages
from foreact.robot_bridge.record_mcap import BagError, McapRecorder
from foreact.robot_bridge.record_messages import MessageTypeError
from foreact.robot_bridge.record_metadata import OfferedQos
from foreact.robot_bridge.record_repair import mend_bag

T0 = 1_700_000_000_000_000_000
PICTURE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


def write(folder: Path, count: int = 20, **options: Any) -> McapRecorder:
    bag = McapRecorder(folder, attachments={"contract.yaml": ("application/yaml", b"version: 1")}, **options)
    bag.topic("/camera", messages.IMAGE, OfferedQos(reliability="best_effort", depth=5))
    bag.topic("/words", messages.TEXT, OfferedQos(durability="transient_local", depth=1))
    bag.write("/words", messages.text("open it"), T0)
    for i in range(count):
        assert bag.write("/camera", messages.image(PICTURE, 12.5 + i, "lens"), T0 + i * 10**7, 12_500_000_000 + i)
    return bag


@pytest.mark.parametrize("compression", ["zstd", "lz4", "none"])
def test_others_read_it(tmp_path: Path, compression: Any) -> None:
    report = write(tmp_path / "bag", compression=compression, information={"who": "me"}).close()
    assert report.written == {"/camera": 20, "/words": 1} and not report.dropped and not report.problem
    file = tmp_path / "bag" / "bag_0.mcap"
    check_mcap(file)
    with Reader(tmp_path / "bag") as reader:
        assert {c.topic: (c.msgtype, c.msgcount) for c in reader.connections} == {
            "/camera": ("sensor_msgs/msg/Image", 20),
            "/words": ("std_msgs/msg/String", 1),
        }
        assert (reader.start_time, reader.duration) == (T0, 19 * 10**7 + 1)
        qos = {c.topic: c.ext.offered_qos_profiles[0] for c in reader.connections}  # pyright: ignore
        assert qos["/camera"].reliability.name == "BEST_EFFORT" and qos["/camera"].depth == 5
        assert qos["/words"].durability.name == "TRANSIENT_LOCAL"
        assert len(list(reader.messages())) == 21
    with open(file, "rb") as stream:
        reader = make_reader(stream, decoder_factories=[DecoderFactory()])
        assert reader.get_header().profile == "ros2"
        [attachment] = reader.iter_attachments()
        assert (attachment.name, attachment.data) == ("contract.yaml", b"version: 1")
        metadata = {record.name: record.metadata for record in reader.iter_metadata()}
        assert metadata["foreact"]["who"] == "me" and {"foreact", "mcap", "numpy"} <= metadata["foreact"].keys()
        inner = yaml.safe_load(metadata["rosbag2"]["serialized_metadata"])
        schema, channel, message, image = next(reader.iter_decoded_messages(topics=["/camera"]))
        assert schema is not None and (schema.encoding, channel.message_encoding) == ("ros2msg", "cdr")
        assert "MSG: std_msgs/Header" in schema.data.decode() and "MSG: builtin_interfaces/Time" in schema.data.decode()
        assert (message.log_time, message.publish_time) == (T0, 12_500_000_000)
        assert (image.height, image.width, image.encoding, image.header.stamp.sec) == (48, 64, "rgb8", 12)
        assert np.array_equal(np.frombuffer(image.data, np.uint8).reshape(PICTURE.shape), PICTURE)
    outer = yaml.safe_load((tmp_path / "bag" / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert inner == outer and outer["version"] == 9 and outer["message_count"] == 21
    assert outer["custom_data"]["who"] == "me"


def test_a_message_of_each_kind_reads_back(tmp_path: Path) -> None:
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_JAZZY)

    def back(data: bytes, kind: str) -> Any:
        return store.deserialize_cdr(data, kind)

    joints = back(
        messages.joint_state(["a", "b"], np.array([1.0, 2.0]), None, 3.25), messages.JOINTS
    )  # fmt: skip
    assert joints.name == ["a", "b"] and joints.position.tolist() == [1.0, 2.0] and len(joints.velocity) == 0
    assert (joints.header.stamp.sec, joints.header.stamp.nanosec) == (3, 250_000_000)
    assert back(messages.numbers(np.array([1.5, -2.0])), messages.NUMBERS).data.tolist() == [1.5, -2.0]
    assert back(messages.text("öffne"), messages.TEXT).data == "öffne" and back(messages.flag(True), messages.FLAG).data


def flushed_prefix(tmp_path: Path) -> tuple[bytes, Path]:
    """A bag of several chunks, and the bytes of its file."""
    bag = write(tmp_path / "whole", flush_s=0.02, count=1)
    for i in range(1, 6):
        flushes = bag.flushes
        for topic in ("/camera", "/words"):
            data = messages.image(PICTURE, i, "") if topic == "/camera" else messages.text(f"{i}")
            bag.write(topic, data, T0 + i * 10**7)
        deadline = time.monotonic() + 10
        while bag.flushes == flushes and time.monotonic() < deadline:
            time.sleep(0.005)
            bag.write("/words", messages.text("again"), T0 + i * 10**7)
    assert not bag.close().problem
    return (tmp_path / "whole" / "whole_0.mcap").read_bytes(), tmp_path / "whole"


@pytest.mark.fault(row="D1", n=30, event="a bag that ends anywhere")
def test_a_bag_cut_off_anywhere_is_mended_to_its_last_whole_chunk(tmp_path: Path) -> None:
    cut_many(tmp_path, 18)


@pytest.mark.slow
@pytest.mark.fault(row="D1", n=300, event="a bag that ends anywhere")
def test_a_bag_cut_off_in_many_places(tmp_path: Path) -> None:
    cut_many(tmp_path, 290)


def cut_many(tmp_path: Path, places: int) -> None:
    data, whole = flushed_prefix(tmp_path)
    with open(whole / "whole_0.mcap", "rb") as stream:
        index = make_reader(stream).get_summary()
    assert index is not None and len(index.chunk_indexes) >= 5
    ends = [c.chunk_start_offset + c.chunk_length for c in index.chunk_indexes]
    with Reader(whole) as reader:
        everything = [(c.topic, t, bytes(d)) for c, t, d in reader.messages()]
    counts = []
    cuts = sorted({*np.linspace(100, len(data) - 1, places, dtype=int).tolist(), *ends, *(end - 1 for end in ends)})
    for i, cut in enumerate(cuts):
        folder = tmp_path / f"cut{i}"
        folder.mkdir()
        (folder / f"cut{i}_0.mcap").write_bytes(data[:cut])
        report = mend_bag(folder)
        chunks = sum(end <= cut for end in ends)
        assert report.chunks == chunks and report.lost_bytes <= cut
        check_mcap(folder / f"cut{i}_0.mcap")
        with Reader(folder) as reader:
            found = [(c.topic, t, bytes(d)) for c, t, d in reader.messages()] if reader.connections else []
        assert len(found) == report.messages and sorted(found) == sorted(everything[: len(found)])
        counts.append(len(found))
        assert mend_bag(folder).whole_before
    assert counts == sorted(counts) and counts[-1] == len(everything)


def test_a_damaged_chunk_ends_what_is_kept(tmp_path: Path) -> None:
    data, whole = flushed_prefix(tmp_path)
    with open(whole / "whole_0.mcap", "rb") as stream:
        index = make_reader(stream).get_summary()
    assert index is not None
    third = index.chunk_indexes[2]
    damaged = bytearray(data)
    damaged[third.chunk_start_offset + third.chunk_length - 20] ^= 0x40
    (whole / "whole_0.mcap").write_bytes(damaged)
    (whole / "metadata.yaml").unlink()
    report = mend_bag(whole)
    assert report.chunks == 2 and report.why and report.lost_bytes > 0
    with pytest.raises(BagError, match="one .mcap, found 0"):
        mend_bag(tmp_path)
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "odd_0.mcap").write_bytes(b"no bag at all")
    with pytest.raises(BagError, match="does not begin as an MCAP"):
        mend_bag(tmp_path / "odd")
    assert (tmp_path / "odd" / "odd_0.mcap").read_bytes() == b"no bag at all"
    assert [p.name for p in (tmp_path / "odd").iterdir()] == ["odd_0.mcap"]


class _Stream:
    """A file that fails, or waits, when it is written to."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.fails, self.goes_on = inner, False, threading.Event()
        self.goes_on.set()

    def write(self, data: Any) -> int:
        self.goes_on.wait()
        if self.fails:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.inner.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def slowed(bag: McapRecorder) -> _Stream:
    stream = _Stream(bag._stream)  # pyright: ignore[reportPrivateUsage]
    bag._writer._Writer__stream = stream  # pyright: ignore
    return stream


@pytest.mark.fault(row="D6", n=1, event="the disk is full while a bag is written")
def test_a_full_disk_is_said_and_what_was_flushed_is_kept(tmp_path: Path) -> None:
    bag = write(tmp_path / "bag", flush_s=0.01)
    while not bag.flushes:
        time.sleep(0.01)
        bag.write("/words", messages.text("x"), T0)
    stream = slowed(bag)
    stream.fails = True
    while not bag.problem:
        bag.write("/camera", messages.image(PICTURE, 0, ""), T0 + 10**9)
        time.sleep(0.01)
    assert not bag.write("/camera", messages.image(PICTURE, 0, ""), T0 + 10**9)
    report = bag.close()
    assert "No space left on device" in report.problem and report.dropped["/camera"] >= 1
    assert not (tmp_path / "bag" / "metadata.yaml").exists()
    with pytest.raises(FormatError):
        check_mcap(tmp_path / "bag" / "bag_0.mcap")
    assert mend_bag(tmp_path / "bag").messages >= 1
    with Reader(tmp_path / "bag") as reader:
        assert len(list(reader.messages())) >= 1


@pytest.mark.fault(row="D16", n=1, event="the disk stalls while a bag is written")
def test_a_slow_disk_holds_nobody_up_and_drops_are_counted(tmp_path: Path) -> None:
    bag = write(tmp_path / "bag", count=0, flush_s=0.01, queue_bytes=100_000)
    stream = slowed(bag)
    stream.goes_on.clear()
    image = messages.image(PICTURE, 0, "")
    longest = 0.0
    kept = 0
    for i in range(200):
        before = time.perf_counter()
        kept += bag.write("/camera", image, T0 + i)
        longest = max(longest, time.perf_counter() - before)
    stream.goes_on.set()
    report = bag.close()
    assert longest < 1.0 and 0 < kept < 200  # it would wait for ever if it waited
    assert report.written["/camera"] == kept and report.dropped["/camera"] == 200 - kept


def test_what_cannot_be_recorded_is_named(tmp_path: Path) -> None:
    with write(tmp_path / "bag", count=1) as bag:
        with pytest.raises(BagError, match="/camera is recorded as sensor_msgs/msg/Image, messages of std_msgs"):
            bag.topic("/camera", messages.TEXT)
        with pytest.raises(MessageTypeError, match="'my_msgs/msg/Odd' is unknown"):
            bag.topic("/odd", "my_msgs/msg/Odd")
        assert not bag.write("/never_announced", b"", T0)
        with pytest.raises(BagError, match="exists already"):
            McapRecorder(tmp_path / "bag")
        (tmp_path / "file").write_text("")
        with pytest.raises(BagError, match="cannot be made"):
            McapRecorder(tmp_path / "file" / "bag")
    assert not bag.write("/camera", b"", T0)  # closed
