"""The formats there are: found by looking at files, opened by name. The modules are loaded when they are needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from foreact.datasets.formats.base import FormatError, Sink, Source
from foreact.vla.contract import Contract
from foreact.vla.errors import ConfigError, did_you_mean

_HERE = "foreact.datasets.formats"


@dataclass(frozen=True)
class Format:
    """One format: what it is, how it is told from others, and where its code is (`module:Class` in this folder)."""

    name: str
    title: str
    looked_for: str
    source: str = ""
    sink: str = ""
    suffixes: tuple[str, ...] = ()
    """Endings of a file or folder to be written that name this format."""


FORMATS: tuple[Format, ...] = (
    Format("foreact", "trajectory store", "foreact-store.json", "store:StoreSource", "store:StoreSink"),
    Format(
        "lerobot-v3",
        "LeRobot dataset v3.0",
        'meta/info.json with codebase_version "v3.0"',
        "lerobot_v3:LeRobotV3Source",
        "lerobot_v3_sink:LeRobotV3Sink",
    ),
    Format(
        "lerobot-v2.1",
        "LeRobot dataset v2.1 (GR00T, openpi)",
        'meta/info.json with codebase_version "v2.1"',
        "lerobot_v21:LeRobotV21Source",
        "lerobot_v21_sink:LeRobotV21Sink",
    ),
    Format(
        "robomimic",
        "robomimic HDF5",
        "an HDF5 file with data/demo_<i>",
        "robomimic:RobomimicSource",
        "robomimic_sink:RobomimicSink",
        (".hdf5", ".h5"),
    ),
    Format(
        "diffusion-policy",
        "diffusion_policy replay buffer, Zarr v2 folder or .zarr.zip",
        "data/ and meta/episode_ends in a Zarr v2 group",
        "replay_zarr:ReplayZarrSource",
        "replay_zarr_sink:ReplayZarrSink",
        (".zarr", ".zarr.zip"),
    ),
    Format(
        "calvin",
        "CALVIN, npz per frame",
        "ep_start_end_ids.npy and episode_<number>.npz, or training/ and validation/ with them",
        "calvin:CalvinSource",
    ),
    Format(
        "videos",
        "videos with captions",
        "captions.csv or captions.json with columns path, caption[, start_s, end_s], narrations of Ego4D, "
        "labels of Something-Something v2",
        "videos:VideosSource",
    ),
    Format("mp4", "MP4 and JSON", "", "", "mp4_sink:Mp4Sink"),
    Format(
        "rlds",
        "RLDS / TFDS records (Open X-Embodiment)",
        "dataset_info.json, features.json and *.tfrecord-<i>-of-<n>",
        "rlds:RldsSource",
    ),
    Format("rosbag", "rosbag2, MCAP or SQLite", "metadata.yaml of rosbag2, or *.mcap", "rosbag:RosbagSource"),
)


@dataclass(frozen=True)
class Opening:
    """What opens a source again, in another process."""

    format: str
    path: Path
    contract_yaml: str = ""
    options: Mapping[str, str] = field(default_factory=dict)

    def open(self) -> Source:
        """Open it.

        Raises:
            FormatError: If it is not of that format, or damaged.
            ConfigError: If an option is unknown or has no meaning.
        """
        spec = format_named(self.format)
        if not spec.source:
            raise ConfigError(f"{spec.title} is only written, not read; read: {', '.join(names_of('source'))}")
        cls = load(spec.source)
        contract = Contract.from_yaml(self.contract_yaml) if self.contract_yaml else None
        return cls(self.path, contract, **check_options(cls, self.options, f"reading {spec.title}"))


def format_named(name: str) -> Format:
    """The format of that name.

    Raises:
        ConfigError: If there is none.
    """
    for spec in FORMATS:
        if spec.name == name:
            return spec
    raise ConfigError(f"no format {name!r}; {did_you_mean(name, [spec.name for spec in FORMATS])}")


def names_of(part: str) -> list[str]:
    """Names of the formats that have a "source" or a "sink"."""
    return [spec.name for spec in FORMATS if getattr(spec, part) and available(getattr(spec, part))]


def available(where: str) -> bool:
    """Whether the module of `module:Class` is part of this installation."""
    return find_spec(f"{_HERE}.{where.partition(':')[0]}") is not None


def load(where: str) -> Any:
    """The class that `module:Class` of the table names."""
    module, _, name = where.partition(":")
    if not available(where):
        raise ConfigError(f"this installation of ForeAct has no {module}")
    return getattr(import_module(f"{_HERE}.{module}"), name)


def check_options(cls: Any, options: Mapping[str, str], what: str) -> dict[str, str]:
    """The options that a class takes, as the text that was given.

    Raises:
        ConfigError: If one is unknown.
    """
    known: Mapping[str, str] = getattr(cls, "OPTIONS", {})
    for key in options:
        if key not in known:
            raise ConfigError(f"{what} takes no option {key!r}; {did_you_mean(key, known)}")
    return dict(options)


def recognise(path: Path) -> str:
    """The name of the format of what lies at `path`.

    Raises:
        FormatError: If it is none, or could be several.
    """
    path = Path(path)
    if not path.exists():
        raise FormatError(f"there is nothing at {path}; check the path")
    readable = [spec for spec in FORMATS if spec.source and available(spec.source)]
    found = [spec.name for spec in readable if load(spec.source).recognise(path)]
    if len(found) == 1:
        return found[0]
    if found:
        raise FormatError(f"{path} could be {' or '.join(found)}; say which by --format")
    lines = "\n".join(f"  {spec.name}: {spec.looked_for}" for spec in readable)
    raise FormatError(f"{path} is of no known format. Looked for:\n{lines}\nOr name the format by --format.")


def format_for_output(path: Path) -> str:
    """The format that the ending of a path to be written means; "" if none."""
    endings = [(suffix, spec.name) for spec in FORMATS for suffix in spec.suffixes if path.name.endswith(suffix)]
    return max(endings, key=lambda pair: len(pair[0]))[1] if endings else ""


def open_sink(name: str, path: Path, contract: Contract, options: Mapping[str, str]) -> Sink:
    """Open a format for writing.

    Raises:
        ConfigError: If it is only read, or an option is unknown.
        FormatError: If it cannot hold data of this contract, or something else is at `path`.
    """
    spec = format_named(name)
    if not spec.sink:
        raise ConfigError(f"{spec.title} is only read, not written; written: {', '.join(names_of('sink'))}")
    cls = load(spec.sink)
    return cls(Path(path), contract, **check_options(cls, options, f"writing {spec.title}"))
