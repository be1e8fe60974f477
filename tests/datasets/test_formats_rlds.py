"""RLDS records, written here byte by byte from the published formats."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from foreact.datasets.formats.base import FormatError, Source
from foreact.datasets.formats.registry import recognise
from foreact.datasets.formats.rlds import RldsSource
from foreact.datasets.formats.tfrecord import masked_crc, parse_example, read_record, record_offsets
from foreact.vla.contract import Field
from foreact.vla.errors import ConfigError


def varint(value: int) -> bytes:
    value &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def example(features: dict[str, Any], packed: bool = True) -> bytes:
    entries = b""
    for key, value in features.items():
        if isinstance(value, list):
            feature = field(1, b"".join(field(1, item) for item in value))
        elif value.dtype.kind == "f" and packed:
            feature = field(2, field(1, value.astype("<f4").tobytes()))
        elif value.dtype.kind == "f":
            feature = field(2, b"".join(varint(1 << 3 | 5) + struct.pack("<f", v) for v in value))
        elif packed:
            feature = field(3, field(1, b"".join(varint(int(v)) for v in value)))
        else:
            feature = field(3, b"".join(varint(1 << 3) + varint(int(v)) for v in value))
        entries += field(1, field(1, key.encode()) + field(2, feature))
    return field(1, entries)


def crc32c_bitwise(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def record(data: bytes) -> bytes:
    def masked(part: bytes) -> bytes:
        crc = crc32c_bitwise(part) if len(part) < 5000 else (masked_crc(part) - 0xA282EAD8) & 0xFFFFFFFF
        if len(part) < 5000:
            crc = (crc >> 15 | crc << 17) & 0xFFFFFFFF
        return struct.pack("<I", crc + 0xA282EAD8 & 0xFFFFFFFF)

    length = struct.pack("<Q", len(data))
    return length + masked(length) + data + masked(data)


def picture(level: int, kind: str = "PNG", size: tuple[int, int] = (16, 12)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (level, level, level)).save(file, kind)
    return file.getvalue()


def tensor(dtype: str, *shape: int) -> dict[str, Any]:
    return {
        "tensor": {
            "shape": {"dimensions": [str(n) for n in shape]} if shape else {},
            "dtype": dtype,
            "encoding": "none",
        }
    }


def folder(**features: Any) -> dict[str, Any]:
    return {"pythonClassName": "FeaturesDict", "featuresDict": {"features": features}}


def write_rlds(path: Path, lengths: list[list[int]] = [[3, 5], [4]]) -> Path:  # noqa: B006 - never changed
    path.mkdir(parents=True)
    dims = {"shape": {"dimensions": ["12", "16", "3"]}, "dtype": "uint8", "encodingFormat": "png"}
    step = folder(
        observation=folder(
            image={"image": dims},
            state=tensor("float32", 2),
            gripper=tensor("float32"),
            depth={"image": {"shape": {"dimensions": ["12", "16", "1"]}, "dtype": "uint16"}},
        ),
        action=tensor("float32", 3),
        language_instruction={"text": {}},
        reward=tensor("float32"),
        is_first=tensor("bool"),
        language_embedding=tensor("float32", 2, 512),
    )
    features = folder(steps={"pythonClassName": "Dataset", "sequence": {"feature": step, "length": "-1"}})
    (path / "features.json").write_text(json.dumps(features))
    splits = [{"name": "train", "shardLengths": [str(len(shard)) for shard in lengths]}]
    (path / "dataset_info.json").write_text(json.dumps({"name": "test_robot", "splits": splits}))
    number = 0
    for shard, episodes in enumerate(lengths):
        with open(path / f"test_robot-train.tfrecord-{shard:05d}-of-{len(lengths):05d}", "wb") as file:
            for n in episodes:
                texts = [b"open the drawer" if t < 3 else b"close it" for t in range(n)]
                values = {
                    "steps/observation/image": [picture(10 * number + t) for t in range(n)],
                    "steps/observation/state": np.arange(2 * n) + 100.0 * number,
                    "steps/observation/gripper": np.arange(n) / 2,
                    "steps/observation/depth": [b"" for _ in range(n)],
                    "steps/action": -np.arange(3.0 * n),
                    "steps/language_instruction": texts,
                    "steps/reward": np.eye(n)[-1],
                    "steps/is_first": np.eye(n, dtype=np.int64)[0],
                    "steps/language_embedding": np.zeros(n * 1024),
                }
                file.write(record(example(values, packed=number % 2 == 0)))
                number += 1
    return path


def test_episodes_of_a_prepared_dataset(tmp_path: Path) -> None:
    path = write_rlds(tmp_path / "test_robot" / "1.0.0")
    assert recognise(path) == "rlds"
    source = RldsSource(path, rate_hz="5")
    assert isinstance(source, Source)
    assert source.names() == ["train-00000-000000", "train-00000-000001", "train-00001-000000"]
    contract = source.contract
    assert (contract.embodiment, contract.rate_hz) == ("test_robot", 5)
    assert [(c.name, c.height, c.width) for c in contract.cameras] == [("image", 12, 16)]
    assert [(f.name, f.size) for f in contract.state] == [("state", 2), ("gripper", 1)]
    assert [(f.name, f.size) for f in contract.action] == [("action", 3)]
    episode = source.read("train-00000-000001")
    assert episode.images["image"][:, 3, 4, 1].tolist() == [10, 11, 12, 13, 14]
    np.testing.assert_array_equal(episode.state, [[100 + 2 * t, 101 + 2 * t, t / 2] for t in range(5)])
    np.testing.assert_array_equal(episode.action, -np.arange(15.0).reshape(5, 3))
    assert episode.extras["reward"].tolist() == [0, 0, 0, 0, 1]
    assert episode.instruction == "open the drawer"
    assert [(s.start, s.end, s.instruction) for s in episode.segments] == [
        (0, 3, "open the drawer"),
        (3, 5, "close it"),
    ]
    assert not source.read("train-00000-000000").segments
    assert "left out: language_embedding, observation/depth" in source.notes


def test_a_contract_may_name_units_but_not_other_sizes(tmp_path: Path) -> None:
    path = write_rlds(tmp_path / "x")
    contract = RldsSource(path).contract
    named = contract.model_copy(update={"rate_hz": 3.0, "embodiment": "widowx"})
    assert RldsSource(path, named).contract.embodiment == "widowx"
    with pytest.raises(FormatError, match="--contract does not fit"):
        RldsSource(path, contract.model_copy(update={"action": ()}))


TFDS = Path(__file__).parent / "fixtures/rlds_tfds"
"""Written by tensorflow_datasets 4.9.10 itself, with scripts/peers/rlds/write.py."""


def columns(fields: Sequence[Field], values: np.ndarray | None) -> dict[str, np.ndarray]:
    assert values is not None
    edges = np.cumsum([field.size for field in fields])[:-1]
    return dict(zip([field.name for field in fields], np.split(values, edges, axis=1), strict=True))


def test_what_tensorflow_datasets_wrote_reads_as_tensorflow_datasets_reads_it() -> None:
    source = RldsSource(TFDS, rate_hz="3")
    expected = np.load(TFDS / "read_by_tfds.npz")
    names = source.names()
    assert len(names) == 7 and {name.split("-")[1] for name in names} == {"00000", "00001"}
    numbers = 0
    for split in ("train", "val"):
        for number, name in enumerate(n for n in names if n.startswith(split)):
            episode = source.read(name)
            tfds = {k.split("/", 2)[2]: expected[k] for k in expected.files if k.startswith(f"{split}/{number}/")}
            np.testing.assert_array_equal(episode.images["image"], tfds["observation/image"])
            off = episode.images["wrist_image"].astype(int) - tfds["observation/wrist_image"]
            assert np.abs(off).max() <= 16 and np.abs(off).mean() < 3  # another JPEG decoder
            found = columns(source.contract.state, episode.state) | columns(source.contract.action, episode.action)
            assert len(found) == 7
            for key, values in found.items():
                theirs = tfds.get(f"observation/{key}", tfds.get(f"action/{key.removeprefix('action_')}"))
                assert theirs is not None
                np.testing.assert_array_equal(values, theirs.reshape(len(episode), -1).astype(np.float32), key)
                numbers += values.size
            np.testing.assert_array_equal(episode.extras["reward"], tfds["reward"])
            said = [episode.instruction] * len(episode)
            for segment in episode.segments:
                said[segment.start : segment.end] = [segment.instruction] * (segment.end - segment.start)
            assert said == tfds["observation/natural_language_instruction"].tolist()
    assert numbers == (7 + 1 + 1 + 3 + 3 + 1 + 3) * sum([3, 4, 5, 6, 7, 3, 4])
    (left_out,) = [note for note in source.notes if note.startswith("left out")]
    for key in ("observation/natural_language_embedding", "observation/depth", "observation/workspace_bounds"):
        assert key in left_out


def test_keys_of_state_and_action_are_chosen_in_an_order() -> None:
    source = RldsSource(TFDS, state="gripper_closed, state", action="rotation_delta,world_vector")
    assert [field.name for field in source.contract.state] == ["gripper_closed", "state"]
    assert [field.name for field in source.contract.action] == ["action_rotation_delta", "action_world_vector"]
    name = source.names()[0]
    chosen, every = source.read(name), RldsSource(TFDS).read(name)
    both = columns(RldsSource(TFDS).contract.state, every.state)
    np.testing.assert_array_equal(chosen.state, np.concatenate([both["gripper_closed"], both["state"]], axis=1))
    assert any("action/terminate_episode" in note and "base_moves" in note for note in source.notes)
    embedding = RldsSource(TFDS, state="natural_language_embedding").read(name).state
    assert embedding is not None and embedding.shape[1] == 16 and (embedding == 1).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"state": "stat"}, "option state: .* has no vector 'stat'; .*did you mean 'state'"),
        ({"action": "gripper"}, "option action: .* has no vector 'gripper'"),
        ({"state": "state,state"}, "each key once"),
    ],
)
def test_keys_that_are_not_there_are_named(options: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RldsSource(TFDS, None, **options)


@given(
    st.dictionaries(
        st.text(max_size=20),
        st.lists(st.binary(max_size=50), min_size=1)
        | st.lists(st.floats(width=32, allow_nan=False), min_size=1).map(lambda v: np.array(v, np.float32))
        | st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1).map(lambda v: np.array(v, np.int64)),
        max_size=5,
    ),
    st.booleans(),
)
def test_examples_are_read_as_written(features: dict[str, Any], packed: bool) -> None:
    found = parse_example(example(features, packed), "x")
    assert found.keys() == features.keys()
    for key, value in features.items():
        if isinstance(value, list):
            assert found[key] == value
        else:
            np.testing.assert_array_equal(found[key], value)


def test_crc_is_the_published_one() -> None:
    assert (
        crc32c_bitwise(b"123456789") == 0xE3069283
    )  # RFC 3720, appendix B.4 gives the polynomial and this check value
    for data in (b"", b"a", bytes(range(256))):
        crc = crc32c_bitwise(data)
        assert masked_crc(data) == ((crc >> 15 | crc << 17) & 0xFFFFFFFF) + 0xA282EAD8 & 0xFFFFFFFF


@pytest.mark.parametrize("at", [0, 5, 9, 14, 40, -2])
def test_a_flipped_bit_is_noticed(tmp_path: Path, at: int) -> None:
    data = bytearray(record(b"x" * 60))
    data[at] ^= 8
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(FormatError, match="damaged|truncated|declares"):
        ((offset, length),) = record_offsets(tmp_path / "a")
        read_record(tmp_path / "a", offset, length)


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    path = write_rlds(tmp_path / "x")
    file = path / "test_robot-train.tfrecord-00001-of-00002"
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(FormatError, match="00001-of-00002 is truncated"):
        RldsSource(path).read("train-00001-000000")
