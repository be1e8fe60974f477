"""LIBERO's initial states, read without running anything.

They come as pickled arrays in torch archives, and unpickling can run code. But all 130 files of hf-libero 0.1.4 are one
and the same sequence of pickle instructions around the numbers, so the numbers are taken out of that very sequence;
a file that differs from it is refused.
"""

from __future__ import annotations

import pickletools
import zipfile
from pathlib import Path

import numpy as np

from foreact.sim.suites import SuiteError

_NOTED = ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE")
"""Instructions that only remember what was just made."""
_INTEGERS = ("BININT", "BININT1", "BININT2")
_ARRAY = (
    "PROTO GLOBAL GLOBAL int TUPLE1 GLOBAL BINUNICODE BINUNICODE TUPLE2 REDUCE TUPLE3 REDUCE MARK int int int TUPLE2 "
    "GLOBAL BINUNICODE NEWFALSE NEWTRUE TUPLE3 REDUCE MARK int BINUNICODE NONE NONE NONE int int int TUPLE BUILD "
    "NEWFALSE BINGET BINUNICODE BINGET TUPLE2 REDUCE TUPLE BUILD STOP"
)
"""A C-ordered array of two dimensions, as NumPy 1 and Python's second pickle protocol write it."""
_NAMES = ["numpy.core.multiarray _reconstruct", "numpy ndarray", "_codecs encode", "numpy dtype"]
_WORDS = ["b", "latin1", "f8", "<"]


def read_states(path: Path) -> np.ndarray:
    """The stored initial states of a task, (N, state size) float64.

    Raises:
        SuiteError: If the file is missing, or is anything but such an array.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            member = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            found = [(op.name, arg) for op, arg, _ in pickletools.genops(archive.read(member)) if op.name not in _NOTED]
    except (OSError, zipfile.BadZipFile, StopIteration, ValueError) as error:
        raise SuiteError(f"no initial states in {path}: {error or 'no data.pkl'}; reinstall hf-libero") from error
    integers = [int(arg) for name, arg in found if name in _INTEGERS and arg is not None]
    words = [str(arg) for name, arg in found if name == "BINUNICODE"]
    if (
        " ".join("int" if name in _INTEGERS else name for name, _ in found) != _ARRAY
        or [arg for name, arg in found if name == "GLOBAL"] != _NAMES
        or words[:4] != _WORDS
    ):
        raise SuiteError(
            f"no initial states in {path}: expected an array of numbers as hf-libero 0.1.4 has it, found other contents"
        )
    shape, data = integers[2:4], words[4].encode("latin1", errors="replace")
    if len(data) != 8 * shape[0] * shape[1]:
        raise SuiteError(f"no initial states in {path}: {len(data)} bytes for {shape[0]} states of {shape[1]} numbers")
    return np.frombuffer(data, "<f8").reshape(shape).copy()
