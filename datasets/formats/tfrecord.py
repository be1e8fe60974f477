"""TFRecord files and `tf.train.Example`, read without TensorFlow.

Framing: https://www.tensorflow.org/tutorials/load_data/tfrecord: length, masked CRC-32C of it, data, masked CRC-32C of
the data.
Messages: tensorflow/core/example/{example,feature}.proto (Apache-2.0), in the protobuf wire format.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import google_crc32c
import numpy as np

from foreact.datasets.formats.base import FormatError
from foreact.datasets.formats.limits import MAX_ENTRIES, check_bytes

MAX_RECORD_BYTES = 2 << 30
_HEADER = 12
Feature = list[bytes] | np.ndarray
"""Texts or encoded pictures, or (N,) float32, or (N,) int64."""


def record_offsets(path: Path) -> list[tuple[int, int]]:
    """Offset and length of each record's data; only the headers are read, and checked.

    Raises:
        FormatError: If the file is damaged or truncated.
    """
    found = []
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            at = 0
            while at < size:
                file.seek(at)
                header = file.read(_HEADER)
                if len(header) < _HEADER or struct.unpack("<I", header[8:])[0] != masked_crc(header[:8]):
                    raise FormatError(
                        f"{path} is damaged at byte {at:,}: the length of a record does not match its CRC"
                    )
                length = check_bytes(f"{path}, a record,", struct.unpack("<Q", header[:8])[0], MAX_RECORD_BYTES)
                if at + _HEADER + length + 4 > size:
                    raise FormatError(f"{path} is truncated: the record at byte {at:,} has {length:,} bytes")
                found.append((at + _HEADER, length))
                if len(found) > MAX_ENTRIES:
                    raise FormatError(f"{path} has more than {MAX_ENTRIES:,} records")
                at += _HEADER + length + 4
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error.strerror or error}") from error
    return found


def read_record(path: Path, offset: int, length: int) -> bytes:
    """The data of one record.

    Raises:
        FormatError: If it does not match its CRC.
    """
    with open(path, "rb") as file:
        file.seek(offset)
        data = file.read(length + 4)
    if len(data) != length + 4 or struct.unpack("<I", data[length:])[0] != masked_crc(data[:length]):
        raise FormatError(f"{path} is damaged: the record at byte {offset:,} does not match its CRC")
    return data[:length]


def masked_crc(data: bytes) -> int:
    """CRC-32C, rotated and shifted as TFRecord does."""
    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def parse_example(data: bytes, what: str) -> dict[str, Feature]:
    """The features of a serialised `tf.train.Example` by name.

    Raises:
        FormatError: If the bytes are no such message.
    """
    features: dict[str, Feature] = {}
    view = memoryview(data)
    try:
        for number, value in _fields(view):
            if number != 1:  # Example.features
                continue
            for inner, entry in _fields(_message(value)):
                if inner != 1:  # Features.feature, a map
                    continue
                key, feature = b"", memoryview(b"")
                for part, content in _fields(_message(entry)):
                    if part == 1:
                        key = bytes(_message(content))
                    elif part == 2:
                        feature = _message(content)
                features[key.decode("utf-8")] = _feature(feature)
    except (ValueError, IndexError, struct.error) as error:
        raise FormatError(f"{what} is not a tf.train.Example: {error!s:.150}") from error
    return features


def _feature(data: memoryview) -> Feature:
    for number, value in _fields(data):
        values = list(_fields(_message(value)))
        if any(inner != 1 for inner, _ in values):
            raise ValueError("a list with an unknown field")
        if number == 1:
            return [bytes(_message(item)) for _, item in values]
        if number == 2:  # packed, or one by one
            raw = b"".join(bytes(item) for _, item in values if isinstance(item, memoryview))
            if len(values) and len(raw) == 0 and any(not isinstance(item, memoryview) for _, item in values):
                raise ValueError("floats that are not 4 bytes")
            return np.frombuffer(raw, "<f4")
        if number == 3:
            numbers = [n for _, item in values for n in (_varints(item) if isinstance(item, memoryview) else [item])]
            return np.array(numbers, np.uint64).astype(np.int64)
        raise ValueError("a feature of an unknown kind")
    return []


def _message(value: memoryview | int) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number where a message should be")
    return value


def _varints(data: memoryview) -> Iterator[int]:
    at = 0
    while at < len(data):
        value, at = _varint(data, at)
        yield value


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Field numbers and contents of a message; contents of 4 and 8 bytes come as bytes."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if kind == 2:
            length, at = _varint(data, at)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if at + length > len(data):
            raise ValueError("a field beyond the end of its message")
        yield number, data[at : at + length]
        at += length
