"""CALVIN's language annotations: `lang_annotations/auto_lang_ann.npy`, a pickle that is read without unpickling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foreact.datasets.formats.base import FormatError
from foreact.datasets.formats.limits import regular_file, short
from foreact.datasets.formats.numpy_safe import npy_header
from foreact.datasets.formats.plain_pickle import read_plain_pickle

_MAX_BYTES = 1 << 30


@dataclass(frozen=True)
class Window:
    """Frames start to end, both inclusive, in which one task is done."""

    start: int
    end: int
    task: str
    instruction: str


def read_pickled_dict(path: Path) -> Mapping[str, Any]:
    """The dictionary in a `.npy` file that holds one pickled dictionary.

    Raises:
        FormatError: If it is anything else; nothing of it is executed.
    """
    data = regular_file(path, "the annotations", _MAX_BYTES).read_bytes()
    shape, _, dtype, start = npy_header(data, str(path))
    if dtype.kind != "O" or shape not in ((), (1,)):
        raise FormatError(f"{path} holds {dtype} {shape}; expected one dictionary")
    found = read_plain_pickle(data[start:], str(path))
    found = found[0] if isinstance(found, list) and len(found) == 1 else found
    if not isinstance(found, dict):
        raise FormatError(f"{path} holds {type(found).__name__}; expected a dictionary")
    return found


def read_windows(path: Path) -> tuple[list[Window], int]:
    """The distinct annotated windows, sorted, and how many there are in all.

    The language files of the validation part of the splits ABC and ABCD list 90 windows about a dozen times each.

    Raises:
        FormatError: If the file is not what CALVIN writes.
    """
    found = read_pickled_dict(path)
    try:
        language, info = found["language"], found["info"]
        rows = list(zip(language["ann"], language["task"], info["indx"], strict=True))
        windows = [Window(_frame(index[0]), _frame(index[1]), short(task), short(text)) for text, task, index in rows]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise FormatError(
            f"{path}: expected language.ann, language.task and info.indx, one entry each per window: {error!r:.150}"
        ) from error
    for window in windows:
        if not 0 <= window.start < window.end or window.end - window.start > 100_000:
            raise FormatError(f"{path}: the window {window.start} to {window.end} is not one of frames")
    distinct = sorted(set(windows), key=lambda w: (w.start, w.end, w.task, w.instruction))
    return distinct, len(windows)


def _frame(value: Any) -> int:
    number = int(value)
    if isinstance(value, str | bytes) or number != value:
        raise ValueError(f"not a frame number: {value!r:.40}")
    return number
