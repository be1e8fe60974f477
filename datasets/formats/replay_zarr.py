"""diffusion_policy replay buffers in: `data/<key>` along time and `meta/episode_ends`, a Zarr v2 folder or `.zarr.zip`.

Layout: diffusion_policy/common/replay_buffer.py of https://github.com/real-stanford/diffusion_policy (MIT).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from foreact.datasets.episode import EpisodeData
from foreact.datasets.formats.base import FormatError
from foreact.datasets.formats.embedded import KeyMap, parse_dataset, parse_episode
from foreact.datasets.formats.guess import guess_contract, one_of, positive
from foreact.datasets.formats.limits import MAX_ENTRIES, MAX_FRAMES, short
from foreact.datasets.formats.zarr_v2 import Files, ZarrArray
from foreact.vla.contract import Contract

ASSUMED_RATE_HZ = 10.0
"""Push-T and the real robots of diffusion_policy run at 10 Hz."""
_NOT_STATE = ("timestamp", "stage", "reward", "done", "n_contacts")
"""Keys of diffusion_policy that say how an episode goes, not what the robot senses."""


class ReplayZarrSource:
    """Episodes of a replay buffer, in its order."""

    format = "diffusion-policy"
    OPTIONS = {
        "rate_hz": "control rate [Hz]; default: from the key 'timestamp', else 10",
        "instruction": "sentence for every episode; the format has none",
        "missing": "refuse (default) or fill: what a missing chunk means; zarr 3 leaves chunks of fill values out",
    }

    def __init__(
        self, path: Path, contract: Contract | None = None, *, rate_hz: str = "", instruction: str = "",
        missing: str = "refuse",
    ):  # fmt: skip
        self.path = Path(path)
        self._files = Files(self.path)
        fill = one_of(missing, "missing", ("refuse", "fill")) == "fill"
        self._arrays = {key: ZarrArray(self._files, f"data/{key}", fill) for key in self._files.members("data")}
        self._ends = self._read_ends(fill)
        self._instruction = short(instruction)
        attributes = self._files.json(".zattrs") or {}
        ours = attributes.get("foreact") if isinstance(attributes, dict) else None
        self._keys: KeyMap | None = None
        self._headers: list[Any] = []
        self.notes: Sequence[str] = []
        if ours is not None:
            what = f"{self.path}: the attribute 'foreact'"
            self.contract, self._keys = parse_dataset(ours, what)
            self._headers = ours.get("episodes")
            if not isinstance(self._headers, list) or len(self._headers) != len(self._ends):
                raise FormatError(f"{what} does not have one entry per episode ({len(self._ends)})")
            if contract is not None and contract.hash != self.contract.hash:
                raise FormatError(f"{self.path} brings its own contract; leave --contract out")
            self._names = [parse_episode(h, self._length(i), what).name for i, h in enumerate(self._headers)]
        else:
            self.contract, self.notes = self._guess(positive(rate_hz, "rate_hz") if rate_hz else 0.0)
            self.contract = contract or self.contract
            self._names = [f"episode_{i:06d}" for i in range(len(self._ends))]
        self._number = {name: i for i, name in enumerate(self._names)}
        self.frames: int | None = int(self._ends[-1]) if len(self._ends) else 0

    @staticmethod
    def recognise(path: Path) -> bool:
        """Whether `data/` and `meta/episode_ends` are here."""
        try:
            if path.is_file() and not path.name.endswith(".zip"):
                return False
            files = Files(path)
            return files.get("meta/episode_ends/.zarray") is not None and bool(files.members("data"))
        except FormatError:
            return False

    def names(self) -> Sequence[str]:
        """`episode_<i>`, or the names that the episodes had in the store they came from."""
        return list(self._names)

    def read(self, name: str) -> EpisodeData:
        """One episode.

        Raises:
            FormatError: If it is damaged.
        """
        if name not in self._number:
            raise FormatError(f"{self.path} has no episode {name!r}")
        number = self._number[name]
        start, stop = int(self._ends[number]) - self._length(number), int(self._ends[number])
        if self._keys is not None:
            return self._read_ours(number, start, stop)
        state = [self._rows(f.name, start, stop).reshape(stop - start, -1) for f in self.contract.state]
        extras = {key: self._rows(key, start, stop) for key in _NOT_STATE if key in self._arrays}
        return EpisodeData(
            images={
                c.name: _pixels(self._rows(c.name, start, stop), f"{self.path}: data/{c.name}")
                for c in self.contract.cameras
            },
            state=np.concatenate(state, axis=1).astype(np.float32) if state else None,
            action=self._rows("action", start, stop).astype(np.float32) if self.contract.action else None,
            extras={k: v if v.dtype == np.float64 else v.astype(np.float32) for k, v in extras.items()},
            instruction=self._instruction,
            meta={"source": f"{self.path.name}, episode {number}"},
        )

    def _read_ours(self, number: int, start: int, stop: int) -> EpisodeData:
        assert self._keys is not None
        what = f"{self.path}: the attribute 'foreact'"
        episode = parse_episode(self._headers[number], stop - start, what)
        episode.images = {c: self._rows(k, start, stop) for c, k in self._keys.cameras.items() if k in self._arrays}
        if self._keys.state and self._arrays.keys() >= set(self._keys.state):
            columns = [self._rows(key, start, stop).reshape(stop - start, -1) for key in self._keys.state]
            episode.state = np.concatenate(columns, axis=1)
        episode.action = self._rows("action", start, stop) if "action" in self._arrays else None
        extras = [key for key in self._arrays if key.startswith("extras.")]
        episode.extras = {key.removeprefix("extras."): self._rows(key, start, stop) for key in extras}
        return episode

    def _rows(self, key: str, start: int, stop: int) -> np.ndarray:
        if key not in self._arrays:
            raise FormatError(f"{self.path} has no data/{key}; it has {sorted(self._arrays)}")
        return self._arrays[key].read(start, stop)

    def _read_ends(self, fill: bool) -> np.ndarray:
        what = f"{self.path}: meta/episode_ends"
        array = ZarrArray(self._files, "meta/episode_ends", fill)
        if len(array.shape) != 1 or array.shape[0] > MAX_ENTRIES or array.dtype.kind not in "iu":
            raise FormatError(f"{what} is {array.dtype} {array.shape}; expected one whole number per episode")
        ends = array.read().astype(np.int64)
        lengths = np.diff(ends, prepend=0)
        if len(ends) and (lengths.min() <= 0 or lengths.max() > MAX_FRAMES):
            raise FormatError(f"{what} does not grow by 1 to {MAX_FRAMES} frames per episode")
        for key, found in self._arrays.items():
            if len(ends) and found.shape[0] < ends[-1]:
                raise FormatError(f"{self.path}: data/{key} has {found.shape[0]} rows, the episodes end at {ends[-1]}")
        return ends

    def _length(self, number: int) -> int:
        return int(self._ends[number] - (self._ends[number - 1] if number else 0))

    def _guess(self, rate_hz: float) -> tuple[Contract, list[str]]:
        notes = []
        if not rate_hz and "timestamp" in self._arrays and len(self._ends):
            stamps = self._rows("timestamp", 0, min(int(self._ends[0]), 1000)).reshape(-1)
            step = float(np.median(np.diff(stamps))) if len(stamps) > 1 else 0.0
            if 1e-4 < step < 60:
                rate_hz = round(1 / step, 3)
                notes.append(f"{rate_hz:g} Hz, by the time stamps of the first episode")
        if not rate_hz:
            rate_hz = ASSUMED_RATE_HZ
            notes.append(f"the control rate is not recorded; {rate_hz:g} Hz is assumed (option rate_hz)")
        shapes = {k: (a.shape, a.dtype) for k, a in self._arrays.items() if k != "action" and k not in _NOT_STATE}
        for key, (shape, dtype) in shapes.items():
            if len(shape) == 4 and shape[3] == 3 and dtype.kind == "f":  # Push-T keeps pixels as float32, 0 to 255
                shapes[key] = (shape, np.dtype(np.uint8))
                notes.append(f"{key} is {dtype}, taken as pixels from 0 to 255 and rounded")
        action = self._arrays["action"].shape if "action" in self._arrays else ()
        contract, more = guess_contract(shapes, action, rate_hz, "unknown", f"{self.path}: data")
        return contract, [*notes, *more]


def _pixels(images: np.ndarray, what: str) -> np.ndarray:
    if images.dtype == np.uint8:
        return images
    if not (np.isfinite(images).all() and images.min() >= 0 and images.max() <= 255):
        raise FormatError(f"{what} is {images.dtype} with values outside of 0 to 255")
    return np.round(images).astype(np.uint8)
