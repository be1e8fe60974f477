"""What ROS 2 expects beside the messages of a bag: metadata.yaml of rosbag2 (version 9), and the QoS of each topic."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from foreact.datasets.durable import fsync_folder, write_durably

_FOR_EVER = {"sec": 9223372036, "nsec": 854775807}


@dataclass(frozen=True, kw_only=True)
class OfferedQos:
    """Of a publisher, as `ros2 bag play` will offer it again."""

    reliability: Literal["reliable", "best_effort"] = "reliable"
    durability: Literal["volatile", "transient_local"] = "volatile"
    depth: int = 10

    def profile(self) -> dict[str, Any]:
        """As metadata of version 9 writes it."""
        return {
            "history": "keep_last",
            "depth": self.depth,
            "reliability": self.reliability,
            "durability": self.durability,
            "deadline": dict(_FOR_EVER),
            "lifespan": dict(_FOR_EVER),
            "liveliness": "automatic",
            "liveliness_lease_duration": dict(_FOR_EVER),
            "avoid_ros_namespace_conventions": False,
        }


@dataclass(kw_only=True)
class BagTopic:
    """A topic of a bag, and what was counted of it."""

    name: str
    type: str
    type_hash: str
    qos: Sequence[Mapping[str, Any]] = ()
    messages: int = 0


@dataclass(kw_only=True)
class BagTimes:
    """What metadata.yaml says of a bag as a whole."""

    start_ns: int | None = None
    end_ns: int | None = None
    custom: dict[str, str] = field(default_factory=dict)

    def note(self, time_ns: int) -> None:
        """There is a message at that time."""
        self.start_ns = time_ns if self.start_ns is None else min(self.start_ns, time_ns)
        self.end_ns = time_ns if self.end_ns is None else max(self.end_ns, time_ns)


def bag_metadata(file: str, topics: Sequence[BagTopic], times: BagTimes) -> dict[str, Any]:
    """The value of `rosbag2_bagfile_information`, for a bag of one MCAP file."""
    start, count = times.start_ns or 0, sum(topic.messages for topic in topics)
    duration = {"nanoseconds": (times.end_ns or start) - start}
    begin = {"nanoseconds_since_epoch": start}
    return {
        "version": 9,
        "storage_identifier": "mcap",
        "duration": duration,
        "starting_time": begin,
        "message_count": count,
        "topics_with_message_count": [
            {
                "topic_metadata": {
                    "name": topic.name,
                    "type": topic.type,
                    "serialization_format": "cdr",
                    "offered_qos_profiles": [dict(profile) for profile in topic.qos],
                    "type_description_hash": topic.type_hash,
                },
                "message_count": topic.messages,
            }
            for topic in topics
        ],
        "compression_format": "",
        "compression_mode": "",  # chunks of an MCAP are compressed inside the file, of which this does not speak
        "relative_file_paths": [file],
        "files": [
            {"path": file, "starting_time": dict(begin), "duration": dict(duration), "message_count": count},
        ],
        "custom_data": times.custom or None,
        "ros_distro": os.environ.get("ROS_DISTRO", "unknown"),
    }


def write_metadata(folder: Path, information: Mapping[str, Any]) -> None:
    """Write metadata.yaml: whole, or not at all."""
    text = _dump({"rosbag2_bagfile_information": dict(information)})
    part = folder / "metadata.yaml.part"
    write_durably(part, text.encode())
    part.replace(folder / "metadata.yaml")
    fsync_folder(folder)


def qos_text(profiles: Sequence[Mapping[str, Any]]) -> str:
    """Profiles as the channel of an MCAP holds them."""
    return _dump([dict(profile) for profile in profiles]).strip()


def metadata_text(information: Mapping[str, Any]) -> str:
    """The same for the record "rosbag2" inside an MCAP."""
    return _dump(dict(information)).strip()


def _dump(value: Mapping[str, Any] | Sequence[Any]) -> str:
    class Plain(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    return yaml.dump(value, Dumper=Plain, sort_keys=False, default_flow_style=False)
