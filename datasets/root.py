"""The root file of a store: its format version and its contract."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from foreact.datasets.durable import fsync_folder, remove, stage_name, write_durably
from foreact.datasets.layout import (
    EPISODES,
    ROOT_FILE,
    STORE_VERSION,
    NoStore,
    StoreError,
    check_version,
    staging_folder,
    unusable,
)
from foreact.datasets.sealed import BrokenSeal, seal, unseal
from foreact.vla.contract import Contract, ContractMismatch

_FORMAT = "foreact-store"


def read_root(path: Path) -> Contract:
    """The contract of the store at `path`.

    Raises:
        NoStore: If there is none.
        NewerFormat: If a later ForeAct made it.
        StoreError: If the root file is damaged.
    """
    file = path / ROOT_FILE
    try:
        data = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        hint = f"{path} has no {ROOT_FILE}" if os.path.exists(path) else f"{path} does not exist"
        raise NoStore(f"no trajectory store here: {hint}. Record one, or check the path.") from error
    except OSError as error:
        what = f"the store {path} could not be opened"
        raise unusable(error, what, "Check the disk and the permissions, and try again.") from error
    return parse_root(data, file)


def parse_root(data: bytes, file: Path | str) -> Contract:
    """The contract in the bytes of a root file; `file` names it in messages.

    Raises:
        NoStore, NewerFormat, StoreError: As `read_root`.
    """
    try:
        root = unseal(data)
    except (BrokenSeal, ValueError) as error:
        raise StoreError(
            f"{file} is damaged: {error}. The episodes are not: move them under `{EPISODES}/` of a new store with the "
            "same contract."
        ) from error
    if root.get("format") != _FORMAT:
        raise NoStore(f"{file} is not the root of a trajectory store (format {root.get('format')!r})")
    check_version(root.get("version"), f"the store of {file}")
    return Contract.model_validate(root["contract"])


def create_or_check_root(path: Path, contract: Contract) -> None:
    """Make a store for `contract`, or check that the one there is for the same.

    Raises:
        ContractMismatch: With one line per difference.
        NewerFormat, StoreError: As `read_root`.
    """
    try:
        _make_root(path, contract)
    except OSError as error:
        what = f"the store {path} could not be made"
        raise unusable(error, what, "Check the disk (space, permissions) and try again.") from error
    found = read_root(path)
    if found.hash != contract.hash:
        lines = "\n".join(f"  - {line}" for line in contract_differences(contract, found))
        raise ContractMismatch(
            f"the store {path} holds episodes of another contract:\n{lines}\nRecord into another folder."
        )


def _make_root(path: Path, contract: Contract) -> None:
    new = [folder for folder in (path, *path.absolute().parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    (path / EPISODES).mkdir(exist_ok=True)
    if not (path / ROOT_FILE).is_file():
        _write_root(path, contract)
    # Also where another process has made them a moment ago: it may not have come to this yet.
    fsync_folder(path)
    for folder in {path.absolute(), *new}:
        with contextlib.suppress(PermissionError):  # a folder may be used that may not be listed
            fsync_folder(folder.parent)


def _write_root(path: Path, contract: Contract) -> None:
    staged = staging_folder(path) / stage_name(ROOT_FILE)
    root = {"format": _FORMAT, "version": STORE_VERSION, "contract": contract.model_dump(mode="json")}
    try:
        write_durably(staged, seal(root))
        with contextlib.suppress(FileExistsError):  # another process was faster: compare with what it wrote
            os.link(staged, path / ROOT_FILE)
    finally:
        remove(staged)


def contract_differences(wanted: Contract, found: Contract) -> list[str]:
    """One line per part in which two contracts differ."""
    lines = []
    for key in Contract.model_fields:
        a, b = getattr(wanted, key), getattr(found, key)
        if key in ("cameras", "state", "action"):
            by_name = {item.name: item for item in b}
            for item in a:
                other = by_name.pop(item.name, None)
                if other is None:
                    lines.append(f"{key}: {item.name!r} is not in the store")
                elif other != item:
                    pairs = {k: (getattr(item, k), getattr(other, k)) for k in type(item).model_fields}
                    lines += [
                        f"{key} {item.name!r}: {k} {x!r}, the store has {y!r}" for k, (x, y) in pairs.items() if x != y
                    ]
            lines += [f"{key}: the store also has {name!r}" for name in by_name]
            if not by_name and not lines and a != b:
                lines.append(f"{key}: in another order than in the store")
        elif a != b:
            lines.append(f"{key}: {a!r}, the store has {b!r}")
    return lines
