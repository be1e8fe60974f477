"""Messages: what others send is read as they mean it; what is hostile is refused before it costs anything."""

from __future__ import annotations

import io
import os
import pickle
import random
import struct
import sys
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreact.vla.serving.msgpack_reader import MAX_DEPTH, MAX_ITEMS, MAX_MESSAGE_BYTES, WireError, read_msgpack
from foreact.vla.serving.wire import pack_gr00t, pack_openpi, unpack_gr00t, unpack_openpi

# Bytes written by openpi-client 0.1.0 (Physical-Intelligence/openpi 15a9616, Apache-2.0), `msgpack_numpy.packb`.
OPENPI_REQUEST = bytes.fromhex(
    "84b16f62736572766174696f6e2f696d61676584c40b5f5f6e6461727261795f5fc3c40464617461c40c000102030405060708090a0bc405"
    "6474797065a37c7531c405736861706593020203b16f62736572766174696f6e2f737461746584c40b5f5f6e6461727261795f5fc3c404"
    "64617461c410000000000000e03f000000000000f0bfc4056474797065a33c6638c40573686170659102a4666c616783c40d5f5f6e7067"
    "656e657269635f5fc3c40464617461cb4004000000000000c4056474797065a33c6634a670726f6d7074a2676f"
)
OPENPI_REPLY = bytes.fromhex(
    "82a7616374696f6e7384c40b5f5f6e6461727261795f5fc3c40464617461c4080000003f000080bfc4056474797065a33c6634c40573686170"
    "65920102ad7365727665725f74696d696e6781a8696e6665725f6d73cb3ff8000000000000"
)
# Bytes written by GR00T's `MsgSerializer.to_bytes` (NVIDIA/Isaac-GR00T N1.7, Apache-2.0).
GR00T_REPLY = bytes.fromhex(
    "9281a361726d82b15f5f6e6461727261795f636c6173735f5fc3a661735f6e7079c488934e554d5059010076007b276465736372273a20"
    "273c6634272c2027666f727472616e5f6f72646572273a2046616c73652c20277368617065273a2028312c20312c2032292c207d202020"
    "202020202020202020202020202020202020202020202020202020202020202020202020202020202020202020202020202020200a0000"
    "003f000080bf80"
)

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=40)
    | st.binary(max_size=300),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=40), inner, max_size=20),
    max_leaves=30,
)


def _plain(value: Any) -> Any:
    """As msgpack gives it: buffers as bytes."""
    if isinstance(value, memoryview):
        return bytes(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return {key: _plain(item) for key, item in value.items()} if isinstance(value, dict) else value


def _depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 0 if not isinstance(value, dict | list) else 1 + max(map(_depth, inner), default=0)


@given(PLAIN)
@settings(max_examples=300, deadline=None)
def test_the_reader_agrees_with_msgpack(value: Any) -> None:
    data = msgpack.packb(value)
    assert data is not None
    if _depth(value) > MAX_DEPTH:
        with pytest.raises(WireError, match="nested"):
            read_msgpack(data)
    else:
        assert _plain(read_msgpack(data)) == msgpack.unpackb(data) == value


def test_all_number_codes_are_read() -> None:
    values = [0, 127, 128, 255, 256, 65535, 65536, 2**32 - 1, 2**32, 2**64 - 1]
    values += [-1, -32, -33, -128, -129, -32768, -32769, -(2**31), -(2**31) - 1, -(2**63)]
    packed = msgpack.packb([*values, 0.1])
    assert packed is not None
    assert read_msgpack(packed) == [*values, 0.1]
    assert read_msgpack(b"\xca" + struct.pack(">f", 0.5)) == 0.5
    long = {"t" * 40: "x" * 300, "u": "y" * 70_000, "b": b"z" * 70_000, "l": list(range(70))}
    packed = msgpack.packb(long)
    assert packed is not None
    assert _plain(read_msgpack(packed)) == long


def test_what_openpi_and_gr00t_wrote_is_read_and_written_the_same_way() -> None:
    found = unpack_openpi(OPENPI_REQUEST)
    assert found["prompt"] == "go" and found["flag"] == np.float32(2.5) and found["flag"].dtype == np.float32
    np.testing.assert_array_equal(found["observation/image"], np.arange(12, dtype=np.uint8).reshape(2, 2, 3))
    np.testing.assert_array_equal(found["observation/state"], [0.5, -1.0])
    reply = {"actions": np.array([[0.5, -1.0]], np.float32), "server_timing": {"infer_ms": 1.5}}
    assert pack_openpi(reply) == OPENPI_REPLY

    action, info = unpack_gr00t(GR00T_REPLY)
    assert info == {} and action["arm"].shape == (1, 1, 2) and action["arm"].dtype == np.float32
    np.testing.assert_array_equal(action["arm"].ravel(), [0.5, -1.0])
    assert pack_gr00t([{"arm": np.array([[[0.5, -1.0]]], np.float32)}, {}]) == GR00T_REPLY


@pytest.mark.parametrize("kind", ["|b1", "|u1", "|i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8", "<f2", "<f4", "<f8"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3), (1, 2, 2, 3), (4, 0, 2)])
def test_arrays_survive_both_dialects(kind: str, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 2, shape).astype(kind)
    for pack, unpack in ((pack_openpi, unpack_openpi), (pack_gr00t, unpack_gr00t)):
        for sent in (array, np.array(array, order="F"), array.astype(array.dtype.newbyteorder(">"))):
            found = unpack(pack({"a": sent}))["a"]
            assert found.dtype == np.dtype(kind) and found.shape == shape
            np.testing.assert_array_equal(found, array)
    assert not unpack_openpi(pack_openpi({"a": array}))["a"].flags.writeable


