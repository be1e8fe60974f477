"""What a conversion was begun with, in a file beside its output: only the same conversion may go on there.

`<output>.convert.json` is a sealed JSON file. It names the source by its contents, not by its place, so that a dataset
may be moved between two runs, and the same conversion gives the same file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from foreact.datasets.durable import fsync_folder, write_durably
from foreact.datasets.episode import EpisodeData
from foreact.datasets.formats.base import FormatError
from foreact.datasets.sealed import BrokenSeal, seal, unseal
from foreact.vla.contract import Contract

SUFFIX = ".convert.json"


def identity_file(output: Path) -> Path:
    """Where the identity of a conversion into `output` lies."""
    return output.parent / f"{output.name}{SUFFIX}"


def source_identity(
    format_name: str, options: Mapping[str, str], contract: Contract, names: Sequence[str], first: EpisodeData | None
) -> dict[str, Any]:
    """What names a source: its format, how it is read, its contract, its episodes, and the first one's contents."""
    return {
        "format": format_name,
        "options": dict(sorted(options.items())),
        "contract": contract.hash,
        "episodes": len(names),
        "names": hashlib.sha256("\n".join(names).encode()).hexdigest(),
        "first_episode": episode_digest(first) if first is not None else "",
    }


def episode_digest(episode: EpisodeData) -> str:
    """SHA-256 over everything an episode holds but where it came from."""
    digest = hashlib.sha256()
    arrays = {f"image {k}": v for k, v in episode.images.items()} | {f"extra {k}": v for k, v in episode.extras.items()}
    arrays |= {k: v for k, v in (("state", episode.state), ("action", episode.action)) if v is not None}
    for key in sorted(arrays):
        digest.update(f"{key} {arrays[key].dtype.str} {arrays[key].shape}".encode())
        digest.update(arrays[key].tobytes())
    segments = [[s.start, s.end, s.instruction] for s in episode.segments]
    digest.update(json.dumps([episode.instruction, segments]).encode())
    return digest.hexdigest()


def read_identity(output: Path) -> dict[str, Any] | None:
    """The identity beside `output`; None if there is none.

    Raises:
        FormatError: If it is damaged.
    """
    path = identity_file(output)
    if not path.is_file():
        return None
    try:
        return unseal(path.read_bytes())
    except (BrokenSeal, ValueError) as error:
        raise FormatError(
            f"{path} is damaged: {error}. Delete it and {output}, and convert again, or convert to another path."
        ) from error


def write_identity(output: Path, identity: Mapping[str, Any]) -> None:
    """Write the identity durably; a reader meets the old one or the new one."""
    path = identity_file(output)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")  # always the same name, so that a kill leaves nothing that piles up
    write_durably(part, seal(identity))
    part.replace(path)
    fsync_folder(path.parent)


def differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """One line per value that differs; the keys of nested mappings are joined by dots."""
    lines: list[str] = []
    for key in sorted({*before, *now}):
        a, b = before.get(key), now.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            lines += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            lines.append(f"{prefix}{key}: {a!r:.80} there, {b!r:.80} now")
    return lines
