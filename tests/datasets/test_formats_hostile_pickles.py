"""Pickles made to run code: none is unpickled, each is refused by name."""

from __future__ import annotations

import os
import pickle
import pickletools
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foreact.datasets.formats.base import FormatError
from foreact.datasets.formats.calvin import CalvinSource
from foreact.datasets.formats.plain_pickle import read_plain_pickle

CANARY = "canary-of-a-hostile-pickle"


class _Reduce:
    def __init__(self, function: Any, *arguments: Any):
        self._made = function, arguments

    def __reduce__(self) -> Any:
        return self._made


def harmful(path: Path) -> dict[str, bytes]:
    """Pickles that touch `path` when they are unpickled."""
    touch = f"open({str(path)!r}, 'w').close()"
    name = str(path).encode()
    return {
        "os.system": pickle.dumps(_Reduce(os.system, f"touch {path}")),
        "protocol 0": pickle.dumps(_Reduce(os.system, f"touch {path}"), protocol=0),
        "protocol 2": pickle.dumps(_Reduce(os.system, f"touch {path}"), protocol=2),
        "eval": pickle.dumps(_Reduce(eval, touch)),
        "exec": pickle.dumps(_Reduce(exec, touch)),
        "os.mkdir": pickle.dumps(_Reduce(os.mkdir, str(path))),
        "subprocess": pickle.dumps(_Reduce(subprocess.call, ["touch", str(path)])),
        "inside a list": pickle.dumps([1, {"a": (_Reduce(os.system, f"touch {path}"),)}]),
        "inside an array": pickle.dumps(np.array([_Reduce(os.system, f"touch {path}")], dtype=object)),
        "as a key": pickle.dumps({"language": {"ann": _Reduce(eval, touch)}}),
        "instruction INST": b"(S'touch " + name + b"'\nios\nsystem\n.",
        "instruction OBJ": b"(cos\nsystem\nS'touch " + name + b"'\no.",
        "hidden behind POP": b"cos\nsystem\n(S'touch " + name + b"'\ntR0N.",
        "by builtins.getattr": b"cbuiltins\ngetattr\n(cos\nsystem\nS'__call__'\ntR(S'touch " + name + b"'\ntR.",
        "NEWOBJ": b"\x80\x02cpathlib\nPath\n(S'" + name + b"'\nt\x81.",
        "numpy loads": pickle.dumps(_Reduce(np.save, str(path), np.zeros(1))),
    }


@pytest.mark.parametrize("kind", list(harmful(Path("x"))))
def test_harmful_pickles_are_refused_and_not_run(tmp_path: Path, kind: str) -> None:
    data = harmful(tmp_path / CANARY)[kind]
    with pytest.raises(FormatError, match="not plain data"):
        read_plain_pickle(data, "auto_lang_ann.npy")
    assert not list(tmp_path.glob(f"{CANARY}*"))
    if kind != "NEWOBJ":  # makes a path object only, but from a class that the data names
        pickle.loads(data)  # noqa: S301
        assert list(tmp_path.glob(f"{CANARY}*")), "the pickle was not harmful: this test would prove nothing"


def test_the_annotations_of_a_dataset_are_read_by_that_machine(
    tmp_path: Path, write_calvin: Callable[..., Path]
) -> None:
    part = write_calvin(tmp_path / "training", [(0, 3)], [(1, 2, "t", "x")])
    evil = np.array({"language": _Reduce(os.system, f"touch {tmp_path / CANARY}")}, dtype=object)
    np.save(part / "lang_annotations" / "auto_lang_ann.npy", evil, allow_pickle=True)
    with pytest.raises(FormatError, match=r"auto_lang_ann\.npy holds the name posix\.system, which is not plain data"):
        CalvinSource(part)
    assert not (tmp_path / CANARY).exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "damaged pickle"),
        (b"\x80\x04", "damaged pickle"),
        (b"\x80\x04N", "damaged pickle"),
        (b"\x80\x04]e.", "damaged pickle"),
        (b"\x80\x04K\x01K\x02.", "damaged pickle"),
        (b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7fx.", "damaged pickle"),  # bytes of 2**63
        (b"\x80\x04h\x07.", "damaged pickle"),  # a memo that is not there
        (b"\x80\x04" + b"(" * 50 + b"l" * 50 + b".", "nested deeper"),
        (b"\x80\x04cnumpy\nndarray\n.", "a name as data"),
        (b"\x80\x04cnumpy\ndtype\n)R.", "a call of dtype"),
        (b"cnumpy\ndtype\n(S'O'\ntR.", "a name as data"),
        (b"\x80\x04\x82\x01.", "instruction EXT1"),
        (b"\x80\x02U\x01aQ.", "instruction BINPERSID"),
        (b"\x80\x05\x97.", "instruction NEXT_BUFFER"),
    ],
)
def test_damaged_and_odd_pickles_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        read_plain_pickle(data, "x")


def test_no_pickle_instruction_is_carried_out_that_could_reach_code() -> None:
    from foreact.datasets.formats import plain_pickle

    source = Path(str(plain_pickle.__file__)).read_text()
    for name in ("INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "PERSID", "BINPERSID", "EXT1", "EXT2", "EXT4"):
        assert name in {opcode.name for opcode in pickletools.opcodes}
        assert f'"{name}"' not in source


def test_a_list_that_holds_itself_ends() -> None:
    with pytest.raises(FormatError, match="nested deeper"):
        read_plain_pickle(b"\x80\x04]\x94h\x00a.", "x")


def test_shared_lists_do_not_grow_without_bounds() -> None:
    data = b"\x80\x04(]" + b"".join(b"\x94(h" + bytes([n]) + b"h" + bytes([n]) + b"l" for n in range(25)) + b"t."
    read_plain_pickle(data, "x")  # 2**25 leaves, if each were walked