@pytest.mark.parametrize(
    "value", [object(), np.array([object()]), np.array(["text"]), np.zeros(2, complex), np.zeros(2, "M8[s]"), {1, 2}]
)
def test_what_is_not_numbers_is_not_sent(value: Any) -> None:
    for pack in (pack_openpi, pack_gr00t):
        with pytest.raises(WireError, match="cannot be sent"):
            pack({"a": value})


def _openpi_array(**changes: Any) -> bytes:
    described = {b"__ndarray__": True, b"data": bytes(8), b"dtype": "<f4", b"shape": [2]}
    described |= {key.encode(): value for key, value in changes.items()}
    packed = msgpack.packb({"a": {k: v for k, v in described.items() if v is not None}})
    assert packed is not None
    return packed


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dtype": "|O"}, "type"),
        ({"dtype": "O"}, "type"),
        ({"dtype": ">f4"}, "type"),
        ({"dtype": "<U8"}, "type"),
        ({"dtype": "|V8"}, "type"),
        ({"dtype": "<f4,(1000000000,)i8"}, "type"),
        ({"dtype": [["a", "<f4"]]}, "type"),
        ({"dtype": 5}, "type"),
        ({"dtype": None}, "type"),
        ({"shape": [3]}, "contents"),
        ({"shape": [2**62]}, "shape"),
        ({"shape": [-2]}, "shape"),
        ({"shape": [2, -1]}, "shape"),
        ({"shape": [True, 2]}, "shape"),
        ({"shape": [2.0]}, "shape"),
        ({"shape": [1] * 7}, "shape"),
        ({"shape": None}, "shape"),
        ({"shape": "2"}, "shape"),
        ({"data": "not bytes"}, "contents"),
        ({"data": None}, "contents"),
        ({"data": b"", "shape": [0, 2**24, 2**24, 2**24]}, "shape"),
    ],
)
def test_openpi_arrays_that_are_none_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(WireError, match=words):
        unpack_openpi(_openpi_array(**changes))


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


