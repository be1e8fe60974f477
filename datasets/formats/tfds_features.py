"""`features.json` of TensorFlow Datasets: what an episode of an RLDS dataset holds, and under which flat names.

TFDS writes an episode as one `tf.train.Example` in which `steps/observation/image` lists the pictures of all steps, and
`steps/action` all numbers of all steps one after another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foreact.datasets.formats.base import FormatError
from foreact.datasets.formats.limits import MAX_DEPTH, read_json


@dataclass(frozen=True)
class Leaf:
    """One feature of a step."""

    key: str
    """Flat name, such as "steps/observation/image"."""
    kind: str
    """"image", "text" or "tensor"."""
    shape: tuple[int, ...]
    """Without the steps; -1 where it may vary."""
    dtype: str
    encoding: str


def read_step_features(path: Path) -> list[Leaf]:
    """The features of a step, in the order of the file.

    Raises:
        FormatError: If it is not features.json of a dataset of episodes.
    """
    root = read_json(path, "the features", 1 << 24)
    try:
        steps = root["featuresDict"]["features"]["steps"]["sequence"]["feature"]
        return list(_walk(steps, "steps", 0))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(
            f"{path} has no 'steps' as RLDS episodes have: {error!r:.120}. Only datasets of episodes are read."
        ) from error


def _walk(node: Mapping[str, Any], key: str, depth: int) -> Iterator[Leaf]:
    if depth > MAX_DEPTH:
        raise FormatError(f"the feature {key:.200} is nested deeper than {MAX_DEPTH} levels")
    if "featuresDict" in node:
        for name, inner in node["featuresDict"]["features"].items():
            yield from _walk(inner, f"{key}/{name}", depth + 1)
    elif "image" in node:
        image = node["image"]
        yield Leaf(key, "image", _shape(image), str(image.get("dtype", "uint8")), str(image.get("encodingFormat", "")))
    elif "text" in node:
        yield Leaf(key, "text", (), "string", "")
    elif "tensor" in node:
        tensor = node["tensor"]
        kind = "text" if tensor.get("dtype") in ("string", "object") else "tensor"
        yield Leaf(key, kind, _shape(tensor), str(tensor.get("dtype")), str(tensor.get("encoding", "none")))
    elif "sequence" in node:
        yield Leaf(key, "sequence", (), "", "")
    else:
        yield Leaf(key, "other", (), str(node.get("pythonClassName", ""))[:80], "")


def _shape(node: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(int(n) for n in (node.get("shape") or {}).get("dimensions", ()))
