"""Reads one episode, from its folder or out of a pack, checking the checksum of everything it hands out.

It understands exactly the arrays that `foreact.datasets.arrays` writes (any Zarr v3 library can read them too): opening
an episode with zarr-python costs several milliseconds, this well under one, and training opens episodes all the time.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from foreact.datasets.arrays import EPISODE_VERSION, EpisodeHeader
from foreact.datasets.codec_base import BadFrame
from foreact.datasets.codecs import codec_from_spec
from foreact.datasets.episode import EpisodeData
from foreact.datasets.layout import GROUP, MANIFEST, DamagedEpisode, StoreError, check_version, unusable
from foreact.datasets.sealed import BrokenSeal, digest, unseal
from foreact.vla.images import resize_frame

Frames = slice | np.ndarray | None

_DTYPES = {"uint8", "uint64", "float32", "float64"}
_CRC_SIZE = 4
_PART = 32
"""About so many frames are held at full size while they are resized."""
_GAP = 64 * 1024
"""Frames are fetched together if fewer bytes than this lie between them: a request costs more than that."""


class EpisodeReader:
    """One stored episode.

    Args:
        name: Its name, for messages.
        get: Path inside the episode's folder -> bytes; raises KeyError or FileNotFoundError.
        where: Path of the folder or of the pack, for messages.
        sizes: camera -> (height, width) of the store's contract; None if it is not known.
        part: Path, first byte, byte after the last -> those bytes; for places where a whole file of frames is far away.
            None if `get` costs nothing until the bytes are looked at.

    Raises:
        DamagedEpisode: If its manifest or its metadata are not what was written.
        NewerFormat: If a later ForeAct wrote it.
    """

    def __init__(
        self,
        name: str,
        get: Callable[[str], memoryview],
        where: Path | str,
        sizes: Mapping[str, tuple[int, int]] | None = None,
        part: Callable[[str, int, int], memoryview] | None = None,
    ):
        self.name = name
        self._get = get
        self._part = part
        self._where = where
        raw = bytes(self._bytes(MANIFEST))
        try:
            manifest = unseal(raw)
        except (BrokenSeal, ValueError) as error:
            raise self._damaged(MANIFEST, str(error)) from error
        check_version(manifest.get("version"), f"episode {name} in {where}", EPISODE_VERSION)
        self._manifest_size = len(raw)
        self.sha256 = digest(raw)
        """Names the whole contents of the episode."""
        try:
            self.files: Mapping[str, tuple[int, str]] = {f: (int(n), str(h)) for f, (n, h) in manifest["files"].items()}
            """Path inside the folder -> (size, SHA-256)."""
            group = self._bytes(GROUP)
            if hashlib.sha256(group).hexdigest() != self.files[GROUP][1]:
                raise self._damaged(GROUP, f"its SHA-256 is not the one in {self._where}/{MANIFEST}")
            root = json.loads(bytes(group))
            self.header = EpisodeHeader.from_json(root["attributes"]["foreact"], f"episode {name} in {where}")
            self._metadata: dict[str, Any] = root["consolidated_metadata"]["metadata"]
            self._check_declared(sizes)
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise self._damaged(GROUP, f"it is not what ForeAct writes ({error!r:.100})") from error
        self._codec = codec_from_spec(self.header.codec)
        self._arrays: dict[str, np.ndarray] = {}
        self._frames: dict[str, memoryview] = {}

    def _check_declared(self, sizes: Mapping[str, tuple[int, int]] | None) -> None:
        """Compare what the header declares with the contract and the arrays, before memory is taken for any of it."""
        header = self.header
        if sizes is not None and not header.cameras.items() <= sizes.items():
            raise self._damaged(GROUP, f"cameras {header.cameras} are not those of the store's contract, {dict(sizes)}")
        for array, meta in self._metadata.items():
            if not array.endswith(".frames") and (not meta["shape"] or meta["shape"][0] != header.length):
                raise self._damaged(GROUP, f"{array} has shape {meta['shape']}, the episode {header.length} frames")

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return self._manifest_size + sum(size for size, _ in self.files.values())

    def read(
        self,
        frames: Frames = None,
        cameras: Iterable[str] | None = None,
        resize: Mapping[str, tuple[int, int]] | None = None,
        extras: bool = True,
    ) -> EpisodeData:
        """The episode, or some of its frames in the order asked for; see `Store.read`."""
        header = self.header
        wanted = self._frame_numbers(frames)
        names = list(header.cameras) if cameras is None else list(cameras)
        for camera in names:
            if camera not in header.cameras:
                raise StoreError(
                    f"episode {self.name} in {self._where} has no camera {camera!r}; it has {sorted(header.cameras)}"
                )
        extra_names = [n.removeprefix("extras.") for n in self._metadata if n.startswith("extras.")] if extras else []
        return EpisodeData(
            images={c: self.images(c, wanted, (resize or {}).get(c)) for c in names},
            state=self.array("state")[wanted] if header.has_state else None,
            action=self.array("action")[wanted] if header.has_action else None,
            extras={name: self.array(f"extras.{name}")[wanted] for name in extra_names},
            instruction=header.instruction,
            segments=list(header.segments),
            meta=dict(header.meta),
            name=self.name,
        )

    def images(
        self,
        camera: str,
        wanted: np.ndarray,
        size: tuple[int, int] | None = None,
        out: np.ndarray | None = None,
        rows: np.ndarray | None = None,
    ) -> np.ndarray:
        """Decode frames (N,), in any order, to (N, height, width, 3) uint8, resized to `size` if given.

        Args:
            camera: Its name.
            wanted: (N,) frame numbers.
            size: (height, width) in pixels to resize to.
            out: (M, height, width, 3) uint8, C-contiguous: decode into it instead of into a new array.
            rows: (N,) the rows of `out` to fill; the first N by default.
        """
        stored = self.header.cameras[camera]
        size = size or stored
        if out is None:
            out = np.empty((len(wanted), *size, 3), np.uint8)
        frames = wanted.tolist()
        places = range(len(frames)) if rows is None else rows.tolist()
        first: dict[int, int] = {}  # frame -> the row it is decoded into
        again: list[tuple[int, int]] = []
        for t, row in zip(frames, places, strict=True):
            if first.setdefault(t, row) != row:
                again.append((row, first[t]))
        distinct = sorted(first)
        if size == stored:
            self._decode(camera, distinct, {t: out[first[t]] for t in distinct})
        else:
            for part in self._parts(distinct):
                full = np.empty((len(part), *stored, 3), np.uint8)
                self._decode(camera, part, dict(zip(part, full, strict=True)))
                for t, frame in zip(part, full, strict=True):
                    out[first[t]] = resize_frame(frame, *size)
        for row, source in again:
            out[row] = out[source]
        return out

    def _parts(self, frames: Sequence[int]) -> list[list[int]]:
        """Rising frames in pieces of whole groups: what is held at full size while it is made smaller."""
        parts: list[list[int]] = []
        group = self._codec.group
        for t in frames:
            if not parts or (len(parts[-1]) >= _PART and t // group != parts[-1][-1] // group):
                parts.append([])
            parts[-1].append(t)
        return parts

    def _decode(self, camera: str, frames: Sequence[int], out: Mapping[int, np.ndarray]) -> None:
        """Decode rising frames into their arrays."""
        codec, size = self._codec, self.header.cameras[camera]
        blobs = self._blobs(camera, codec.needs(frames))
        try:
            codec.decode_into(blobs, out, *size)
        except BadFrame as error:
            for first in sorted({t - t % codec.group for t in frames}):  # which group is it?
                group = range(first, first + codec.group)
                own = [t for t in frames if t in group]
                try:
                    codec.decode_into({t: blobs[t] for t in codec.needs(own)}, {t: out[t] for t in own}, *size)
                except BadFrame as found:
                    raise self._damaged(_frames_file(camera), f"frame {first}: {found}") from found
            raise self._damaged(_frames_file(camera), f"frame {frames[0]}: {error}") from error

    def array(self, name: str) -> np.ndarray:
        """A whole array, read-only, its checksum verified once.

        Raises:
            DamagedEpisode: If its bytes are not those that were written.
        """
        if name not in self._arrays:
            data, dtype, shape = self._chunk(name)
            stored = int.from_bytes(data[-_CRC_SIZE:], "little")
            if google_crc32c.value(bytes(data[:-_CRC_SIZE])) != stored:
                raise self._damaged(_chunk_file(name, len(shape)), "its crc32c is wrong")
            self._arrays[name] = np.frombuffer(data[:-_CRC_SIZE], dtype).reshape(shape)
        return self._arrays[name]

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of an array."""
        return self._chunk(name)[2]

    def check_files(self) -> list[str]:
        """Compare every file with the manifest; one sentence per file that differs, naming it."""
        problems = []
        for name, (size, sha256) in self.files.items():
            try:
                data = self._get(name)
            except (KeyError, FileNotFoundError):
                problems.append(f"{self._where}/{name}: missing")
                continue
            except OSError as error:
                problems.append(str(self._unreadable(name, error)))
                continue
            if len(data) != size:
                problems.append(f"{self._where}/{name}: {size} bytes were written, {len(data)} found")
            elif hashlib.sha256(data).hexdigest() != sha256:
                problems.append(f"{self._where}/{name}: its SHA-256 is not the one in the manifest")
        return problems

    def _chunk(self, name: str) -> tuple[memoryview, np.dtype, tuple[int, ...]]:
        """The bytes of an array's only chunk, with its declared type and shape; sizes are checked, the CRC is not."""
        dtype, shape = self._declared(name)
        data = self._bytes(_chunk_file(name, len(shape)))
        expected = math.prod(shape) * dtype.itemsize + _CRC_SIZE
        if len(data) != expected:
            raise self._damaged(_chunk_file(name, len(shape)), f"expected {expected} bytes, found {len(data)}")
        return data, dtype, shape

    def _declared(self, name: str) -> tuple[np.dtype, tuple[int, ...]]:
        meta = self._metadata.get(name)
        if meta is None:
            raise self._damaged(GROUP, f"the array {name} is missing")
        shape = tuple(int(n) for n in meta["shape"])
        codecs = [codec["name"] for codec in meta["codecs"]]
        chunk_shape = tuple(meta["chunk_grid"]["configuration"]["chunk_shape"])
        if meta["data_type"] not in _DTYPES or codecs != ["bytes", "crc32c"] or chunk_shape != shape:
            raise self._damaged(
                f"{name}/{GROUP}", "it is not one uncompressed chunk of numbers with a crc32c, as ForeAct writes"
            )
        return np.dtype(meta["data_type"]).newbyteorder("<"), shape

    def _blobs(self, camera: str, frames: Sequence[int]) -> dict[int, bytes]:
        """Frame -> its encoded bytes, checked, in that order; from afar, only stretches that hold them are fetched."""
        places = dict(zip(frames, self.array(f"camera.{camera}.index")[list(frames)].tolist(), strict=True))
        blobs: dict[int, bytes] = {}
        for stretch in self._stretches(camera, places):
            begin, data = self._stretch(camera, [places[t][:2] for t in stretch])
            for t in stretch:
                start, length, crc = places[t]
                blobs[t] = blob = bytes(data[start - begin : start - begin + length])
                if google_crc32c.value(blob) != crc:
                    raise self._damaged(_frames_file(camera), f"the crc32c of frame {t} is wrong")
        return blobs if self._part is None else {t: blobs[t] for t in frames}

    def _stretches(self, camera: str, places: dict[int, list[int]]) -> list[list[int]]:
        """Frames whose bytes are fetched together: all of them, or those that lie near each other."""
        size = self._declared(f"camera.{camera}.frames")[1][0]
        for t, (start, length, _) in places.items():
            if start + length > size:
                raise self._damaged(_frames_file(camera), f"frame {t} is not in it")
        if self._part is None:
            return [list(places)]
        stretches: list[list[int]] = []
        end = 0
        for t in sorted(places, key=lambda t: places[t][0]):
            start, length, _ = places[t]
            if not stretches or start > end + _GAP:
                stretches.append([])
            stretches[-1].append(t)
            end = max(end, start + length)
        return stretches

    def _stretch(self, camera: str, places: list[list[int]]) -> tuple[int, memoryview]:
        """Where the bytes begin that hold these (start, length), and the bytes."""
        if self._part is not None:
            begin, end = min(s for s, _ in places), max(s + n for s, n in places)
            return begin, self._part(_frames_file(camera), begin, end)
        if camera not in self._frames:
            self._frames[camera] = self._chunk(f"camera.{camera}.frames")[0][:-_CRC_SIZE]
        return 0, self._frames[camera]

    def _frame_numbers(self, frames: Frames) -> np.ndarray:
        length = self.header.length
        if frames is None or isinstance(frames, slice):
            return np.arange(length)[frames or slice(None)]
        wanted = np.asarray(frames, dtype=np.int64)
        if wanted.ndim != 1 or (len(wanted) and (wanted.min() < 0 or wanted.max() >= length)):
            raise StoreError(
                f"episode {self.name} in {self._where} has frames 0 to {length - 1}; asked for {frames!r:.100}"
            )
        return wanted

    def _bytes(self, name: str) -> memoryview:
        try:
            return self._get(name)
        except (KeyError, FileNotFoundError) as error:
            raise self._damaged(name, "the file is missing") from error
        except OSError as error:
            raise self._unreadable(name, error) from error

    def _unreadable(self, name: str, error: OSError) -> StoreError:
        what = f"episode {self.name} could not be read: {self._where}/{name}"
        return unusable(error, what, "Check the disk and the permissions, and try again.")

    def _damaged(self, name: str, how: str) -> DamagedEpisode:
        return DamagedEpisode(
            f"episode {self.name} is damaged: {self._where}/{name}: {how}. "
            "Run `foreact data verify` on the store, then restore or delete the episode."
        )


def _chunk_file(array: str, dimensions: int) -> str:
    return f"{array}/c/" + "/".join("0" * dimensions)


def _frames_file(camera: str) -> str:
    return _chunk_file(f"camera.{camera}.frames", 1)


def folder_getter(folder: Path) -> Callable[[str], memoryview]:
    """`get` for an episode in a folder of its own; large files are mapped, not read."""
    kept: dict[str, memoryview] = {}

    def get(name: str) -> memoryview:
        if name not in kept:
            if name.startswith("/") or ".." in name.split("/"):
                raise KeyError(name)
            path = folder / name
            with open(path, "rb") as file:
                if name.endswith("frames/c/0") and path.stat().st_size:
                    kept[name] = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
                else:
                    return memoryview(file.read())
        return kept[name]

    return get
