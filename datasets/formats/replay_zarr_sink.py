"""diffusion_policy replay buffers out: Zarr v2 by zarr-python 3, a folder or, if the name ends so, a `.zarr.zip`.

Chunks split time only and hold about 2 MB, as diffusion_policy makes them. Only whole chunks are written while episodes
come; the rows that do not fill one yet are kept in a file of their own, so that no chunk is ever written twice with
different contents and a kill costs nothing.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from foreact.datasets.durable import remove, write_durably
from foreact.datasets.episode import EpisodeData
from foreact.datasets.formats.base import FormatError
from foreact.datasets.formats.convert import partial_path
from foreact.datasets.formats.embedded import dataset_json, episode_json, key_map, state_columns
from foreact.datasets.formats.guess import natural
from foreact.datasets.formats.staged import Staged, put_in_place
from foreact.vla.contract import Contract

_CHUNK_BYTES = 2_000_000


class ReplayZarrSink:
    """`data/<camera>`, `data/<state field>`, `data/action`, `data/extras.<name>` and `meta/episode_ends`."""

    format = "diffusion-policy"
    ONE_STEP = True
    OPTIONS = {"chunk_bytes": "uncompressed size of a chunk; default 2000000"}

    def __init__(self, path: Path, contract: Contract, *, chunk_bytes: str = str(_CHUNK_BYTES)):
        self.path, self.contract = path, contract
        self._chunk_bytes = natural(chunk_bytes, "chunk_bytes", 1 << 30)
        self._keys = key_map(contract, taken=("action",))
        folder = partial_path(path)
        self._staged = Staged(folder, ".json")
        self._root = folder / "whole.zarr"
        self._headers = [json.loads(file.read_bytes()) for file in self._staged.files.values()]
        self._tail: dict[str, np.ndarray] = self._load_tail()
        self.left_out: list[str] = []
        """Episodes that the format cannot hold."""

    @property
    def notes(self) -> Sequence[str]:
        """What the format has no place for."""
        notes = [
            "instruction, segments, meta and the contract are in the group's attribute 'foreact', which "
            "diffusion_policy ignores"
        ]
        if self.left_out:
            notes.append(
                "all episodes of a replay buffer have the same arrays; left out, since theirs differ from the first "
                f"one's: {', '.join(self.left_out)}"
            )
        return notes

    def has(self, name: str) -> bool:
        """Whether the episode was written by an earlier, interrupted run."""
        return name in self._staged

    def write(self, name: str, episode: EpisodeData) -> None:
        """Append one episode; one whose arrays differ from the first one's is left out, and noted."""
        rows = self._rows(episode)
        if not self._tail:
            if self.contract.action and episode.action is None:  # diffusion_policy cannot train on it
                self.left_out.append(name)
                return
            self._tail = {key: value[:0] for key, value in rows.items()}
        if {k: (v.shape[1:], v.dtype) for k, v in rows.items()} != {
            k: (v.shape[1:], v.dtype) for k, v in self._tail.items()
        }:
            self.left_out.append(name)
            return
        done = self._total
        tail = {}
        for key, value in rows.items():
            pending = np.concatenate([self._tail[key], value])
            chunk = self._chunk_rows(pending)
            whole = len(pending) // chunk * chunk
            if whole:
                start = done - len(self._tail[key])
                self._write_chunks(key, start, pending[:whole])
            tail[key] = pending[whole:]
        header = {"length": len(episode), "episode": episode_json(name, episode)}
        self._save_tail(tail, len(self._headers) + 1)
        self._staged.add(name, lambda path: write_durably(path, json.dumps(header).encode()))
        remove(self._tail_file(len(self._headers)))
        self._headers.append(header)
        self._tail = tail

    def finish(self) -> None:
        """Write the last rows and the metadata, and put the whole in place.

        Raises:
            FormatError: If there is no episode.
        """
        if not self._headers:
            raise FormatError(f"{self.path}: no episode could be written; there is nothing to finish")
        self._write_metadata()
        part = self._root
        if self.path.name.endswith(".zip"):
            part = self._staged.scratch("whole.zip")
            _zip_folder(self._root, part)
        put_in_place(part, self.path)
        self._staged.clear()

    @property
    def _total(self) -> int:
        return sum(header["length"] for header in self._headers)

    def _rows(self, episode: EpisodeData) -> dict[str, np.ndarray]:
        rows = {self._keys.cameras[camera]: images for camera, images in episode.images.items()}
        if episode.state is not None:
            columns = state_columns(self.contract)
            rows |= {key: episode.state[:, c] for key, c in zip(self._keys.state, columns, strict=True)}
        if episode.action is not None:
            rows["action"] = episode.action
        return rows | {f"extras.{key}": value for key, value in episode.extras.items()}

    def _chunk_rows(self, rows: np.ndarray) -> int:
        return max(1, self._chunk_bytes // max(1, math.prod(rows.shape[1:]) * rows.dtype.itemsize))

    def _write_chunks(self, key: str, start: int, rows: np.ndarray) -> None:
        """Whole chunks, as Zarr v2 lays them out: one file each, `<row of chunks>.0.0...`."""
        chunk = self._chunk_rows(rows)
        folder = self._root / "data" / key
        folder.mkdir(parents=True, exist_ok=True)
        for at in range(0, len(rows), chunk):
            name = ".".join([str((start + at) // chunk), *"0" * (rows.ndim - 1)])
            part = self._staged.scratch("chunk")
            part.write_bytes(_blosc().encode(np.ascontiguousarray(rows[at : at + chunk])))
            part.replace(folder / name)

    def _write_metadata(self) -> None:
        import zarr

        for leftover in [p for p in self._root.rglob(".z*") if p.is_file()]:  # of a run that was killed right here
            leftover.unlink()
        root = zarr.open_group(self._root, mode="a", zarr_format=2)
        data, meta = root.create_group("data"), root.create_group("meta")
        for key, rows in self._tail.items():
            array = _create(data, key, (self._total, *rows.shape[1:]), rows.dtype, self._chunk_rows(rows))
            if len(rows):
                array[self._total - len(rows) :] = rows
        ends = np.cumsum([header["length"] for header in self._headers]).astype(np.int64)
        _create(meta, "episode_ends", ends.shape, ends.dtype, len(ends))[...] = ends
        episodes = [header["episode"] for header in self._headers]
        root.attrs["foreact"] = dataset_json(self.contract, self._keys) | {"episodes": episodes}

    def _tail_file(self, count: int) -> Path:
        return self._staged.folder / f"rows-behind-{count:09d}.npz"

    def _save_tail(self, tail: dict[str, np.ndarray], count: int) -> None:
        part = self._staged.scratch("rows.npz")
        with open(part, "wb") as file:
            np.savez(file, **tail)  # pyright: ignore[reportArgumentType]
        part.replace(self._tail_file(count))

    def _load_tail(self) -> dict[str, np.ndarray]:
        if not self._headers:
            return {}
        with np.load(self._tail_file(len(self._headers)), allow_pickle=False) as kept:
            return {key: kept[key] for key in kept.files}


def _blosc() -> Any:
    from numcodecs import Blosc

    return Blosc(cname="zstd", clevel=5, shuffle=Blosc.NOSHUFFLE)


def _create(group: Any, key: str, shape: tuple[int, ...], dtype: np.dtype, chunk: int) -> Any:
    return group.create_array(
        key,
        shape=shape,
        dtype=dtype,
        chunks=(chunk, *shape[1:]),
        compressors=_blosc(),
        fill_value=0,
        config={"write_empty_chunks": True},  # else a reader cannot tell zeros from what was lost
    )


def _zip_folder(folder: Path, path: Path) -> None:
    """A ZIP without compression and without times: the same folder gives the same bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            entry = zipfile.ZipInfo(file.relative_to(folder).as_posix(), (1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, file.read_bytes())
