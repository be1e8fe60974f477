"""Wherever the power fails, the store opens, what was acknowledged is there bit by bit, and nothing is torn."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import random
import re
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from foreact.datasets.layout import NoStore
from foreact.datasets.packing import pack_store
from foreact.datasets.recorder import Recorder
from foreact.datasets.selftest_episodes import SELFTEST_CONTRACT, make_episode, same_episode
from foreact.datasets.store import Store
from foreact.datasets.verify import verify_store

STORE = "robots/arm/store"  # two folders above it are new as well


def load_model() -> Any:
    """The helper beside this file; tests are no package to import it from."""
    spec = importlib.util.spec_from_file_location("power_loss", Path(__file__).with_name("power_loss.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["power_loss"] = module  # its dataclasses look for it there
    spec.loader.exec_module(module)
    return module


disk = load_model()
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds the names of open files in /proc")


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """All that recording, packing and indexing does to files; "episode" is said when one is acknowledged."""
    base = tmp_path_factory.mktemp("run")
    path = base / STORE
    with pytest.MonkeyPatch.context() as patch:
        log = disk.OpLog(patch, base)

        def record(*names: str) -> None:
            recorder = Recorder(path, SELFTEST_CONTRACT, "zstd")
            for name in names:
                recorder.write(make_episode(name))
                log.say(name)

        record("a0", "a1")
        Store.open(path)
        record("b0")
        pack_store(path)
        log.say("packed")
        record("c0", "c1")
        pack_store(path, pack_bytes=1)
        Store.open(path)
        record("d0")
    assert len(Store.open(path)) == 6
    kinds = {event.kind for event in log.events if isinstance(event, disk.Entries)}
    assert kinds == {"create", "mkdir", "rename", "link", "unlink", "rmdir"}
    return log.events


class Checker:
    """Makes states of the disk and looks at each different one once."""

    def __init__(self, folder: Path):
        self.folder, self.seen, self.problems = folder, set(), []

    def look(self, events: list[Any], keep: Any, thorough: bool = False) -> None:
        image = disk.after_power_loss(events, keep)
        told = frozenset(e.what for e in events if isinstance(e, disk.Said)) - {"packed"}
        key = hashlib.sha256(repr((sorted(image.items()), sorted(told))).encode()).digest()
        if key in self.seen:
            return
        self.seen.add(key)
        base = self.folder / "image"
        disk.make(image, base)
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(os, "fsync", lambda _: None)  # the states are on a disk that keeps its power
                self._check(base / STORE, told, thorough, f"after {len(events)} of the operations")
        except Exception as error:
            self.problems.append(f"after {len(events)} operations, told {sorted(told)}: {error!r:.500}")
        finally:
            shutil.rmtree(base)

    def _check(self, path: Path, told: frozenset[str], thorough: bool, when: str) -> None:
        try:
            problems = verify_store(path).problems
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                store = Store.open(path)
        except NoStore:
            assert not told, f"{when} the store is gone"
            return
        assert not problems, f"{when}: {problems}"
        names = set(store.index.names)
        assert told <= names, f"{when} {told - names} are gone"
        assert len(names) == len(store)
        assert all(same_episode(store.read(name), make_episode(name)) for name in names), when
        if thorough:  # and work goes on
            Recorder(path, SELFTEST_CONTRACT, "zstd").write(make_episode("later"))
            pack_store(path)
            assert {*Store.open(path).index.names} == {*names, "later"} and not verify_store(path).problems


def prefixes(events: list[Any], every: bool) -> list[int]:
    """How many of the events happen; where not every number is tried, those around what changes the store visibly."""
    if every:
        return list(range(len(events) + 1))
    near = {0, len(events)}
    for number, event in enumerate(events):
        if isinstance(event, disk.Said) or isinstance(event, disk.Entries) and event.kind in ("rename", "link"):
            near |= {number, number + 1}
    return sorted(near | set(range(0, len(events), 37)))


EVERY = pytest.mark.parametrize(
    "every", [False, pytest.param(True, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])], ids=["some", "every"]
)


@EVERY
@pytest.mark.parametrize("kept", [False, True], ids=["all lost", "all kept"])
def test_what_was_not_synced_is_all_lost_or_all_kept(tmp_path: Path, events: list[Any], every: bool, kept: bool):
    checker = Checker(tmp_path)
    for count in prefixes(events, every):
        checker.look(events[:count], lambda _: kept, thorough=count % 5 == 0)
    assert not checker.problems, "\n".join(checker.problems[:10])
    assert len(checker.seen) > 20
    print(f"{len(events)} operations, {len(checker.seen)} different states")


@EVERY
def test_what_was_not_synced_is_lost_in_part(tmp_path: Path, events: list[Any], every: bool) -> None:
    checker = Checker(tmp_path)
    for count in prefixes(events, every):
        for draw in range(4 if every else 1):
            chance = random.Random(1000 * count + draw)
            share = chance.choice([0.1, 0.5, 0.9])
            checker.look(events[:count], lambda _, c=chance, s=share: c.random() < s)
    assert not checker.problems, "\n".join(checker.problems[:10])
    assert len(checker.seen) > 50
    print(f"{len(events)} operations, {len(checker.seen)} different states")


@pytest.mark.parametrize(
    ("forgotten", "message"),
    [("files", "is damaged|not what|gone"), ("folders", "gone"), ("everything", "gone")],
)
def test_a_forgotten_fsync_is_noticed(tmp_path: Path, events: list[Any], forgotten: str, message: str) -> None:
    """The harness itself: without the syncs that the store makes, something is lost or torn."""
    folders = {disk.ROOT} | {
        node for e in events if isinstance(e, disk.Entries) and e.kind == "mkdir" for *_, node in e.changes
    }
    drop = {"files": lambda n: n not in folders, "folders": lambda n: n in folders, "everything": lambda n: True}
    without = [e for e in events if not (isinstance(e, disk.Sync) and drop[forgotten](e.node))]
    checker = Checker(tmp_path)
    for count in prefixes(without, False)[-8:]:
        checker.look(without[:count], lambda _: False)
    assert checker.problems and any(re.search(message, problem) for problem in checker.problems), checker.problems
