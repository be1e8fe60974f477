"""What a checkpoint expects beside what a store, an environment or a robot offers, before any weight is loaded.

Reads the small files of the checkpoint alone and imports neither torch nor a simulator: the answer comes at once.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from foreact.vla.contract import Camera, Contract, Field
from foreact.vla.errors import ForeActError, did_you_mean

Verdict = Literal["fits", "adapted", "does not fit"]


class BadCheckpoint(ForeActError):
    """A folder is not a checkpoint, or its small files are damaged."""


@dataclass(frozen=True)
class Head:
    """What a checkpoint says about itself without its weights."""

    folder: Path
    policy: str
    config: dict[str, Any]
    contract: Contract
    weights_bytes: int


@dataclass(frozen=True)
class Line:
    """One thing that both sides must agree on."""

    what: str
    required: str
    offered: str
    verdict: Verdict
    advice: str = ""


def read_head(folder: Path | str) -> Head:
    """The small files of a checkpoint; its manifest is compared with the sizes of all files, contents are not.

    Raises:
        BadCheckpoint: Naming the file that is missing or not what it should be.
        ContractError: If its contract is not valid.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BadCheckpoint(f"no checkpoint folder {folder}; expected one as `foreact train` writes: RUN/policy")
    manifest, head = _json(folder / "manifest.json"), _json(folder / "config.json")
    for name, entry in dict(manifest.get("files", {})).items():
        path = folder / name
        found = path.stat().st_size if path.is_file() else None
        if found != entry.get("bytes"):
            what = "is missing" if found is None else f"has {found} bytes, expected {entry.get('bytes')}"
            raise BadCheckpoint(f"{path} {what}: copy the folder again or use an older checkpoint")
    return Head(
        folder=folder,
        policy=str(head.get("policy")),
        config=dict(head.get("config", {})),
        contract=Contract.load(folder / "contract.yaml"),
        weights_bytes=(folder / "model.safetensors").stat().st_size,
    )


def compare(required: Contract, offered: Contract) -> list[Line]:
    """Everything that `foreact.vla.contract.adapt` looks at, one line each, in reading order."""
    lines = [
        _plain("embodiment", required.embodiment, offered.embodiment, "train or fine-tune on data of this robot"),
        _plain(
            "control rate", f"{required.rate_hz:g} Hz", f"{offered.rate_hz:g} Hz",
            f"run the robot's loop at {required.rate_hz:g} Hz; data of another rate: rate: resample in data.stores",
        ),
    ]  # fmt: skip
    if required.gripper != "none":
        lines.append(_plain("gripper", required.gripper, offered.gripper, "turn the sign where the command is made"))
    cameras = {camera.name: camera for camera in offered.cameras}
    lines += [_camera(camera, cameras) for camera in required.cameras]
    for kind, ours, theirs in (("state", required.state, offered.state), ("action", required.action, offered.action)):
        lines += [_field(kind, field, theirs) for field in ours]
    return lines


def as_json(head: Head, lines: Sequence[Line]) -> dict[str, Any]:
    """For programs."""
    return {
        "checkpoint": str(head.folder),
        "policy": head.policy,
        "weights_bytes": head.weights_bytes,
        "fits": all(line.verdict != "does not fit" for line in lines),
        "lines": [asdict(line) for line in lines],
    }


def _plain(what: str, required: str, offered: str, advice: str) -> Line:
    fits = required == offered
    return Line(what, required, offered, "fits" if fits else "does not fit", "" if fits else advice)


def _camera(camera: Camera, offered: dict[str, Camera]) -> Line:
    what, wanted = f"camera {camera.name}", f"{camera.height}x{camera.width} {camera.encoding}"
    found = offered.get(camera.name)
    if found is None:
        return Line(what, wanted, "missing", "does not fit", _rename("cameras", camera.name, offered))
    shown = f"{found.height}x{found.width} {found.encoding}"
    if shown == wanted:
        return Line(what, wanted, shown, "fits")
    advice = ""
    if found.height * camera.width != found.width * camera.height:
        advice = "the pictures have another shape: check that it is the view that was trained on"
    return Line(what, wanted, shown, "adapted", f"resized{'; ' if advice else ''}{advice}")


def _field(kind: str, field: Field, offered: Sequence[Field]) -> Line:
    by_name = {other.name: other for other in offered}
    what, found = f"{kind} {field.name}", by_name.get(field.name)
    if found is None:
        return Line(what, describe(field), "missing", "does not fit", _rename(kind, field.name, by_name))
    keys = [key for key in Field.model_fields if key not in ("name", "low", "high")]
    differing = [key for key in keys if getattr(field, key) != getattr(found, key)]
    if kind == "action":
        differing += [key for key in ("low", "high") if _beyond(key, getattr(field, key), getattr(found, key))]
    if differing:
        return Line(what, describe(field), describe(found), "does not fit", f"differs in {', '.join(differing)}")
    return Line(what, describe(field), describe(found), "fits")


def _beyond(key: str, required: float | None, offered: float | None) -> bool:
    if required is None:
        return False
    return offered is None or (required < offered if key == "low" else required > offered)


def describe(field: Field) -> str:
    """A field in a few words: "3 x m in world, euler_xyz, [-1, 1]"."""
    parts = [f"{field.size} x {field.unit}" + (f" in {field.frame}" if field.frame else "")]
    if field.rotation:
        parts.append(field.rotation)
    if field.relative:
        parts.append("relative")
    if field.low is not None or field.high is not None:
        low, high = (
            "-inf" if field.low is None else f"{field.low:g}",
            "inf" if field.high is None else f"{field.high:g}",
        )
        parts.append(f"[{low}, {high}]")
    return ", ".join(parts)


def _rename(kind: str, name: str, known: Any) -> str:
    hint = did_you_mean(name, known)
    return f"{hint} (data under another name: `{kind}: {{{name}: THEIRS}}` in data.stores)"


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise BadCheckpoint(f"{path.parent} is not a checkpoint: no {path.name} ({error.strerror})") from error
    except ValueError as error:
        raise BadCheckpoint(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise BadCheckpoint(f"{path}: expected an object, found {type(value).__name__}")
    return value
