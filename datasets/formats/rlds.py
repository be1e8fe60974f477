"""RLDS datasets in, as TensorFlow Datasets writes them (Open X-Embodiment, DROID), without TensorFlow.

Layout: https://github.com/google-research/rlds (Apache-2.0) and https://www.tensorflow.org/datasets.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from foreact.datasets.episode import EpisodeData, Segment
from foreact.datasets.formats.base import FormatError
from foreact.datasets.formats.guess import positive
from foreact.datasets.formats.limits import (
    MAX_ENTRIES,
    MAX_FRAMES,
    check_bytes,
    check_image_size,
    inside,
    read_json,
    short,
)
from foreact.datasets.formats.names import safe_name, unique_names
from foreact.datasets.formats.pictures import decode_picture
from foreact.datasets.formats.tfds_features import Leaf, read_step_features
from foreact.datasets.formats.tfrecord import Feature, parse_example, read_record, record_offsets
from foreact.vla.contract import Camera, Contract, Field
from foreact.vla.errors import ConfigError, did_you_mean

ASSUMED_RATE_HZ = 10.0
_FILE = re.compile(r"(.+)-([A-Za-z0-9_]+)\.tfrecord-(\d{5})-of-(\d{5})")
_FLAGS = ("steps/is_first", "steps/is_last", "steps/is_terminal")
_LANGUAGE = ("steps/language_instruction", "steps/observation/natural_language_instruction")


class RldsSource:
    """Episodes of all splits of one prepared dataset folder (`<name>/<version>/`)."""

    format = "rlds"
    OPTIONS = {
        "rate_hz": "control rate [Hz], which the format does not record; default 10",
        "split": "only this split, such as train; default: all",
        "robot": "name of the robot; default: the dataset's",
        "state": "keys of the observation that are the state, in this order, such as state,gripper_closed; default: "
        "all vectors but embeddings",
        "action": "keys of the action, in this order, such as world_vector,rotation_delta; default: all",
    }

    def __init__(
        self, path: Path, contract: Contract | None = None, *, rate_hz: str = "", split: str = "", robot: str = "",
        state: str = "", action: str = "",
    ):  # fmt: skip
        self.path = Path(path)
        info = read_json(self.path / "dataset_info.json", "the dataset's info", 1 << 26)
        self._leaves = {leaf.key: leaf for leaf in read_step_features(self.path / "features.json")}
        self._episodes = self._list(info, split)
        self._names = [f"{name}-{shard:05d}-{i:06d}" for name, shard, i, _ in self._episodes]
        self._number = {name: i for i, name in enumerate(self._names)}
        self.frames: int | None = None
        self._offsets = lru_cache(64)(record_offsets)
        self._notes: list[str] = []
        self._wanted = {"state": _keys(state), "action": _keys(action)}
        name = robot or str(info.get("name") or "unknown")
        self.contract, self._cameras, self._state, self._action = self._map(
            positive(rate_hz or str(ASSUMED_RATE_HZ), "rate_hz"), safe_name(name)
        )
        if not rate_hz and contract is None:
            self._notes.append(f"the control rate is not recorded; {ASSUMED_RATE_HZ:g} Hz is assumed (option rate_hz)")
        if contract is not None:
            self._check(contract)
            self.contract = contract

    @property
    def notes(self) -> Sequence[str]:
        """What was assumed and left out."""
        return list(self._notes)

    @staticmethod
    def recognise(path: Path) -> bool:
        """Whether features.json and TFRecord files are here."""
        if not ((path / "features.json").is_file() and (path / "dataset_info.json").is_file()):
            return False
        return any(_FILE.fullmatch(p.name) for p in path.iterdir())

    def names(self) -> Sequence[str]:
        """`<split>-<shard>-<number in the shard>`."""
        return list(self._names)

    def read(self, name: str) -> EpisodeData:
        """One episode.

        Raises:
            FormatError: If its record is damaged, or not what features.json says.
        """
        if name not in self._number:
            raise FormatError(f"{self.path} has no episode {name!r}")
        split, shard, number, file = self._episodes[self._number[name]]
        offsets = self._offsets(file)
        if number >= len(offsets):
            raise FormatError(f"{file} has {len(offsets)} records, dataset_info.json says more")
        what = f"{file}, record {number}"
        features = parse_example(read_record(file, *offsets[number]), what)
        length = self._length(features, what)
        episode = EpisodeData(images={}, meta={"source": f"{file.name}, record {number}", "split": split})
        for camera, key in self._cameras.items():
            episode.images[camera] = self._pictures(features, key, camera, length, what)
        for part, keys in (("state", self._state), ("action", self._action)):
            if keys:
                columns = [self._numbers(features, self._leaves[key], length, what) for key in keys]
                setattr(episode, part, np.concatenate(columns, axis=1).astype(np.float32))
        for key in ("steps/reward", "steps/discount"):
            if key in self._leaves and key in features and self._leaves[key].shape == ():
                column = self._numbers(features, self._leaves[key], length, what)
                episode.extras[key.removeprefix("steps/")] = column[:, 0].astype(np.float32)
        self._language(episode, features, length, what)
        return episode

    def _language(self, episode: EpisodeData, features: dict[str, Feature], length: int, what: str) -> None:
        texts = next((features[key] for key in _LANGUAGE if key in features), [])
        if not isinstance(texts, list) or len(texts) not in (0, length):
            raise FormatError(f"{what}: expected one instruction per step")
        sentences = [short(text, what) for text in texts]
        edges = [0, *(i for i, (a, b) in enumerate(pairwise(sentences), 1) if a != b), len(sentences)]
        if len(edges) > 2:  # the sentence changes on the way
            spans = [(a, b, sentences[a]) for a, b in pairwise(edges) if sentences[a]]
            episode.segments = [Segment(start=a, end=b, instruction=text) for a, b, text in spans]
        episode.instruction = next((text for text in sentences if text), "")

    def _pictures(self, features: dict[str, Feature], key: str, camera: str, length: int, what: str) -> np.ndarray:
        listed = features.get(key)
        spec = self.contract.camera(camera)
        if not isinstance(listed, list) or len(listed) != length:
            raise FormatError(f"{what}: expected {length} pictures in {key}")
        check_bytes(f"{what}: {key}", length * spec.height * spec.width * 3)
        size = (spec.height, spec.width)
        return np.stack([decode_picture(data, f"{what}: {key}, step {t}", size) for t, data in enumerate(listed)])

    def _numbers(self, features: dict[str, Feature], leaf: Leaf, length: int, what: str) -> np.ndarray:
        values = features.get(leaf.key)
        size = int(np.prod(leaf.shape, dtype=np.int64))
        if not isinstance(values, np.ndarray) or len(values) != length * size:
            found = "none" if values is None else len(values)
            raise FormatError(f"{what}: expected {length} x {size} numbers in {leaf.key}, found {found}")
        return values.reshape(length, size)

    def _length(self, features: dict[str, Feature], what: str) -> int:
        for key in (*_FLAGS, *self._cameras.values()):
            if key in features and 0 < len(features[key]) <= MAX_FRAMES:
                return len(features[key])
        raise FormatError(f"{what}: no steps (neither {_FLAGS[0]} nor pictures), or more than {MAX_FRAMES}")

    def _map(self, rate_hz: float, robot: str) -> tuple[Contract, dict[str, str], list[str], list[str]]:
        cameras: dict[str, str] = {}
        sizes, state, action, dropped = [], [], [], []
        for leaf in self._leaves.values():
            name = leaf.key.removeprefix("steps/").removeprefix("observation/")
            vector = leaf.kind == "tensor" and len(leaf.shape) <= 1 and leaf.encoding.lower() in ("none", "")
            vector = vector and all(0 < n < 100_000 for n in leaf.shape) and leaf.dtype not in ("string", "object")
            if leaf.key.startswith("steps/observation/") and leaf.kind == "image" and leaf.shape[-1:] == (3,):
                size = leaf.shape[:2] if min(leaf.shape) > 0 else self._look(leaf)
                height, width = check_image_size(f"{self.path}: {leaf.key}", *size)
                cameras[unique_names([*cameras, name])[-1]] = leaf.key
                sizes.append((height, width))
            elif leaf.key.startswith("steps/observation/") and vector:
                state.append(leaf)
            elif leaf.key == "steps/action" or leaf.key.startswith("steps/action/"):
                if not vector:
                    raise FormatError(f"{self.path}: {leaf.key} is {leaf.dtype} {leaf.shape}; expected a vector")
                action.append(leaf)
            elif leaf.key not in (*_FLAGS, *_LANGUAGE, "steps/reward", "steps/discount"):
                dropped.append(leaf.key.removeprefix("steps/"))
        if not cameras:
            raise FormatError(f"{self.path}: no colour images in steps/observation")
        state = self._choose("state", state, "steps/observation/", dropped)
        action = self._choose("action", action, "steps/action/", dropped)
        self._notes.append("units and frames of state and action are not recorded; give --contract to name them")
        self._notes.append("is_first, is_last and is_terminal are left out: an episode begins and ends where it does")
        if dropped:
            self._notes.append(f"left out: {', '.join(sorted(dropped))}")
        contract = Contract(
            embodiment=robot,
            rate_hz=rate_hz,
            cameras=tuple(Camera(name=n, height=h, width=w) for n, (h, w) in zip(cameras, sizes, strict=True)),
            state=_fields(state),
            action=_fields(action),
        )
        return contract, cameras, [leaf.key for leaf in state], [leaf.key for leaf in action]

    def _choose(self, part: str, leaves: list[Leaf], prefix: str, dropped: list[str]) -> list[Leaf]:
        """The wanted leaves in the wanted order; by default all but the vectors of sentences."""
        known = {leaf.key.removeprefix(prefix).removeprefix("steps/"): leaf for leaf in leaves}
        wanted = self._wanted[part] or [key for key in known if not key.endswith("_embedding")]
        for key in wanted:
            if key not in known:
                raise ConfigError(f"option {part}: {self.path} has no vector {key!r}; {did_you_mean(key, known)}")
        dropped += [leaf.key.removeprefix("steps/") for key, leaf in known.items() if key not in wanted]
        return [known[key] for key in wanted]

    def _look(self, leaf: Leaf) -> tuple[int, int]:
        """Size of the first picture, where features.json leaves it open."""
        _, _, number, file = self._episodes[0]
        features = parse_example(read_record(file, *record_offsets(file)[number]), str(file))
        listed = features.get(leaf.key)
        if not isinstance(listed, list) or not listed:
            raise FormatError(f"{file}: no picture in {leaf.key}")
        return decode_picture(listed[0], f"{file}: {leaf.key}").shape[:2]  # pyright: ignore[reportReturnType]

    def _check(self, contract: Contract) -> None:
        """A given contract may name units, frames and the rate, not other sizes."""
        ours = self.contract
        same = (contract.state_size, contract.action_size) == (ours.state_size, ours.action_size)
        sizes = {c.name: (c.height, c.width) for c in ours.cameras}
        if not same or {c.name: (c.height, c.width) for c in contract.cameras} != sizes:
            raise FormatError(
                f"--contract does not fit {self.path}, which has cameras {sizes}, {ours.state_size} numbers of state "
                f"and {ours.action_size} of action"
            )

    def _list(self, info: Any, only: str) -> list[tuple[str, int, int, Path]]:
        what = f"{self.path}/dataset_info.json"
        try:
            splits = {str(s["name"]): [int(n) for n in s["shardLengths"]] for s in info["splits"]}
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"{what} has no splits with shardLengths: {error!r:.100}") from error
        if only and only not in splits:
            raise FormatError(f"{self.path} has no split {only!r}; it has {sorted(splits)}")
        check_bytes(f"{what} (one byte per episode)", sum(sum(lengths) for lengths in splits.values()), MAX_ENTRIES)
        files = {(m[2], int(m[3])): p for p in self.path.iterdir() if (m := _FILE.fullmatch(p.name))}
        found = []
        for split, lengths in sorted(splits.items()):
            for shard, count in enumerate(lengths):
                if only not in ("", split) or count == 0:
                    continue
                if (split, shard) not in files or not 0 < count <= 10_000_000:
                    raise FormatError(f"{self.path}: shard {shard} of the split {split!r} is missing")
                file = inside(self.path, files[split, shard].name, what)
                found += [(safe_name(split), shard, i, file) for i in range(count)]
        if not found:
            raise FormatError(f"{self.path} has no episodes")
        return found


def _keys(text: str) -> list[str]:
    keys = [key.strip() for key in text.split(",") if key.strip()]
    if len(set(keys)) != len(keys):
        raise ConfigError(f"each key once, found {text!r}")
    return keys


def _fields(leaves: list[Leaf]) -> tuple[Field, ...]:
    names = unique_names(leaf.key.removeprefix("steps/").removeprefix("observation/") for leaf in leaves)
    sizes = [leaf.shape[0] if leaf.shape else 1 for leaf in leaves]
    pairs = zip(names, sizes, strict=True)
    return tuple(Field(name=name, size=size, unit="unknown", frame="unknown") for name, size in pairs)
