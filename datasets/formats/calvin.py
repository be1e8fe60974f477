"""CALVIN datasets in: one npz per frame, `ep_start_end_ids.npy`, and language annotations.

Layout: https://github.com/mees/calvin/blob/main/dataset/README.md (MIT). What its readers get wrong is written here
once: ranges are inclusive, segments are not sorted and never globbed, the blocks of scenes A and C are listed in
another order, and annotations of the validation part may be repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from foreact.datasets.episode import EpisodeData, Segment
from foreact.datasets.formats.base import FormatError
from foreact.datasets.formats.calvin_actions import NOTICEABLE, differ, relative_actions, with_six_numbers
from foreact.datasets.formats.calvin_language import Window, read_pickled_dict, read_windows
from foreact.datasets.formats.calvin_pieces import MAX_PIECE, cut
from foreact.datasets.formats.calvin_scenes import SPLITS, by_colour, find_split, scene_of
from foreact.datasets.formats.guess import natural, one_of
from foreact.datasets.formats.limits import inside, regular_file
from foreact.datasets.formats.names import unique_names
from foreact.datasets.formats.numpy_safe import load_npy, load_npz
from foreact.datasets.formats.plain_pickle import read_plain_pickle
from foreact.vla.contract import Camera, Contract, Field

_CAMERAS = {"rgb_static": (200, 200), "rgb_gripper": (84, 84)}
_NUMBERS = {"robot_obs": 15, "scene_obs": 24, "actions": 7, "rel_actions": 7}
_GRIPPER = Field(name="gripper", size=1, unit="1", low=-1.0, high=1.0)
_EULER: dict[str, Any] = {"rotation": "euler_xyz", "frame": "world", "size": 3}
_ACTIONS = {
    "relative": (
        Field(name="delta_position", size=3, unit="0.02 m", frame="world", low=-1, high=1, relative=True),
        Field(name="delta_euler", unit="0.05 rad", low=-1, high=1, relative=True, **_EULER),
        _GRIPPER,
    ),
    "absolute": (
        Field(name="tcp_target_position", size=3, unit="m", frame="world", low=-2, high=2),
        Field(name="tcp_target_euler", unit="rad", low=-4, high=4, **_EULER),
        _GRIPPER,
    ),
}
_KEYS = {"relative": "rel_actions", "absolute": "actions"}


_ROTATIONS = {
    "euler": Field(name="tcp_euler", unit="rad", **_EULER),
    "rot6d": Field(name="tcp_rot6d", unit="1", frame="world", size=6, rotation="rot6d", low=-1.0, high=1.0),
}
_SAMPLE = 200


def calvin_contract(actions: str = "relative", rotation: str = "euler") -> Contract:
    """The contract of CALVIN's frames; with Euler angles that of ForeAct's desk, so that one policy fits both."""
    return Contract(
        embodiment="panda_long_finger",
        rate_hz=30.0,
        cameras=tuple(Camera(name=name, height=h, width=w) for name, (h, w) in _CAMERAS.items()),
        state=(
            Field(name="tcp_position", size=3, unit="m", frame="world"),
            _ROTATIONS[rotation],
            Field(name="gripper_width", size=1, unit="m", low=0.0, high=0.08),
            Field(name="joint_position", size=7, unit="rad"),
            Field(name="gripper_command", size=1, unit="1", low=-1.0, high=1.0),
        ),
        action=_ACTIONS[actions],
        gripper="+1 open, -1 close",
    )


@dataclass(frozen=True)
class _Episode:
    part: Path
    split: str
    scene: str
    start: int
    end: int
    """Inclusive."""
    windows: tuple[Window, ...]
    language: bool


class CalvinSource:
    """Language windows, play, or play with the windows as its segments."""

    format = "calvin"
    OPTIONS = {
        "mode": "language (default): annotated windows; play: everything, without language; both: everything, with the "
        "windows as segments",
        "actions": "relative (default) or absolute: which are the action; the others are kept as extras",
        "recompute": "yes: relative actions are computed from the absolute ones, not taken from the files; how "
        "many differ is noted",
        "rotation": "of the state: euler (default), as ForeAct's desk; rot6d: two columns of the rotation matrix",
        "split": "D, ABC or ABCD: whose frame numbers those of training/ are; default: by folder and numbers",
        "annotations": "folder with auto_lang_ann.npy; default lang_annotations",
        "piece": f"play is cut between windows into pieces of about so many frames; default {MAX_PIECE}",
    }

    def __init__(
        self, path: Path, contract: Contract | None = None, *, mode: str = "language", actions: str = "relative",
        recompute: str = "no", rotation: str = "euler", split: str = "", annotations: str = "lang_annotations",
        piece: str = str(MAX_PIECE),
    ):  # fmt: skip
        self.path = Path(path)
        self._mode = one_of(mode, "mode", ("language", "play", "both"))
        self._actions = one_of(actions, "actions", tuple(_ACTIONS))
        self._recompute = one_of(recompute, "recompute", ("yes", "no")) == "yes"
        self._rotation = one_of(rotation, "rotation", tuple(_ROTATIONS))
        self._split = one_of(split, "split", tuple(SPLITS)) if split else ""
        self._piece = natural(piece, "piece", 20_000)
        self._annotations = annotations
        self.contract = calvin_contract(self._actions, self._rotation)
        if contract is not None and contract.hash != self.contract.hash:
            raise FormatError("CALVIN's contract is fixed by the dataset; leave --contract out")
        self._notes = [
            "numbers are kept as float32 (the files hold float64)",
            "scene_obs is as stored; scene_obs_by_colour has the blocks in the order red, blue, pink in every scene",
            "depth images, tactile images and the sentence embeddings are left out",
        ]
        parts = [self.path / p for p in ("training", "validation") if (self.path / p / _IDS).is_file()] or [self.path]
        found = [episode for part in parts for episode in self._list(part)]
        names = unique_names(
            f"{e.split}-{e.scene}-{'language' if e.language else 'play'}-{e.start:07d}-{e.end:07d}" for e in found
        )
        self._episodes = dict(zip(names, found, strict=True))
        self._stems: dict[Path, str] = {}
        self.frames: int | None = sum(e.end - e.start + 1 for e in found)
        if self._recompute and found:
            self._notes.append(self._sample())

    @property
    def notes(self) -> Sequence[str]:
        """What was assumed and left out."""
        return list(self._notes)

    @staticmethod
    def recognise(path: Path) -> bool:
        """Whether there is an `ep_start_end_ids.npy`, here or in `training` or `validation`."""
        return any((path / part / _IDS).is_file() for part in ("", "training", "validation"))

    def names(self) -> Sequence[str]:
        """`<split>-<scene>-<language|play>-<first frame>-<last frame>`."""
        return list(self._episodes)

    def read(self, name: str) -> EpisodeData:
        """One window or one piece of play.

        Raises:
            FormatError: If a frame is missing or damaged.
        """
        if name not in self._episodes:
            raise FormatError(f"{self.path} has no episode {name!r}")
        episode = self._episodes[name]
        frames = [self._frame(episode.part, number) for number in range(episode.start, episode.end + 1)]
        arrays = {key: np.stack([frame[key] for frame in frames]) for key in (*_CAMERAS, *_NUMBERS)}
        scene_obs = arrays["scene_obs"].astype(np.float32)
        meta: dict[str, Any] = {}
        if self._recompute:
            recorded = arrays["rel_actions"]
            arrays["rel_actions"] = relative_actions(arrays["robot_obs"], arrays["actions"])
            meta["recorded_actions_off"] = int(differ(recorded, arrays["rel_actions"]).sum())
        state = with_six_numbers(arrays["robot_obs"]) if self._rotation == "rot6d" else arrays["robot_obs"]
        other = "absolute" if self._actions == "relative" else "relative"
        first = episode.windows[0] if episode.language else None
        return EpisodeData(
            images={camera: arrays[camera] for camera in _CAMERAS},
            state=state.astype(np.float32),
            action=arrays[_KEYS[self._actions]].astype(np.float32),
            extras={
                "scene_obs": scene_obs,
                "scene_obs_by_colour": by_colour(scene_obs, episode.scene),
                f"{other}_action": arrays[_KEYS[other]].astype(np.float32),
            },
            instruction=first.instruction if first else "",
            segments=[] if first else [self._segment(episode, window) for window in episode.windows],
            meta={
                "source": f"CALVIN {episode.part.name}, frames {episode.start} to {episode.end}",
                "scene": episode.scene,
                "split": episode.split,
                **({"task": first.task} if first else {}),
                **meta,
            },
        )

    def _sample(self) -> str:
        """How far the recorded relative actions of frames here and there are from those computed."""
        ends = np.cumsum([e.end - e.start + 1 for e in self._episodes.values()])
        episodes, off = list(self._episodes.values()), 0
        chosen = np.unique(np.linspace(0, ends[-1] - 1, _SAMPLE).astype(int))
        for at in chosen:
            which = int(np.searchsorted(ends, at, side="right"))
            episode = episodes[which]
            number = episode.end + 1 - int(ends[which] - at)
            frame = {key: value[None] for key, value in self._frame(episode.part, number).items()}
            off += int(differ(frame["rel_actions"], relative_actions(frame["robot_obs"], frame["actions"]))[0])
        return (
            f"relative actions are computed from the absolute ones; in {off} of {len(chosen)} frames looked at "
            f"({off / len(chosen):.1%}) the recorded ones are more than {NOTICEABLE:.0%} of the largest step away "
            "(per episode: meta recorded_actions_off, in frames)"
        )

    @staticmethod
    def _segment(episode: _Episode, window: Window) -> Segment:
        start = window.start - episode.start
        return Segment(start=start, end=window.end - episode.start + 1, instruction=window.instruction)

    def _list(self, part: Path) -> list[_Episode]:
        ids = load_npy(part / _IDS, "the segments")
        if ids.ndim != 2 or ids.shape[1] != 2 or ids.dtype.kind not in "iu" or not 0 < len(ids) <= 100_000:
            raise FormatError(f"{part / _IDS} is {ids.dtype} {ids.shape}; expected (segments, 2) whole numbers")
        segments = sorted((int(first), int(last)) for first, last in ids)
        for first, last in segments:
            if not 0 <= first <= last < 10_000_000:
                raise FormatError(f"{part / _IDS}: the segment {first} to {last} is not one of frames")
        split = "val" if part.name == "validation" else "train"
        scenes = self._scenes(part, split, segments)
        windows = self._windows(part, segments)
        if self._mode == "language":
            made = [(w.start, w.end, (w,), True) for w in windows]
        else:
            kept = windows if self._mode == "both" else []
            made = [(a, b, ws, False) for a, b in segments for a, b, ws in cut(a, b, kept, self._piece)]
        return [_Episode(part, split, scenes(a), a, b, tuple(ws), language) for a, b, ws, language in made]

    def _scenes(self, part: Path, split: str, segments: list[tuple[int, int]]) -> Any:
        if split == "val":
            return lambda frame: "D"  # the validation part of every split is recorded in D
        info = part / "scene_info.npy"
        listed = read_pickled_dict(info) if info.is_file() else {}
        letters = [key[-1:] for key in listed if isinstance(key, str)]
        name, by = (self._split, "") if self._split else find_split(part, segments[-1][1], letters)
        if by:
            self._notes.append(f"{part.name} is taken as the split {name}, by {by}; --set split=... if it is another")
        for key, span in listed.items():
            with_us = [[first, last] for scene, first, last in SPLITS[name] if scene == str(key)[-1:]]
            if np.asarray(span).shape == (2,) and [int(n) for n in span] not in with_us:
                self._notes.append(f"scene_info.npy says {key}: {list(map(int, span))}; the published ranges are used")
        return lambda frame: scene_of(name, frame)

    def _windows(self, part: Path, segments: list[tuple[int, int]]) -> list[Window]:
        file = inside(part, f"{self._annotations}/auto_lang_ann.npy", "option annotations")
        if self._mode == "play":
            return []
        if not file.is_file():
            if self._mode == "language" and part.name != "validation":
                raise FormatError(f"{part} has no {self._annotations}/auto_lang_ann.npy; --set mode=play needs none")
            self._notes.append(f"{part.name} has no language annotations")
            return []
        windows, listed = read_windows(file)
        if listed > len(windows):
            self._notes.append(f"{part.name}: {listed} annotated windows, {len(windows)} of them distinct")
        inner = [w for w in windows if any(first <= w.start and w.end <= last for first, last in segments)]
        if len(inner) < len(windows):
            self._notes.append(f"{part.name}: {len(windows) - len(inner)} windows lie in no segment and are left out")
        return inner

    def _frame(self, part: Path, number: int) -> dict[str, np.ndarray]:
        path = self._path(part, number)
        if path.suffix == ".pkl":
            found = read_plain_pickle(regular_file(path, "the frame", 1 << 27).read_bytes(), str(path))
            frame = found if isinstance(found, dict) else {}
        else:
            frame = load_npz(path, (*_CAMERAS, *_NUMBERS))
        sizes = {k: (*s, 3) for k, s in _CAMERAS.items()} | {k: (n,) for k, n in _NUMBERS.items()}
        for key, size in sizes.items():
            value = frame.get(key)
            kind = "u" if key in _CAMERAS else "fiu"
            if not isinstance(value, np.ndarray) or value.shape != size or value.dtype.kind not in kind:
                has = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else "nothing"
                raise FormatError(f"{path}: {key} must have shape {size}, found {has}")
        return frame

    def _path(self, part: Path, number: int) -> Path:
        """Frames have 7 digits, in old recordings 6, and are npz or pkl: what the first one is, all are."""
        if part not in self._stems:
            for stem in ("episode_{:07d}.npz", "episode_{:06d}.npz", "episode_{:07d}.pkl", "episode_{:06d}.pkl"):
                if (part / stem.format(number)).is_file():
                    self._stems[part] = stem
        stem = self._stems.get(part, "episode_{:07d}.npz")
        path = inside(part, stem.format(number), "the frame")
        if not path.is_file():
            raise FormatError(f"{path} is missing, though a segment or an annotated window holds it")
        return path


_IDS = "ep_start_end_ids.npy"
