"""robomimic HDF5 in: `data/demo_<i>` with `actions` and `obs/<key>`, as robomimic, robosuite and LIBERO write it.

Layout: https://robomimic.github.io/docs/datasets/overview.html (MIT).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from foreact.datasets.episode import EpisodeData
from foreact.datasets.formats import hdf5_safe
from foreact.datasets.formats.base import FormatError
from foreact.datasets.formats.embedded import KeyMap, parse_dataset, parse_episode
from foreact.datasets.formats.guess import guess_contract, positive
from foreact.datasets.formats.limits import MAX_FRAMES, parse_json, short
from foreact.vla.contract import Contract

_DEMO = re.compile(r"demo_(\d{1,9})")
ASSUMED_RATE_HZ = 20.0
"""robosuite's default control frequency."""


class RobomimicSource:
    """Demonstrations of a robomimic file, in the order of their numbers."""

    format = "robomimic"
    OPTIONS = {
        "rate_hz": "control rate [Hz]; default: control_freq of the file's env_args, else 20",
        "instruction": "sentence for every episode; default: the language_instruction of the file, if it has one",
        "filter": "only the demonstrations of this filter key, such as train or valid",
    }

    def __init__(
        self,
        path: Path,
        contract: Contract | None = None,
        *,
        rate_hz: str = "",
        instruction: str = "",
        filter: str = "",
    ):
        self.path = Path(path)
        self.notes: Sequence[str] = []
        self._file = hdf5_safe.open_hdf5(self.path)
        self._data = hdf5_safe.subgroup(self._file, "data", str(self.path))
        self._demos = self._list(filter)
        ours = hdf5_safe.text_attribute(self._data, "foreact", str(self.path))
        self._keys: KeyMap | None = None
        notes: list[str] = []
        if ours:
            what = f"{self.path}: the attribute 'foreact'"
            self.contract, self._keys = parse_dataset(parse_json(ours, what), what)
            self._instruction = instruction
        else:
            self._instruction = instruction or self._language()
            self.contract, notes = self._guess(positive(rate_hz, "rate_hz") if rate_hz else 0.0)
        if contract is not None:
            if ours and contract.hash != self.contract.hash:
                raise FormatError(f"{self.path} brings its own contract; leave --contract out")
            self.contract = contract
        self.notes = notes
        self.frames: int | None = sum(self._length(demo) for demo in self._demos)

    @staticmethod
    def recognise(path: Path) -> bool:
        """Whether this is an HDF5 file with `data/demo_<i>`."""
        if not path.is_file() or not hdf5_safe.is_hdf5(path):
            return False
        try:
            with hdf5_safe.open_hdf5(path) as file:
                data = hdf5_safe.subgroup(file, "data", str(path))
                return any(_DEMO.fullmatch(key) for key in hdf5_safe.keys(data, str(path)))
        except FormatError:
            return False

    def names(self) -> Sequence[str]:
        """`demo_<i>`, or the names that the episodes had in the store they came from."""
        return list(self._by_name)

    def read(self, name: str) -> EpisodeData:
        """One demonstration.

        Raises:
            FormatError: If it is damaged, or not like the others.
        """
        if name not in self._by_name:
            raise FormatError(f"{self.path} has no demonstration {name!r}")
        demo = self._by_name[name]
        what = f"{self.path}: data/{demo}"
        group = hdf5_safe.subgroup(self._data, demo, what)
        if self._keys is not None:
            return self._read_ours(group, what)
        return self._read_theirs(group, what, demo)

    def _read_ours(self, group: Any, what: str) -> EpisodeData:
        assert self._keys is not None
        length = self._length_of(group, what)
        text = hdf5_safe.text_attribute(group, "foreact", what)
        episode = parse_episode(parse_json(text, f"{what}: 'foreact'"), length, f"{what}: 'foreact'")
        obs = hdf5_safe.subgroup(group, "obs", what)
        there = set(hdf5_safe.keys(obs, what))
        episode.images = {c: hdf5_safe.array(obs, k, what) for c, k in self._keys.cameras.items() if k in there}
        if self._keys.state and there.issuperset(self._keys.state):
            columns = [hdf5_safe.array(obs, key, what).reshape(length, -1) for key in self._keys.state]
            episode.state = np.concatenate(columns, axis=1)
        episode.action = hdf5_safe.array(group, "actions", what)
        if "extras" in group:
            extras = hdf5_safe.subgroup(group, "extras", what)
            episode.extras = {key: hdf5_safe.array(extras, key, what) for key in hdf5_safe.keys(extras, what)}
        return _same_length(episode, length, what)

    def _read_theirs(self, group: Any, what: str, demo: str) -> EpisodeData:
        length = self._length_of(group, what)
        obs = hdf5_safe.subgroup(group, "obs", what)
        images = {camera.name: hdf5_safe.array(obs, camera.name, what) for camera in self.contract.cameras}
        columns = []
        for field in self.contract.state:
            column = hdf5_safe.array(obs, field.name, what)
            if column.shape not in ((length, field.size), (length,)):
                raise FormatError(
                    f"{what}: obs/{field.name} has shape {column.shape}, expected ({length}, {field.size})"
                )
            columns.append(column.reshape(length, -1).astype(np.float32))
        extras = {}
        for key, name in (("states", "states"), ("rewards", "reward"), ("dones", "done")):
            if key in group:
                value = hdf5_safe.array(group, key, what)
                extras[name] = value if value.dtype == np.float64 else value.astype(np.float32)
        episode = EpisodeData(
            images=images,
            state=np.concatenate(columns, axis=1) if columns else None,
            action=hdf5_safe.array(group, "actions", what).astype(np.float32),
            extras=extras,
            instruction=self._instruction,
            meta={"source": f"{self.path.name}/data/{demo}", **self._splits.get(demo, {})},
        )
        return _same_length(episode, length, what)

    def _list(self, only: str) -> list[str]:
        what = f"{self.path}: data"
        found = [(int(m[1]), key) for key in hdf5_safe.keys(self._data, what) if (m := _DEMO.fullmatch(key))]
        if not found:
            raise FormatError(f"{what} has no demo_<i>; is this a robomimic file?")
        demos = [key for _, key in sorted(found)]
        masks: dict[str, set[str]] = {}
        if "mask" in self._file:
            mask = hdf5_safe.subgroup(self._file, "mask", str(self.path))
            masks = {key: self._mask(mask, key) for key in hdf5_safe.keys(mask, str(self.path), 1000)}
        if only:
            if only not in masks:
                raise FormatError(f"{self.path} has no filter key {only!r}; it has {sorted(masks) or 'none'}")
            demos = [demo for demo in demos if demo in masks[only]]
        split = {"train": "train", "valid": "val"}
        self._splits = {d: {"split": s} for k, s in split.items() for d in sorted(masks.get(k, ()))}
        self._by_name = {self._own_name(demo) or demo: demo for demo in demos}
        if len(self._by_name) != len(demos):
            raise FormatError(f"{what}: two demonstrations have the same name")
        return demos

    def _own_name(self, demo: str) -> str:
        group = hdf5_safe.subgroup(self._data, demo, f"{self.path}: data")
        text = hdf5_safe.text_attribute(group, "foreact", f"{self.path}: data/{demo}")
        if not text:
            return ""
        what = f"{self.path}: data/{demo}: 'foreact'"
        return parse_episode(parse_json(text, what), self._length_of(group, what), what).name

    def _mask(self, group: Any, key: str) -> set[str]:
        found = hdf5_safe.child(group, key, f"{self.path}: mask")
        if found.dtype.kind not in "SO" or found.ndim != 1 or len(found) > 10_000_000:
            raise FormatError(f"{self.path}: mask/{key} is not a list of demonstration names")
        return {item.decode("utf-8", "replace") if isinstance(item, bytes) else str(item) for item in found[...]}

    def _language(self) -> str:
        for key in ("language_instruction", "problem_info"):  # LIBERO writes the latter
            text = hdf5_safe.text_attribute(self._data, key, str(self.path))
            if text.startswith("{"):
                found = parse_json(text, f"{self.path}: {key}")
                text = found.get("language_instruction", "") if isinstance(found, dict) else ""
                text = text[0] if isinstance(text, list) and text else text
            if text:
                return short(text).strip('"')
        return ""

    def _guess(self, rate_hz: float) -> tuple[Contract, list[str]]:
        what = f"{self.path}: data/{self._demos[0]}"
        first = hdf5_safe.subgroup(self._data, self._demos[0], what)
        obs = hdf5_safe.subgroup(first, "obs", what)
        shapes = {key: hdf5_safe.declared(obs, key, what) for key in hdf5_safe.keys(obs, what)}
        env = parse_json(hdf5_safe.text_attribute(self._data, "env_args", what) or "{}", f"{self.path}: env_args")
        kwargs = env.get("env_kwargs", {}) if isinstance(env, dict) else {}
        control = kwargs.get("control_freq") if isinstance(kwargs, dict) else None
        notes = []
        if not rate_hz and isinstance(control, int | float) and 0 < control < 1e4:
            rate_hz = float(control)
        elif not rate_hz:
            rate_hz = ASSUMED_RATE_HZ
            notes.append(f"the file does not say its control rate; {rate_hz:g} Hz is assumed (option rate_hz)")
        robots = kwargs.get("robots") if isinstance(kwargs, dict) else None
        robot = robots[0] if isinstance(robots, list) and robots else robots
        actions, _ = hdf5_safe.declared(first, "actions", what)
        contract, more = guess_contract(shapes, actions, rate_hz, str(robot or "unknown"), what)
        if "next_obs" in first:
            more.append("next_obs is left out: it is obs one frame later")
        return contract, [*notes, *more]

    def _length(self, demo: str) -> int:
        what = f"{self.path}: data/{demo}"
        return self._length_of(hdf5_safe.subgroup(self._data, demo, what), what)

    def _length_of(self, group: Any, what: str) -> int:
        shape, _ = hdf5_safe.declared(group, "actions", what)
        if len(shape) != 2 or not 0 < shape[0] <= MAX_FRAMES:
            raise FormatError(f"{what}: actions have shape {shape}; expected (frames, size)")
        return shape[0]


def _same_length(episode: EpisodeData, length: int, what: str) -> EpisodeData:
    arrays = {**episode.images, **episode.extras, "state": episode.state, "actions": episode.action}
    for key, value in arrays.items():
        if value is not None and (value.ndim == 0 or len(value) != length):
            raise FormatError(f"{what}: {key} has shape {value.shape}, but there are {length} actions")
    return episode
