"""What an edit of a store will do, worked out before anything is written.

The plan is a pure function of the stores' contents and the options: the same edit gives the same store, and an
interrupted one can be gone on with.
"""

from __future__ import annotations

import csv
import fnmatch
import hashlib
import json
import math
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from foreact.datasets.episode import Segment
from foreact.datasets.layout import StoreError, check_name
from foreact.datasets.root import contract_differences
from foreact.datasets.store import Store
from foreact.datasets.table import EpisodeInfo
from foreact.vla.contract import ContractMismatch
from foreact.vla.errors import ConfigError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class EditOptions:
    """What to do, in this order: merge, drop or keep, relabel, trim, split."""

    merge: Sequence[Path] = ()
    """Stores of the same contract whose episodes are added; a name that is taken gets a number behind it."""
    drop: Sequence[str] = ()
    """Names or shell patterns."""
    keep: Sequence[str] = ()
    relabel: Path | None = None
    """CSV with the columns episode, instruction and perhaps start, end."""
    trim: Sequence[str] = ()
    """"NAME:START-END" keeps frames [START, END)."""
    split: str = ""
    """Such as "train=0.9,val=0.1"."""

    @property
    def nothing(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.merge or self.drop or self.keep or self.relabel or self.trim or self.split)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One episode of the new store."""

    name: str
    store: int
    """Which of the stores it comes from."""
    source: str
    """Its name there."""
    sha256: str
    """Its content there."""
    instruction: str | None = None
    """None: as it was."""
    segments: tuple[Segment, ...] | None = None
    frames: tuple[int, int] | None = None
    """[start, end); None for all."""
    meta: dict[str, Any] = field(default_factory=dict)
    """Entries that are added or replaced."""


@dataclass(frozen=True, kw_only=True)
class EditPlan:
    """All of it."""

    stores: list[Store]
    steps: list[Step]
    notes: list[str]

    @property
    def digest(self) -> str:
        """Names what the new store will hold."""
        content = [self.stores[0].contract.hash, [asdict(step) for step in self.steps]]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def plan_edit(store: Path, options: EditOptions) -> EditPlan:
    """Work out an edit.

    Raises:
        ConfigError: If an option is wrong, or names an episode that is not there.
        ContractMismatch: If a store to merge holds other things.
        StoreError: If a store cannot be opened, or an episode that is to be copied is damaged.
    """
    if options.nothing:
        raise ConfigError("nothing to do: give --drop, --keep, --merge, --relabel, --trim or --split")
    if options.drop and options.keep:
        raise ConfigError("--drop and --keep together say two things; give one of them")
    stores = [Store.open(path) for path in (store, *options.merge)]
    for other in stores[1:]:
        if other.contract.hash != stores[0].contract.hash:
            lines = "\n".join(f"  - {line}" for line in contract_differences(other.contract, stores[0].contract))
            raise ContractMismatch(f"{other.path} cannot be merged into {store}; it holds other things:\n{lines}")
    notes: list[str] = []
    steps = {step.name: step for step in _selected(_merged(stores, notes), options, stores)}
    if options.relabel is not None:
        _relabel(steps, stores, options.relabel)
    for text in options.trim:
        _trim(steps, stores, text, notes)
    if options.split:
        _split(steps, stores, options.split)
    if not steps:
        raise ConfigError("no episode would be left")
    done = [replace(step, meta=_provenance(step, stores) | step.meta) for step in steps.values()]
    return EditPlan(stores=stores, steps=sorted(done, key=lambda s: s.name), notes=notes)


def info_of(step: Step, stores: Sequence[Store]) -> EpisodeInfo:
    """The row of the episode that a step copies."""
    store = stores[step.store]
    number = store.index.number(step.source)
    assert number is not None
    return store.index[number]


def _merged(stores: Sequence[Store], notes: list[str]) -> list[Step]:
    steps: dict[str, Step] = {}
    for number, store in enumerate(stores):
        for name, sha256 in zip(store.index.names, store.index.sha256s, strict=True):
            new, count = name, 2
            while new in steps:
                new, count = f"{name[:112]}-{count}", count + 1
            if new != name:
                notes.append(f"{name} of {store.path} becomes {new}: the name is taken")
            steps[new] = Step(name=check_name(new), store=number, source=name, sha256=sha256)
    return list(steps.values())


def _selected(steps: list[Step], options: EditOptions, stores: Sequence[Store]) -> list[Step]:
    damaged = {key.removeprefix("episodes/"): why for store in stores for key, why in store.damaged.items()}
    names = {step.name for step in steps} | set(damaged)
    matched: set[str] = set()
    for pattern in (*options.drop, *options.keep):
        found = {name for name in names if fnmatch.fnmatchcase(name, pattern)}
        if not found:
            raise ConfigError(f"no episode is named {pattern!r}; {_near(pattern, names)}")
        matched |= found
    wanted = matched if options.keep else names - matched
    for name in sorted(wanted & set(damaged)):
        raise StoreError(f"{damaged[name]}\nLeave it out by --drop {name}, or restore it first.")
    return [step for step in steps if step.name in wanted]


def _near(name: str, names: set[str]) -> str:
    known = sorted(names)
    hint = did_you_mean(name, known).split("; ")[1:]
    return "; ".join([f"there are {len(known)}, such as {', '.join(known[:5])}", *hint])


def _relabel(steps: dict[str, Step], stores: Sequence[Store], path: Path) -> None:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = set(reader.fieldnames or ())
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path} cannot be read as CSV in UTF-8: {error}") from error
    if not {"episode", "instruction"} <= columns or columns - {"episode", "instruction", "start", "end"}:
        raise ConfigError(
            f"{path}: the first line must name the columns episode, instruction and, optional, start and end; "
            f"found {', '.join(sorted(columns)) or 'nothing'}"
        )
    whole: dict[str, str] = {}
    pieces: dict[str, list[Segment]] = defaultdict(list)
    for line, row in rows:
        name, text = row["episode"] or "", row["instruction"]
        if text is None:
            raise ConfigError(f"{path}, line {line}: the instruction is missing")
        if name not in steps:
            raise ConfigError(f"{path}, line {line}: no episode {name!r} is copied; {_near(name, set(steps))}")
        start, end = row.get("start") or "", row.get("end") or ""
        if not start and not end:
            if whole.setdefault(name, text) != text:
                raise ConfigError(f"{path}, line {line}: a second instruction for {name}; give start and end")
            continue
        length = info_of(steps[name], stores).length
        if not (start.isdecimal() and end.isdecimal() and int(start) < int(end) <= length):
            raise ConfigError(
                f"{path}, line {line}: expected frames 0 <= start < end <= {length}, found {start}, {end}"
            )
        pieces[name].append(Segment(start=int(start), end=int(end), instruction=text))
    for name in {*whole, *pieces}:
        segments = tuple(pieces[name]) if name in pieces else None
        steps[name] = replace(steps[name], instruction=whole.get(name), segments=segments)


_TRIM = re.compile(r"(?P<name>[^:]+):(?P<start>\d*)-(?P<end>\d*)")


def _trim(steps: dict[str, Step], stores: Sequence[Store], text: str, notes: list[str]) -> None:
    match = _TRIM.fullmatch(text)
    if match is None:
        raise ConfigError(f"--trim {text!r}: expected NAME:START-END, such as drawer-000042:10-250")
    name = match["name"]
    if name not in steps:
        raise ConfigError(f"--trim {text!r}: no episode {name!r} is copied; {_near(name, set(steps))}")
    if steps[name].frames is not None:
        raise ConfigError(f"--trim: {name} is trimmed twice")
    info = info_of(steps[name], stores)
    start, end = int(match["start"] or 0), int(match["end"] or info.length)
    if not 0 <= start < end <= info.length:
        raise ConfigError(f"--trim {text!r}: {name} has frames [0, {info.length})")
    before = info.segments if steps[name].segments is None else steps[name].segments or ()
    after = tuple(
        Segment(start=max(s.start, start) - start, end=min(s.end, end) - start, instruction=s.instruction)
        for s in before
        if max(s.start, start) < min(s.end, end)
    )
    if len(after) < len(before):
        notes.append(f"{name}: {len(before) - len(after)} segments lie outside of the kept frames and go")
    steps[name] = replace(steps[name], frames=(start, end), segments=after)


def parse_split(text: str) -> dict[str, float]:
    """ "train=0.9,val=0.1" to shares that add up to one.

    Raises:
        ConfigError: If it is something else.
    """
    shares: dict[str, float] = {}
    for part in text.split(","):
        name, _, number = part.strip().partition("=")
        try:
            share = float(number)
        except ValueError:
            share = math.nan
        if not name.isidentifier() or not 0 < share <= 1 or name in shares:
            raise ConfigError(f"--split {text!r}: expected names and shares, such as train=0.9,val=0.1")
        shares[name] = share
    if abs(sum(shares.values()) - 1) > 1e-6:
        raise ConfigError(f"--split {text!r}: the shares add up to {sum(shares.values()):g}, not to 1")
    return shares


def _split(steps: dict[str, Step], stores: Sequence[Store], text: str) -> None:
    """Every task in about these shares; episodes of the same content stay together, so nothing leaks."""
    shares = parse_split(text)
    groups: dict[str, list[str]] = defaultdict(list)
    for step in steps.values():
        groups[_content(step, stores)].append(step.name)

    def order(item: tuple[str, list[str]]) -> tuple[str, str]:
        task = str(info_of(steps[item[1][0]], stores).meta.get("task", ""))
        return task, hashlib.sha256(f"split {item[0]}".encode()).hexdigest()

    counts = dict.fromkeys(shares, 0)
    placed = 0
    for _, names in sorted(groups.items(), key=order):
        placed += len(names)
        # The split that is furthest behind its share takes the next; tasks come one after another, so each is divided.
        behind = max(shares, key=lambda split: shares[split] * placed - counts[split])
        counts[behind] += len(names)
        for name in names:
            steps[name] = replace(steps[name], meta=steps[name].meta | {"split": behind})


def _content(step: Step, stores: Sequence[Store]) -> str:
    """Names the numbers of an episode, or its pictures if it has none; language and meta do not count."""
    files = stores[step.store].reader(step.source).files
    digests = {name: digest for name, (_, digest) in files.items()}
    numbers = sorted((name, d) for name, d in digests.items() if name.startswith(("state/c/", "action/c/")))
    return repr(numbers or sorted((name, d) for name, d in digests.items() if ".frames/c/" in name))


def _provenance(step: Step, stores: Sequence[Store]) -> dict[str, Any]:
    """Where an episode comes from; no path of this machine, so that the same edit gives the same bytes everywhere."""
    store = stores[step.store]
    meta: dict[str, Any] = {"source_store": store.hash, "source_episode": step.source, "source_sha256": step.sha256}
    if step.frames is not None:
        meta |= {"source_start": step.frames[0], "source_end": step.frames[1]}
    return meta
