"""Folders of videos with captions in: action-free episodes, to learn from what happens without knowing how."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from foreact.datasets.episode import EpisodeData
from foreact.datasets.formats.base import FormatError
from foreact.datasets.formats.captions import NAMES, Clip, read_captions
from foreact.datasets.formats.clip import CONTAINERS, read_clip
from foreact.datasets.formats.guess import one_of, positive
from foreact.datasets.formats.limits import inside
from foreact.datasets.formats.names import safe_name, unique_names
from foreact.vla.contract import Camera, Contract
from foreact.vla.errors import ConfigError

_PLACES = ("", "20bn-something-something-v2/", "v2/full_scale/", "full_scale/", "clips/", "videos/")
"""Where Something-Something v2 and Ego4D keep their videos, which their captions name without folder and ending."""


class VideosSource:
    """One episode per clip: frames of one camera and the caption as instruction; no state, no action."""

    format = "videos"
    OPTIONS = {
        "captions": "file with the captions, in the folder; default: captions.csv or captions.json",
        "size": "HEIGHTxWIDTH of the frames in pixels; default 224x224, or the camera's of --contract",
        "rate_hz": "frames per second that are taken; default 10, or the rate of --contract",
        "camera": "name of the camera; default: video, or the only camera of --contract",
        "fit": "crop (default): the middle, undistorted; stretch: everything, distorted",
        "clip_s": "length of a clip around a narration of Ego4D [s]; default 3",
    }

    def __init__(
        self, path: Path, contract: Contract | None = None, *, captions: str = "", size: str = "", rate_hz: str = "",
        camera: str = "", fit: str = "crop", clip_s: str = "3",
    ):  # fmt: skip
        self.path = Path(path)
        self._crop = one_of(fit, "fit", ("crop", "stretch")) == "crop"
        self.contract = _contract(contract, size, rate_hz, camera)
        self._camera = self.contract.camera(camera) if camera else self.contract.cameras[0]
        file = self._captions(captions)
        clips, kind = read_captions(file, positive(clip_s, "clip_s", 600))
        names = unique_names(_clip_name(clip) for clip in clips)
        self._clips = dict(zip(names, clips, strict=True))
        self.frames: int | None = None
        self.notes: Sequence[str] = [
            f"{file.name} is read as {kind}; sound is left out",
            f"frames are {'the middle of the picture' if self._crop else 'the whole picture, distorted'}, resized to "
            f"{self._camera.height}x{self._camera.width}, {self.contract.rate_hz:g} per second",
        ]

    @staticmethod
    def recognise(path: Path) -> bool:
        """Whether there is a captions.csv or captions.json, and no dataset that was exported with one."""
        if (path / "dataset.json").is_file() and (path / "episodes").is_dir():
            return (path / "captions.csv").is_file()
        return path.is_dir() and any((path / name).is_file() for name in NAMES)

    def names(self) -> Sequence[str]:
        """Made from the names of the videos and the starts of the clips."""
        return list(self._clips)

    def read(self, name: str) -> EpisodeData:
        """One clip.

        Raises:
            FormatError: If the video is missing or damaged, or lies outside of the folder.
        """
        if name not in self._clips:
            raise FormatError(f"{self.path} has no clip {name!r}")
        clip = self._clips[name]
        path = self._find(clip.path)
        camera = self._camera
        frames = read_clip(
            path, self.contract.rate_hz, camera.height, camera.width, clip.start_s, clip.end_s, self._crop
        )
        place = path.relative_to(self.path).as_posix()
        end = "" if clip.end_s is None else f" to {clip.end_s:g} s"
        span = f", from {clip.start_s:g} s{end}" if clip.start_s or end else ""
        return EpisodeData(images={camera.name: frames}, instruction=clip.caption, meta={"source": f"{place}{span}"})

    def _find(self, relative: str) -> Path:
        if PurePosixPath(relative).suffix.lower() in CONTAINERS:
            path = inside(self.path, relative, "the captions")
            if path.is_file():
                return path
            raise FormatError(f"{path}, which the captions name, is missing")
        for place in _PLACES:
            for ending in (".webm", ".mp4", ".mkv", ".mov"):
                path = inside(self.path, f"{place}{relative}{ending}", "the captions")
                if path.is_file():
                    return path
        raise FormatError(f"{self.path}: no video {relative!r} (.webm, .mp4, ...), which the captions name")

    def _captions(self, wanted: str) -> Path:
        if wanted:
            return inside(self.path, wanted, "option captions")
        for name in NAMES:
            if (self.path / name).is_file():
                return self.path / name
        raise FormatError(f"{self.path} has neither {' nor '.join(NAMES)}; name the captions by --set captions=FILE")


def _contract(given: Contract | None, size: str, rate_hz: str, camera: str) -> Contract:
    if given is not None:
        if size or rate_hz:
            raise ConfigError("size and rate_hz come from --contract; leave the options out, or the contract")
        if len(given.cameras) != 1 and not camera:
            names = ", ".join(c.name for c in given.cameras)
            raise ConfigError(f"--contract has the cameras {names}: which one are the videos? --set camera=NAME")
        return given
    match = re.fullmatch(r"([1-9]\d{0,3})x([1-9]\d{0,3})", size or "224x224")
    if match is None:
        raise ConfigError(f"option size: expected HEIGHTxWIDTH such as 224x224, found {size!r}")
    shape = Camera(name=safe_name(camera or "video"), height=int(match[1]), width=int(match[2]))
    return Contract(embodiment="video", rate_hz=positive(rate_hz or "10", "rate_hz", 240), cameras=(shape,))


def _clip_name(clip: Clip) -> str:
    path = PurePosixPath(clip.path)
    stem = path.with_suffix("").as_posix() if path.suffix.lower() in CONTAINERS else path.as_posix()
    return f"{stem.replace('/', '-')[-80:]}{f'-{clip.start_s:08.2f}' if clip.start_s else ''}"
