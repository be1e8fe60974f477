"""Makes a bag whole whose recorder was killed: what was flushed is kept, the index and metadata.yaml are made anew."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import yaml

from foreact.datasets.durable import fsync_folder
from foreact.datasets.formats.base import FormatError
from foreact.datasets.formats.mcap_check import check_unfolded
from foreact.robot_bridge.record_mcap import BagError, make_writer
from foreact.robot_bridge.record_metadata import BagTimes, BagTopic, bag_metadata, metadata_text, write_metadata

_MAX_RECORD_BYTES = 1 << 30


@dataclass(kw_only=True)
class MendReport:
    """What was saved."""

    path: Path
    messages: int = 0
    chunks: int = 0
    kept_bytes: int = 0
    """Of the file that was cut off, up to where it is whole."""
    lost_bytes: int = 0
    """Behind that."""
    whole_before: bool = False
    """There was nothing to mend."""
    why: str = ""
    """What ended the reading of a file that was cut off."""


def mend_bag(folder: Path) -> MendReport:
    """Mend a bag in its place: the file is replaced when its successor is complete, so a kill leaves it to be mended.

    Args:
        folder: Of the bag, with one MCAP.

    Raises:
        BagError: If there is no MCAP, or nothing in it that could be kept.
    """
    files = sorted(folder.glob("*.mcap")) if folder.is_dir() else []
    if len(files) != 1:
        raise BagError(f"{folder}: expected the folder of a bag with one .mcap, found {len(files)}")
    file, size = files[0], files[0].stat().st_size
    report = MendReport(path=folder)
    part = file.with_suffix(".mcap.part")
    try:
        with open(file, "rb") as source, open(part, "wb") as target:
            information = _copy(source, target, file.name, report)
            target.flush()
            os.fsync(target.fileno())
        report.lost_bytes = size - report.kept_bytes
        if report.whole_before and (folder / "metadata.yaml").is_file():
            return report
        if not report.whole_before:
            part.replace(file)
            fsync_folder(folder)
        write_metadata(folder, information)
    except OSError as error:
        raise BagError(f"the bag {folder} cannot be mended: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)
    return report


def _copy(source: IO[bytes], target: IO[bytes], name: str, report: MendReport) -> dict[str, Any]:
    from mcap.records import Attachment, Channel, Header, Message, Metadata, Schema

    writer: Any = None
    schemas: dict[int, int] = {}
    names: dict[int, str] = {}
    channels: dict[int, int] = {}
    topics: dict[int, BagTopic] = {}
    times = BagTimes()
    for record in _whole_records(source, report):
        if isinstance(record, Header):
            writer = make_writer(target, "zstd")
            writer.start(record.profile, record.library)
        elif writer is None:
            raise _nothing(name)
        elif isinstance(record, Schema) and record.id not in schemas:
            schemas[record.id] = writer.register_schema(record.name, record.encoding, record.data)
            names[record.id] = record.name
        elif isinstance(record, Channel) and record.id not in channels and record.schema_id in schemas:
            channels[record.id] = writer.register_channel(
                record.topic, record.message_encoding, schemas[record.schema_id], record.metadata
            )
            topics[record.id] = BagTopic(
                name=record.topic,
                type=names[record.schema_id],
                type_hash=record.metadata.get("topic_type_hash", ""),
                qos=_profiles(record.metadata.get("offered_qos_profiles", "")),
            )
        elif isinstance(record, Message) and record.channel_id in channels:
            writer.add_message(
                channels[record.channel_id], record.log_time, record.data, record.publish_time, record.sequence
            )
            topics[record.channel_id].messages += 1
            times.note(record.log_time)
            report.messages += 1
        elif isinstance(record, Metadata) and record.name != "rosbag2":
            writer.add_metadata(record.name, record.metadata)
            if record.name == "foreact":
                times.custom = dict(record.metadata)
        elif isinstance(record, Attachment):
            writer.add_attachment(record.create_time, record.log_time, record.name, record.media_type, record.data)
    if writer is None:
        raise _nothing(name)
    information = bag_metadata(name, list(topics.values()), times)
    writer.add_metadata("rosbag2", {"serialized_metadata": metadata_text(information)})
    writer.finish()
    return information


def _whole_records(source: IO[bytes], report: MendReport) -> Iterator[Any]:
    """Records, those of chunks one by one, up to the first that is not whole."""
    from mcap.records import Chunk, DataEnd, Footer
    from mcap.stream_reader import StreamReader, breakup_chunk

    reader = iter(StreamReader(source, emit_chunks=True, record_size_limit=_MAX_RECORD_BYTES).records)
    ended = False
    while True:
        inner: list[Any] = []
        try:
            record = next(reader)
            if isinstance(record, Chunk):
                what = f"the chunk before byte {source.tell():,}"
                check_unfolded(record.data, record.compression, record.uncompressed_size, what)
                inner = breakup_chunk(record, validate_crc=True)
        except StopIteration:
            report.whole_before = ended
            return
        except OSError:
            raise
        except Exception as error:  # each library has errors of its own for what is cut off
            report.why = str(error) if isinstance(error, FormatError) else type(error).__name__
            return
        report.kept_bytes = source.tell()
        if isinstance(record, Chunk):
            report.chunks += 1
            yield from inner  # whole, or it would have been refused above
        elif isinstance(record, DataEnd | Footer):
            ended = True  # what follows is the index; an index that was cut off is made anew
        elif not ended:
            yield record


def _nothing(name: str) -> BagError:
    return BagError(f"{name} does not begin as an MCAP file: nothing in it can be kept. Remove its folder.")


def _profiles(text: str) -> list[dict[str, Any]]:
    with suppress(yaml.YAMLError):
        found = yaml.safe_load(text) if len(text) < 1 << 16 else None
        if isinstance(found, list) and all(isinstance(profile, dict) for profile in found):
            return found
    return []