class _Canary:
    """Unpickling it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.fault("S13", n=4, event="a pickle where an array is expected")
def test_pickles_are_never_opened(tmp_path: Path) -> None:
    there = tmp_path / "opened"
    objects = np.array([_Canary(there)], dtype=object)
    data = _npy(objects)
    with pytest.raises(WireError, match="type"):
        unpack_gr00t(msgpack.packb({"a": {"__ndarray_class__": True, "as_npy": data}}) or b"")
    raw = pickle.dumps(_Canary(there))
    for message in (
        raw,
        msgpack.packb({"a": {"__ndarray_class__": True, "as_npy": raw}}) or b"",
        _openpi_array(data=raw),
    ):
        for unpack in (unpack_openpi, unpack_gr00t):
            with suppress(WireError):  # a buffer of that name is fine; to open it is not
                unpack(message)
    assert not there.exists()
    pickle.loads(raw)  # noqa: S301  the canary sings when it is let out
    assert there.exists()


def _header(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00\x76\x00" + text.encode().ljust(117) + b"\n"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93NUMPY",
        b"\x93NUMPY\x01\x00\xff\xff",
        b"\x93NUMPY\x03\x00\x10\x00\x00\x00{}",
        _header("(" * 117),
        _header("{'descr': __import__('os').abort(), 'fortran_order': False, 'shape': (1,)}"),
        _header("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }"),
        _header("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }") + bytes(4),
        _header("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }") + bytes(4),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_npy_files_that_are_none_are_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        unpack_gr00t(msgpack.packb({"__ndarray_class__": True, "as_npy": data}) or b"")


def test_limits_hold_before_memory_is_taken() -> None:
    lists = b"\xdd" + struct.pack(">I", 2**32 - 1)  # four billion entries, none of them there
    many = b"\xdd" + struct.pack(">I", 8_000_000) + b"\x90" * 8_000_000
    nested = b"\x91" * 100_000
    wide = msgpack.packb([[0] * 10_000, [0] * 10_001])
    assert wide is not None
    cases = {
        lists: "values",
        many: "values",
        wide: "values",
        nested: "nested",
        b"\xdf" + struct.pack(">I", 2**32 - 1): "values",
        b"\xc6" + struct.pack(">I", 2**32 - 1): "ends",
        b"\xdb" + struct.pack(">I", 2**31): "text of",
        bytes(MAX_MESSAGE_BYTES + 1): "at most",
        b"\xc1": "extension",
        b"\xd4\x01\x00": "extension",
        b"\xd6\xff\x00\x00\x00\x00": "extension",
        b"\x01\x01": "follow",
        b"": "ends",
        b"\xa2\xff\xfe": "UTF-8",
        b"\x81\x90\x01": "nested",
        b"\x81\x01\x01": "short text",
        b"\x82\xa1a\x01\xa1a\x02": "twice",
        b"\x81\xd9\xff" + b"k" * 255 + b"\x01": "",
    }
    tracemalloc.start()
    try:
        for data, words in cases.items():
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            if words:
                with pytest.raises(WireError, match=words):
                    read_msgpack(data)
            else:
                assert read_msgpack(data) == {"k" * 255: 1}
            assert tracemalloc.get_traced_memory()[1] - before < 4 << 20, words
    finally:
        tracemalloc.stop()
    assert MAX_ITEMS < 100_000 and sys.getrecursionlimit() // 10 > MAX_DEPTH


def _mutated(message: bytes, rng: random.Random) -> bytes:
    data = bytearray(message)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(data)) if data else 0
        what = rng.randrange(5)
        if what == 0 and data:
            data[at] = rng.randrange(256)
        elif what == 1:
            data[at:at] = rng.randbytes(rng.randint(1, 9))
        elif what == 2:
            del data[at : at + rng.randint(1, 20)]
        elif what == 3 and data:
            data[at] ^= 1 << rng.randrange(8)
        else:
            del data[rng.randint(0, len(data)) :]
    return bytes(data)


def _hostile_reading(n: int) -> None:
    rng = random.Random(0)
    for trial in range(n):
        seed = (OPENPI_REQUEST, OPENPI_REPLY, GR00T_REPLY)[trial % 3]
        data = rng.randbytes(rng.randint(0, 200)) if trial % 10 == 0 else _mutated(seed, rng)
        for unpack in (unpack_openpi, unpack_gr00t):
            try:
                unpack(data)
            except WireError as error:
                assert "Traceback" not in str(error) and len(str(error)) < 600


@pytest.mark.filterwarnings("ignore")  # NumPy warns of headers as Python 2 wrote them
@pytest.mark.fault("S13", n=5_000, event="random and mutated messages (reader)")
def test_hostile_bytes_are_read_or_refused() -> None:
    _hostile_reading(5_000)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.fault("S13", n=200_000, event="random and mutated messages (reader)")
def test_very_many_hostile_bytes_are_read_or_refused() -> None:
    _hostile_reading(200_000)
