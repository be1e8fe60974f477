"""Writes finished episodes into a store: whole or not at all, from any number of processes at once."""

from __future__ import annotations

import contextlib
import datetime
import errno
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from foreact.datasets.arrays import EpisodeHeader, episode_files
from foreact.datasets.background import BackgroundCommits
from foreact.datasets.codec_base import FrameEncoder
from foreact.datasets.codecs import codec_from_spec
from foreact.datasets.durable import fsync_folder, remove, stage_name, sweep, write_tree
from foreact.datasets.episode import EpisodeData, Segment
from foreact.datasets.layout import (
    EPISODES,
    PACKS,
    STAGING,
    EpisodeExists,
    InvalidEpisode,
    StoreError,
    check_name,
    staging_folder,
    unusable,
)
from foreact.datasets.root import create_or_check_root
from foreact.datasets.space import check_space, episode_bound
from foreact.datasets.validate import check_frame, check_header, check_rows
from foreact.vla.contract import Contract


class Recorder:
    """Records into the store at `path`, which is created if there is none.

    Args:
        path: Folder of the store.
        contract: What is recorded. An existing store must have the same.
        codec: Image codec or preset, see `foreact.datasets.codecs`.
        background: Finish episodes in a thread of its own: the end of an `episode` block returns at once, and the next
            episode may begin while the disk is written. Use the recorder in a `with` then, or call `flush`: only after
            that, or after `EpisodeWriter.wait`, an episode is on the disk for good. What goes wrong in the thread is
            raised by `flush`, by the end of the `with`, or by the next `episode`.

    Raises:
        ContractMismatch: If the store at `path` was made for another contract.
        NewerFormat: If a later ForeAct made it.
        ConfigError: If the codec is unknown.
    """

    def __init__(self, path: Path | str, contract: Contract, codec: str = "fast", background: bool = False):
        self.path = Path(path)
        self.contract = contract
        self.codec = codec_from_spec(codec)
        for camera in contract.cameras:
            check_name(camera.name, "camera name")
        create_or_check_root(self.path, contract)
        sweep(self.path / STAGING)
        self._packed: tuple[frozenset[str], frozenset[str]] = (frozenset(), frozenset())
        self._commits = BackgroundCommits() if background else None
        self._largest = 0
        """Bytes of the largest episode that this recorder has written."""

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish what is being written. An error of the block itself is not hidden by one of the disk."""
        if self._commits is not None:
            self._commits.wait()
            if error is None:
                self._commits.raise_failed()

    def flush(self) -> None:
        """Wait until all finished episodes are on the disk for good.

        Raises:
            StoreError, InvalidEpisode: What went wrong in the background since the last call.
        """
        if self._commits is not None:
            self._commits.wait()
            self._commits.raise_failed()

    def has(self, name: str) -> bool:
        """Whether an episode of that name is in the store, from whichever process, packed or not."""
        check_name(name)
        try:
            waits = self._commits is not None and name in self._commits
            return waits or self._taken(name)
        except OSError as error:
            what = f"whether the store {self.path} has an episode {name!r} could not be found out"
            raise unusable(error, what, "Check the disk and the permissions, and try again.") from error

    def write(self, episode: EpisodeData, name: str | None = None) -> int:
        """Write one episode; when this returns, it is on the disk for good.

        Args:
            episode: All arrays have the same number of frames; images have the sizes of the contract's cameras (at
                least one of them is there); state and action may be None.
            name: Its name in the store; by default `episode.name`, else one made from the time.

        Returns:
            The number of bytes written.

        Raises:
            InvalidEpisode: If something does not fit the contract, is not finite, or the name is not a safe one.
            EpisodeExists: If the name is taken.
        """
        with self.episode(
            name=name or episode.name or None,
            instruction=episode.instruction,
            meta=episode.meta,
            segments=episode.segments,
        ) as writer:
            lengths = {k: len(v) for k, v in {**episode.images, **episode.extras}.items()}
            lengths |= {k: len(v) for k, v in (("state", episode.state), ("action", episode.action)) if v is not None}
            if len(set(lengths.values())) != 1:
                raise InvalidEpisode(f"episode {writer.name}: arrays differ in their number of frames: {lengths}")
            for t in range(len(episode)):
                writer.add(
                    images={camera: frames[t] for camera, frames in episode.images.items()},
                    state=None if episode.state is None else episode.state[t],
                    action=None if episode.action is None else episode.action[t],
                    extras={key: value[t] for key, value in episode.extras.items()},
                )
        return writer.wait()

    @contextmanager
    def episode(
        self,
        name: str | None = None,
        instruction: str = "",
        meta: Mapping[str, Any] | None = None,
        segments: Sequence[Segment] = (),
    ) -> Iterator[EpisodeWriter]:
        """Record frame by frame; the episode is written when the block ends, and dropped if it raises.

        `instruction`, `meta` and `segments` may still be set on the writer inside the block.

        Raises:
            InvalidEpisode, EpisodeExists: As `write`.
            NoSpace: If the disk has no room for two episodes (as large as the largest so far, or 10 s long).
        """
        name = check_name(name or new_name())
        if self._commits is not None:
            self._commits.raise_failed()
        if self.has(name):
            raise self._exists(name)
        expected = self._largest or episode_bound(self.contract, self.codec.spec)
        check_space(self.path, expected, f"recording into {self.path}")
        writer = EpisodeWriter(self, name, instruction, dict(meta or {}), list(segments))
        yield writer
        if writer.discarded:
            return
        if self._commits is None:
            self._commit(writer)
        else:
            writer.check()  # what does not fit is said here, where it was recorded
            writer.future = self._commits.submit(name, partial(self._commit, writer))

    def _commit(self, writer: EpisodeWriter) -> None:
        files = writer.finish()
        try:
            self._put_in_place(writer.name, files)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):  # another process was faster
                raise self._exists(writer.name) from error
            raise StoreError(
                f"episode {writer.name} could not be written to {self.path}: {error.strerror or error}. The episodes "
                "recorded before are safe; check the disk (space, permissions) and record this one again."
            ) from error
        writer.bytes = sum(len(data) for data in files.values())
        self._largest = max(self._largest, writer.bytes)

    def _put_in_place(self, name: str, files: Mapping[str, bytes]) -> None:
        staged = staging_folder(self.path) / stage_name(name)
        try:
            write_tree(staged, files)
            if self._taken(name):
                raise self._exists(name)
            os.rename(staged, self.path / EPISODES / name)
            if name in self._packed_names():  # by another process, and packed, since we looked: that one counts
                with contextlib.suppress(FileNotFoundError):
                    os.rename(self.path / EPISODES / name, staged)
                raise self._exists(name)
        finally:
            remove(staged)
        fsync_folder(self.path / EPISODES)

    def _taken(self, name: str) -> bool:
        return (self.path / EPISODES / name).is_dir() or name in self._packed_names()

    def forget(self, error: BaseException) -> None:
        """Do not raise this error of the background again; it was raised where it belongs."""
        if self._commits is not None:
            self._commits.forget(error)

    def _exists(self, name: str) -> EpisodeExists:
        return EpisodeExists(
            f"the store {self.path} already has an episode {name!r}; record under another name, or skip it "
            "(`recorder.has(name)` tells)"
        )

    def _packed_names(self) -> frozenset[str]:
        from foreact.datasets.packs import packed_names

        folder = self.path / PACKS
        found = frozenset(os.listdir(folder)) if folder.is_dir() else frozenset()
        if found != self._packed[0]:
            self._packed = (found, packed_names(self.path))
        return self._packed[1]


class EpisodeWriter:
    """The episode being recorded; frames are encoded as they come, so that memory holds only their encoded form."""

    def __init__(self, recorder: Recorder, name: str, instruction: str, meta: dict[str, Any], segments: list[Segment]):
        self.name = name
        self.instruction = instruction
        self.meta = meta
        self.segments = segments
        self.discarded = False
        self.bytes = 0
        """Size on disk, once written."""
        self.future: Future[None] | None = None
        """Of the thread that writes it, if there is one."""
        self._recorder = recorder
        self._contract = recorder.contract
        self._codec = recorder.codec
        self._encoders: dict[str, FrameEncoder] | None = None
        self._rows: dict[str, list[np.ndarray]] = {}
        self._length = 0

    def __len__(self) -> int:
        """Frames recorded so far."""
        return self._length

    def add(
        self,
        images: Mapping[str, np.ndarray],
        state: np.ndarray | None = None,
        action: np.ndarray | None = None,
        extras: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Record one frame: images (H, W, 3) uint8, state (S,), action (A,), extras of any shape, all of it finite.

        Raises:
            InvalidEpisode: If it does not fit the contract, or has other parts than the frames before.
        """
        rows = check_frame(self._contract, self.name, self._length, images, state, action, extras or {})
        if self._encoders is None:
            cameras = {name: self._contract.camera(name) for name in images}
            self._encoders = {n: self._codec.encoder(c.height, c.width) for n, c in cameras.items()}
            self._rows = {key: [] for key in rows}
        if set(images) != set(self._encoders) or set(rows) != set(self._rows):
            raise InvalidEpisode(
                f"episode {self.name}, frame {self._length}: has {sorted([*images, *rows])}, "
                f"the frames before have {sorted([*self._encoders, *self._rows])}"
            )
        check_rows(self.name, self._length, rows, self._rows)
        for camera, encoder in self._encoders.items():
            encoder.add(images[camera])
        for key, row in rows.items():
            self._rows[key].append(row)
        self._length += 1

    def discard(self) -> None:
        """Do not write this episode when the block ends."""
        self.discarded = True

    def wait(self) -> int:
        """Wait until the episode is on the disk for good; its size [bytes].

        Raises:
            StoreError, InvalidEpisode: If it could not be written.
        """
        if self.future is not None and (error := self.future.exception()) is not None:
            self._recorder.forget(error)
            raise error
        return self.bytes

    def check(self) -> None:
        """Look at what was said about the episode, before it is encoded to its end.

        Raises:
            InvalidEpisode: If there are no frames, or the sentences, segments or meta do not fit.
        """
        check_header(self.name, self._header())

    def finish(self) -> dict[str, bytes]:
        """The files of the episode; only once, since the frames are then let go of, whoever still holds the writer."""
        header = self._header()
        check_header(self.name, header)
        assert self._encoders is not None  # a header exists only if there are frames
        encoders, self._encoders = self._encoders, {}
        arrays = {key: np.stack(rows) for key, rows in self._rows.items()}
        self._rows = {}
        episode = EpisodeData(
            images={},
            state=arrays.pop("state", None),
            action=arrays.pop("action", None),
            extras={key.removeprefix("extras."): value for key, value in arrays.items()},
        )
        return episode_files(header, {n: e.finish() for n, e in encoders.items()}, episode)

    def _header(self) -> EpisodeHeader:
        if not self._length or self._encoders is None:
            raise InvalidEpisode(f"episode {self.name} has no frames; call `discard()` to drop it")
        cameras = {name: self._contract.camera(name) for name in self._encoders}
        return EpisodeHeader(
            length=self._length,
            codec=self._codec.spec,
            cameras={name: (camera.height, camera.width) for name, camera in cameras.items()},
            instruction=self.instruction,
            segments=list(self.segments),
            meta=dict(self.meta),
            has_state="state" in self._rows,
            has_action="action" in self._rows,
        )


def new_name() -> str:
    """A name that no other process chooses, and that sorts by time."""
    now = datetime.datetime.now(datetime.UTC)
    return f"{now:%Y%m%dT%H%M%S}-{now.microsecond:06d}-{secrets.token_hex(4)}"
