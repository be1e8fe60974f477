"""Writes an edited copy of a store: `foreact data edit`. The stores it reads are never touched.

Each episode is written aside and renamed into place whole, so a kill loses at most the one being written; the same edit
run again goes on where it stopped. Encoded frames are copied as they are; only a video that is cut within a group of
frames that depend on each other is encoded again, by its own codec.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import google_crc32c
import numpy as np

from foreact.datasets.arrays import EpisodeHeader, episode_files
from foreact.datasets.codecs import codec_from_spec
from foreact.datasets.durable import fsync_folder, remove, replace_durably, stage_name, write_tree
from foreact.datasets.edit_plan import EditPlan, Step
from foreact.datasets.layout import EPISODES, STAGING, DamagedEpisode, StoreError, staging_folder
from foreact.datasets.reader import EpisodeReader
from foreact.datasets.recorder import Recorder
from foreact.datasets.sealed import BrokenSeal, seal, unseal
from foreact.datasets.validate import check_header

EDIT_FILE = "foreact-edit.json"
"""In the new store: which edit made it."""


@dataclass
class EditReport:
    """What `run_edit` did."""

    written: int = 0
    present: int = 0
    """Episodes that an interrupted run had written."""
    encoded_again: int = 0
    """Of the written: episodes with a video that had to be encoded again."""
    bytes: int = 0
    hash: str = ""
    """Of the new store."""


def run_edit(plan: EditPlan, out: Path, progress: Callable[[int, int], None] | None = None) -> EditReport:
    """Write the new store.

    Args:
        plan: From `plan_edit`.
        out: Folder of the new store: new, empty, or left by an interrupted run of the same edit.
        progress: Called with the number of episodes done so far and in all.

    Raises:
        StoreError: If `out` holds something else, or a source is damaged or gone.
    """
    _claim(plan, out)
    recorder = Recorder(out, plan.stores[0].contract)
    report = EditReport()
    for number, step in enumerate(plan.steps, 1):
        if recorder.has(step.name):
            report.present += 1
        else:
            files, encoded = edited_files(plan.stores[step.store].reader(step.source), step)
            _put(out, step.name, files)
            report.written += 1
            report.encoded_again += encoded
            report.bytes += sum(map(len, files.values()))
        if progress is not None:
            progress(number, len(plan.steps))
    from foreact.datasets.store import Store

    report.hash = Store.open(out).hash
    return report


def _claim(plan: EditPlan, out: Path) -> None:
    """Mark `out` as the target of this edit, or check that it is.

    Raises:
        StoreError: If it is something else's.
    """
    for store in plan.stores:
        a, b = out.resolve(), store.path.resolve()
        if a == b or a in b.parents or b in a.parents:
            raise StoreError(
                f"the new store {out} and its source {store.path} lie in one another; choose another folder"
            )
    marker = out / EDIT_FILE
    if marker.is_file():
        try:
            found = unseal(marker.read_bytes()).get("digest")
        except (BrokenSeal, ValueError):
            found = None
        if found != plan.digest:
            raise StoreError(
                f"{out} was made by another edit, or its sources or options have changed; choose another folder"
            )
        return
    if out.exists() and (not out.is_dir() or any(entry.name != STAGING for entry in out.iterdir())):
        raise StoreError(f"{out} is not empty; an edit writes a new store, so choose another folder")
    out.mkdir(parents=True, exist_ok=True)
    content = {"format": "foreact-edit", "version": 1, "digest": plan.digest, "episodes": len(plan.steps)}
    content["sources"] = [store.hash for store in plan.stores]
    replace_durably(marker, seal(content), staging_folder(out))


def edited_files(reader: EpisodeReader, step: Step) -> tuple[dict[str, bytes], bool]:
    """The files of the new episode, and whether a video had to be encoded again.

    Raises:
        DamagedEpisode: If a checksum of the source is wrong.
        InvalidEpisode: If what was changed does not fit, such as too long a sentence.
    """
    start, end = step.frames or (0, reader.header.length)
    source = reader.read(slice(start, end), cameras=())
    meta = reader.header.meta | step.meta
    header: EpisodeHeader = replace(
        reader.header,
        length=end - start,
        instruction=reader.header.instruction if step.instruction is None else step.instruction,
        segments=list(reader.header.segments if step.segments is None else step.segments),
        meta=meta,
    )
    check_header(step.name, header)
    codec = codec_from_spec(header.codec)
    again = start % codec.group != 0
    blobs: dict[str, list[bytes]] = {}
    for camera, (height, width) in header.cameras.items():
        if again:
            encoder = codec.encoder(height, width)
            for frame in reader.images(camera, np.arange(start, end)):
                encoder.add(frame)
            blobs[camera] = encoder.finish()
        else:
            blobs[camera] = _blobs(reader, camera, start, end)
    return episode_files(header, blobs, source), again


def _blobs(reader: EpisodeReader, camera: str, start: int, end: int) -> list[bytes]:
    """The encoded frames [start, end) of a camera, checked one by one."""
    frames = reader.array(f"camera.{camera}.frames")
    out = []
    for t, (at, size, crc) in enumerate(reader.array(f"camera.{camera}.index")[start:end].tolist(), start):
        blob = frames[at : at + size].tobytes()
        if len(blob) != size or google_crc32c.value(blob) != crc:
            raise DamagedEpisode(
                f"episode {reader.name} is damaged: frame {t} of camera {camera!r} is not what was written"
            )
        out.append(blob)
    return out


def _put(store: Path, name: str, files: dict[str, bytes]) -> None:
    staged = staging_folder(store) / stage_name(name)
    try:
        write_tree(staged, files)
        os.rename(staged, store / EPISODES / name)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # else the same edit runs twice: it wrote the same
            raise StoreError(
                f"episode {name} could not be written to {store}: {error.strerror or error}. Check the disk (space, "
                "permissions) and run the same edit again; it goes on from here."
            ) from error
    finally:
        remove(staged)
    fsync_folder(store / EPISODES)
