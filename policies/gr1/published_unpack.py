"""Reads a PyTorch checkpoint of strangers, in a process of its own that can do little else.

Run by `foreact.policies.gr1.published_import.read_foreign` as a script: SRC and DST on the command line, one line of
JSON on standard output. It imports nothing of ForeAct, so it can run isolated from the environment (`python -I`).

Guards, one behind the other: `torch.load(weights_only=True)`, which builds tensors and plain containers only; limits on
memory, processor time, file size and open files; no network and no child processes; before that, a look at the archive:
members must not claim more than the file holds.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import resource
import sys
import zipfile
from typing import Any

SPARE_BYTES = 512 << 20
"""Memory beyond four times the file: what reading needs besides the tensors."""
CPU_S = 300
CONTAINERS = ("state_dict", "model")
"""Keys under which checkpoints keep their tensors."""


class Refused(Exception):
    """The file is not what is read here; the message says why."""


def look_at_archive(path: str) -> None:
    """Refuse archives whose members claim more than is there.

    Raises:
        Refused: Saying what is wrong.
    """
    size = os.path.getsize(path)
    if not zipfile.is_zipfile(path):
        with open(path, "rb") as file:
            if file.read(2) == b"PK":
                raise Refused("it begins like an archive but has no end: it was cut off or is damaged")
        return
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise Refused(f"its archive is damaged: {error}") from error
    packed = [member.filename for member in members if member.compress_type != zipfile.ZIP_STORED]
    claimed = sum(member.file_size for member in members)
    if packed:
        raise Refused(f"{packed[0]!r} in it is compressed, which PyTorch never does: it could unpack to any size")
    if claimed > size or len(members) > 100_000:
        raise Refused(f"its {len(members)} members claim {claimed:,} bytes, the file has {size:,}")


def leave_the_network() -> None:
    """Move to a network without devices; where that is not allowed, `confine` still refuses sockets."""
    ctypes.CDLL(None, use_errno=True).unshare(0x10000000 | 0x40000000)  # CLONE_NEWUSER | CLONE_NEWNET


def confine(size: int, folder: str) -> None:
    """Give up what reading does not need: limits count from what the process already uses, and only `folder` can be
    written to."""

    def lower(what: int, limit: int) -> None:
        hard = resource.getrlimit(what)[1]
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(what, (limit, limit))

    used = {"VmSize": 0, "VmData": 0}
    with open("/proc/self/status") as file:
        for line in file:
            name, _, rest = line.partition(":")
            if name in used:
                used[name] = int(rest.split()[0]) << 10
    lower(resource.RLIMIT_AS, used["VmSize"] + 4 * size + SPARE_BYTES)
    lower(resource.RLIMIT_DATA, used["VmData"] + 4 * size + SPARE_BYTES)
    lower(resource.RLIMIT_CPU, CPU_S)
    lower(resource.RLIMIT_FSIZE, 2 * size + SPARE_BYTES)
    lower(resource.RLIMIT_NOFILE, 64)
    lower(resource.RLIMIT_CORE, 0)
    never = ("socket.", "subprocess.", "os.exec", "os.posix_spawn", "os.fork", "os.system", "ctypes.dlopen")

    def refuse(event: str, arguments: tuple) -> None:
        if event == "open":
            path, _, flags = arguments
            if flags & (os.O_WRONLY | os.O_RDWR) and not os.path.realpath(str(path)).startswith(folder + os.sep):
                raise Refused(f"it tried to write {path}")
        elif event.startswith(never):
            raise Refused(f"it tried something that reading never needs: {event}")

    sys.addaudithook(refuse)


def tensors_of(payload: Any, torch: Any) -> tuple[dict[str, Any], str]:
    """The tensors of a checkpoint by name, and the key that they were under ("" for none).

    Raises:
        Refused: If there are none.
    """
    if not isinstance(payload, dict):
        raise Refused(f"it holds a {type(payload).__name__}, expected named tensors")
    for container in (*CONTAINERS, ""):
        found = payload.get(container) if container else payload
        if isinstance(found, dict) and found and all(isinstance(v, torch.Tensor) for v in found.values()):
            return {str(name): tensor for name, tensor in found.items()}, container
    raise Refused(f"it has no dictionary of tensors under 'state_dict' or 'model'; it has {list(payload)[:8]}")


def unpack(source: str, target: str) -> dict[str, Any]:
    """Write the tensors of `source` as safetensors file `target`.

    Raises:
        Refused: Saying what is wrong with the file.
    """
    look_at_archive(source)
    with open(source, "rb") as file:
        leave_the_network()
        return _unpack(file, os.path.getsize(source), target)


def _unpack(file: Any, size: int, target: str) -> dict[str, Any]:
    import torch
    from safetensors.torch import save_file

    torch.set_num_threads(1)
    confine(size, os.path.dirname(os.path.realpath(target)))
    try:
        payload = torch.load(file, map_location="cpu", weights_only=True)
    except MemoryError as error:
        raise Refused("reading it takes more memory than a file of its size should") from error
    except Exception as error:
        text = " ".join(str(error).split())
        if isinstance(error, RuntimeError) and ("allocate memory" in text or "bad_alloc" in text):
            raise Refused("reading it takes more memory than a file of its size should") from error
        found = re.search(r"GLOBAL (\S+) (?:was not|whose module)", text)
        if found:
            raise Refused(
                f"it holds Python objects ({found[1]}), not only tensors; nothing of it was executed. If you trust "
                "where it comes from, save its tensors alone: torch.save({'state_dict': ...}, ...)"
            ) from error
        reason = text.split("WeightsUnpickler error:")[-1].strip()
        raise Refused(f"PyTorch cannot read it as plain tensors: {reason[:200]}") from error
    tensors, container = tensors_of(payload, torch)
    claimed = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if claimed > 2 * size + (1 << 20):
        raise Refused(f"its tensors claim {claimed:,} bytes, the file has {size:,}")
    odd = [name for name, tensor in tensors.items() if tensor.layout != torch.strided or tensor.is_quantized]
    if odd:
        raise Refused(f"{odd[0]!r} is no plain tensor")
    save_file({name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, target)
    return {"container": container, "tensors": len(tensors)}


if __name__ == "__main__":
    try:
        answer = unpack(sys.argv[1], sys.argv[2])
    except Refused as refusal:
        answer = {"error": str(refusal)}
    except MemoryError:
        answer = {"error": "reading it takes more memory than a file of its size should"}
    print(json.dumps(answer))
