"""rosbag2 in, MCAP or SQLite, without ROS: through a map of topics, at the rate of a contract.

Only message types that come with the library are read; definitions inside a bag are not used, since making types of
them would mean running code made out of data.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np

from foreact.datasets.episode import EpisodeData
from foreact.datasets.formats import ros_messages
from foreact.datasets.formats.base import FormatError
from foreact.datasets.formats.guess import natural
from foreact.datasets.formats.limits import MAX_FRAMES, check_bytes, read_yaml, short
from foreact.datasets.formats.mcap_check import check_mcap
from foreact.datasets.formats.names import unique_names
from foreact.datasets.formats.resample import NS, latest, resample, runs, spans
from foreact.datasets.formats.topics import Numbers, TopicMap, read_topic_map
from foreact.vla.contract import Contract, Field
from foreact.vla.errors import ConfigError


class RosbagSource:
    """One bag or a folder of bags; a bag becomes one episode, or several where values are missing in between."""

    format = "rosbag"
    OPTIONS = {
        "topics": "YAML file: which topic is which camera or field of --contract (see docs/formats.md); needed",
        "instruction": "sentence for every episode, where no topic gives one",
        "shortest": "stretches of fewer frames are left out; default 10",
    }

    def __init__(
        self, path: Path, contract: Contract | None = None, *, topics: str = "", instruction: str = "",
        shortest: str = "10",
    ):  # fmt: skip
        self.path = Path(path)
        if contract is None or not topics:
            raise ConfigError(
                "a bag does not say what its topics mean: give --contract FILE and --set topics=FILE (docs/formats.md)"
            )
        self.contract = contract
        self._map = read_topic_map(Path(topics))
        self._map.check(contract, topics)
        self._instruction = short(instruction)
        self._shortest = natural(shortest, "shortest", MAX_FRAMES)
        self._bags = _bags(self.path)
        self.frames: int | None = None
        self.notes: Sequence[str] = [
            f"each value is the latest at or before its tick, by the time of recording, and at most "
            f"{self._map.max_age_s:g} s old; stretches without such values, or shorter than {self._shortest} frames, "
            "are left out",
        ]

    @staticmethod
    def recognise(path: Path) -> bool:
        """Whether there is a bag, or a folder of bags."""
        return bool(_bags(path, strict=False))

    def names(self) -> Sequence[str]:
        """Name of the bag, with a number if it gave several episodes; reads the times of all messages once."""
        return list(self._stretches)

    def read(self, name: str) -> EpisodeData:
        """One stretch of a bag.

        Raises:
            FormatError: If the bag is damaged, or a message is not what the map says.
        """
        if name not in self._stretches:
            raise FormatError(f"{self.path} has no episode {name!r}")
        bag, ticks = self._stretches[name]
        contract, chosen = self.contract, self._map
        size = sum(c.height * c.width * 3 for c in contract.cameras)
        check_bytes(f"{bag}: {len(ticks):,} frames", len(ticks) * size)
        heard = _Heard(bag, ticks, *self._messages(bag, ticks))
        images = {}
        for camera in contract.cameras:
            topic = chosen.cameras[camera.name].topic
            frames = np.empty((len(ticks), camera.height, camera.width, 3), np.uint8)
            for t in range(len(ticks)):
                message, kind, what = heard.at(topic, t)
                frames[t] = ros_messages.picture(message, kind, what, camera.height, camera.width)
            images[camera.name] = frames
        sentences = heard.sentences(chosen.instruction.topic) if chosen.instruction else []
        sentence, segments = spans(sentences)
        return EpisodeData(
            images=images,
            state=heard.vectors(contract.state, chosen.state),
            action=heard.vectors(contract.action, chosen.action),
            instruction=sentence or self._instruction,
            segments=segments,
            meta={"source": f"{bag.name}, {int(ticks[0])} ns to {int(ticks[-1])} ns"},
        )

    @cached_property
    def _stretches(self) -> dict[str, tuple[Path, np.ndarray]]:
        found: list[tuple[Path, np.ndarray]] = []
        max_age = int(self._map.max_age_s * NS)
        for bag in self._bags:
            _, _, times = self._messages(bag, None)
            rate_hz = self.contract.rate_hz * self._map.speed_scale
            heard = resample({topic: times[topic] for topic in _topics(self._map)}, rate_hz, max_age)
            for start, end in runs(heard.good, self._shortest):
                if end - start > MAX_FRAMES:
                    raise FormatError(f"{bag} has a stretch of {end - start:,} frames; at most {MAX_FRAMES:,} are read")
                found.append((bag, heard.times[start:end]))
        if not found:
            raise FormatError(
                f"{self.path}: at no time all topics of the map have values of at most {self._map.max_age_s:g} s"
            )
        counts = {bag: sum(other == bag for other, _ in found) for bag, _ in found}
        number: dict[Path, int] = {}
        texts = []
        for bag, _ in found:
            number[bag] = number.get(bag, -1) + 1
            texts.append(f"{bag.stem}-{number[bag]:03d}" if counts[bag] > 1 else bag.stem)
        return dict(zip(unique_names(texts), found, strict=True))

    def _messages(
        self, bag: Path, ticks: np.ndarray | None
    ) -> tuple[dict[str, list[bytes]], dict[str, str], dict[str, np.ndarray]]:
        """Topic -> raw messages, topic -> type, topic -> times [ns]. Without ticks only the times, of the whole bag."""
        wanted = _topics(self._map) | ({self._map.instruction.topic} if self._map.instruction else set())
        raw: dict[str, list[bytes]] = {}
        times: dict[str, list[int]] = {}
        kinds: dict[str, str] = {}
        total = 0
        with _open(bag) as reader:
            chosen = [c for c in reader.connections if c.topic in wanted]
            for connection in chosen:
                if kinds.setdefault(connection.topic, connection.msgtype) != connection.msgtype:
                    raise FormatError(f"{bag}: {connection.topic} has messages of two types")
            missing = sorted(_topics(self._map) - kinds.keys())
            if missing:
                there = ", ".join(sorted({c.topic for c in reader.connections})) or "none"
                raise FormatError(f"{bag} has no topic {', '.join(missing)}; its topics: {there}")
            stop = None if ticks is None else int(ticks[-1]) + 1
            pictures = {c.topic for c in self._map.cameras.values()}
            start = None if ticks is None else int(ticks[0]) - int(self._map.max_age_s * NS)
            for connection, stamp, data in reader.messages(chosen, stop=stop):
                # Old pictures cannot be needed; an instruction may have been given long before.
                if start is not None and stamp < start and connection.topic in pictures:
                    continue
                times.setdefault(connection.topic, []).append(stamp)
                if ticks is not None:
                    total += len(data)
                    check_bytes(f"{bag}, messages of one episode,", total)
                    raw.setdefault(connection.topic, []).append(bytes(data))
        stamps = {}
        for topic, listed in times.items():
            order = np.argsort(listed, kind="stable")
            stamps[topic] = np.asarray(listed, np.int64)[order]
            if topic in raw:
                raw[topic] = [raw[topic][i] for i in order]
        if ticks is None and (silent := sorted(_topics(self._map) - stamps.keys())):
            raise FormatError(f"{bag}: no message on {', '.join(silent)}")
        return raw, kinds, stamps


class _Heard:
    """The messages of one stretch of a bag, decoded when a tick asks for them."""

    def __init__(
        self, bag: Path, ticks: np.ndarray, raw: dict[str, list[bytes]], kinds: dict[str, str],
        times: dict[str, np.ndarray],
    ):  # fmt: skip
        self._bag, self._ticks, self._raw, self._kinds = bag, ticks, raw, kinds
        self._numbers = {topic: latest(stamps, ticks) for topic, stamps in times.items()}
        self._last: dict[str, tuple[int, Any]] = {}

    def at(self, topic: str, tick: int) -> tuple[Any, str, str]:
        """The latest message at a tick, its type, and what to call it."""
        number, kind = int(self._numbers[topic][tick]), self._kinds[topic]
        what = f"{self._bag}: {topic}, message {number}"
        if self._last.get(topic, (-1, None))[0] != number:
            self._last[topic] = (number, _deserialize(self._raw[topic][number], kind, what))
        return self._last[topic][1], kind, what

    def vectors(self, fields: Sequence[Field], wanted: Mapping[str, Numbers]) -> np.ndarray | None:
        """(T, sum of sizes) float32 of the fields of a contract; None if it has none."""
        if not fields:
            return None
        out = np.empty((len(self._ticks), sum(field.size for field in fields)), np.float32)
        for t in range(len(self._ticks)):
            parts = []
            for field in fields:
                message, kind, what = self.at(wanted[field.name].topic, t)
                parts.append(ros_messages.numbers(message, kind, wanted[field.name], field.size, what))
            out[t] = np.concatenate(parts)
        return out

    def sentences(self, topic: str) -> list[str]:
        """The latest text at each tick, "" before the first."""
        if topic not in self._numbers:
            return []
        heard = self._numbers[topic]
        return [ros_messages.text(*self.at(topic, t)[::2]) if heard[t] >= 0 else "" for t in range(len(heard))]


def _deserialize(data: bytes, kind: str, what: str) -> Any:
    store = _types()
    if kind not in store.types:
        raise FormatError(f"{what} is of the type {kind!r:.100}, which is not read")
    try:
        return store.deserialize_cdr(data, kind)
    except Exception as error:  # the library raises whatever damaged bytes provoke
        raise FormatError(f"{what} is damaged: {error!r:.120}") from error


def _topics(chosen: TopicMap) -> set[str]:
    parts = (*chosen.cameras.values(), *chosen.state.values(), *chosen.action.values())
    return {part.topic for part in parts}


@cache
def _types() -> Any:
    from rosbags.typesys import Stores, get_typestore

    return get_typestore(Stores.ROS2_JAZZY)


@contextmanager
def _open(bag: Path) -> Iterator[Any]:
    from rosbags.rosbag2 import Reader

    for file in [bag] if bag.is_file() else sorted(bag.glob("*.mcap")):
        check_mcap(file)
    if bag.is_dir():
        info = read_yaml(bag / "metadata.yaml", "the bag's metadata")
        inner = info.get("rosbag2_bagfile_information", {}) if isinstance(info, dict) else {}
        if isinstance(inner, dict) and str(inner.get("compression_mode", "")).lower() not in ("", "none"):
            raise FormatError(f"{bag} is compressed as a whole or by message; unpack it once with `ros2 bag convert`")
    try:
        with Reader(bag) as reader:
            yield reader
    except (FormatError, ConfigError):
        raise
    except Exception as error:  # rosbags, sqlite3, struct and others, whatever damaged bytes provoke
        raise FormatError(f"{bag} is a damaged bag: {error!r:.200}") from error


def _bags(path: Path, strict: bool = True) -> list[Path]:
    def is_bag(place: Path) -> bool:
        if place.is_file():
            return place.suffix == ".mcap"
        return (place / "metadata.yaml").is_file() and any(place.glob("*.mcap")) | any(place.glob("*.db3"))

    if is_bag(path):
        return [path]
    found = sorted(p for p in path.iterdir() if is_bag(p)) if path.is_dir() else []
    if not found and strict:
        raise FormatError(f"{path} is neither a bag (metadata.yaml with .mcap or .db3, or .mcap) nor a folder of bags")
    return found
