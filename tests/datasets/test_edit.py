"""`foreact data edit`: what a new store holds, that the old one is untouched, and that a kill costs nothing."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from foreact.commands.data import app
from foreact.datasets.edit import EDIT_FILE, run_edit
from foreact.datasets.edit_plan import EditOptions, parse_split, plan_edit
from foreact.datasets.episode import Segment
from foreact.datasets.layout import INDEX_FILE, DamagedEpisode, InvalidEpisode, StoreError
from foreact.datasets.packing import pack_store
from foreact.datasets.recorder import Recorder
from foreact.datasets.selftest_episodes import SELFTEST_CONTRACT
from foreact.datasets.selftest_episodes import make_episode as noisy_episode
from foreact.datasets.store import Store
from foreact.datasets.verify import verify_store
from foreact.vla.contract import ContractMismatch
from foreact.vla.errors import ConfigError


def edit(store: Path, out: Path, **options) -> Store:
    run_edit(plan_edit(store, EditOptions(**options)), out)
    report = verify_store(out, decode=True)
    assert report.problems == [] and report.notes == []
    return Store.open(out)


def bytes_of(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != INDEX_FILE
    }


@pytest.mark.parametrize("packed", [False, True])
def test_drop_copies_the_others_byte_for_byte(store: Store, packed: bool, tmp_path: Path) -> None:
    if packed:
        pack_store(store.path, 10_000)
    before = bytes_of(store.path)
    new = edit(store.path, tmp_path / "new", drop=["e1", "e[34]"])
    assert new.index.names == ["e0", "e2"] and bytes_of(store.path) == before
    for name in new.index.names:
        old, copy = Store.open(store.path).read(name), new.read(name)
        for camera in old.images:
            np.testing.assert_array_equal(copy.images[camera], old.images[camera])
        for a, b in ((copy.state, old.state), (copy.action, old.action)):
            assert (a is None) == (b is None)
            if a is not None and b is not None:
                np.testing.assert_array_equal(a, b)
        assert (copy.instruction, copy.segments) == (old.instruction, old.segments)
        added = {key: copy.meta[key] for key in copy.meta.keys() - old.meta.keys()}
        assert copy.meta.items() >= old.meta.items()
        assert added["source_episode"] == name and added["source_store"] == store.hash
        assert added["source_sha256"] == store.index[store.index.names.index(name)].sha256


def test_keep_is_the_opposite_of_drop(store: Store, tmp_path: Path) -> None:
    kept = edit(store.path, tmp_path / "kept", keep=["e0", "e2"])
    dropped = edit(store.path, tmp_path / "dropped", drop=["e1", "e3", "e4"])
    assert kept.hash == dropped.hash
    assert bytes_of(tmp_path / "kept") == bytes_of(tmp_path / "dropped")


def test_merge_renames_what_is_taken(store: Store, contract, make_episode, tmp_path: Path) -> None:
    other = Recorder(tmp_path / "other", contract, codec="png")
    other.write(make_episode(7, 4), name="e1")
    other.write(make_episode(8, 5), name="f0")
    plan = plan_edit(store.path, EditOptions(merge=[tmp_path / "other"]))
    assert any("e1" in note and "e1-2" in note for note in plan.notes)
    new = edit(store.path, tmp_path / "new", merge=[tmp_path / "other"])
    assert new.index.names == ["e0", "e1", "e1-2", "e2", "e3", "e4", "f0"]
    copy = new.read("e1-2")
    assert copy.images["static"][2, 0, 0, 0] == 72 and copy.meta["source_episode"] == "e1"
    assert copy.meta["source_store"] == Store.open(tmp_path / "other").hash
    assert {info.codec.split(":")[0] for info in new.index} == {"zstd", "png"}


def test_merge_refuses_another_contract(store: Store, tmp_path: Path) -> None:
    Recorder(tmp_path / "other", SELFTEST_CONTRACT).write(noisy_episode("n1"), name="x")
    with pytest.raises(ContractMismatch, match="cannot be merged"):
        plan_edit(store.path, EditOptions(merge=[tmp_path / "other"]))


@pytest.mark.parametrize("codec", ["zstd", "jpeg:quality=80,subsampling=420", "h264"])
@pytest.mark.parametrize("start", [2, 3])
def test_trim(codec: str, start: int, contract, make_episode, tmp_path: Path) -> None:
    segments = [
        Segment(start=0, end=2, instruction="gone"),
        Segment(start=1, end=5, instruction="cut"),
        Segment(start=5, end=12, instruction="cut too"),
    ]
    Recorder(tmp_path / "s", contract, codec).write(make_episode(2, 12, segments=segments), name="e")
    old = Store.open(tmp_path / "s").read("e")
    report = run_edit(plan_edit(tmp_path / "s", EditOptions(trim=[f"e:{start}-9"])), tmp_path / "new")
    new = Store.open(tmp_path / "new").read("e")
    assert verify_store(tmp_path / "new", decode=True).problems == []
    assert old.state is not None and new.state is not None and len(new) == 9 - start
    np.testing.assert_array_equal(new.state, old.state[start:9])
    np.testing.assert_array_equal(new.state[:, 1], np.arange(start, 9))
    again = codec == "h264" and start == 3  # frames come in groups of two
    assert report.encoded_again == again
    for camera, frames in old.images.items():
        difference = np.abs(new.images[camera].astype(int) - frames[start:9]).max()
        assert difference <= (6 if again else 0)
    assert new.segments == [
        Segment(start=0, end=5 - start, instruction="cut"),
        Segment(start=5 - start, end=9 - start, instruction="cut too"),
    ]
    assert (new.meta["source_start"], new.meta["source_end"]) == (start, 9)


def test_relabel(store: Store, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text(
        'episode,instruction,start,end\ne0,"open, then close",,\ne3,first,0,5\ne3,second,5,12\n', encoding="utf-8-sig"
    )
    new = edit(store.path, tmp_path / "new", relabel=table)
    assert new.read("e0").instruction == "open, then close" and new.read("e0").segments == []
    assert new.read("e3").instruction == "instruction 3"
    assert [(s.start, s.end, s.instruction) for s in new.read("e3").segments] == [(0, 5, "first"), (5, 12, "second")]
    assert new.read("e4").instruction == "instruction 4"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("episode,text\ne0,x\n", "columns episode, instruction"),
        ("episode,instruction\ne9,x\n", "line 2: no episode 'e9'"),
        ("episode,instruction,start,end\ne0,x,3,10\n", "expected frames 0 <= start < end <= 9"),
        ("episode,instruction,start,end\ne0,x,3,\n", "expected frames"),
        ("episode,instruction\ne0,x\ne0,y\n", "line 3: a second instruction"),
        ("episode,instruction\ne0\n", "the instruction is missing"),
    ],
)
def test_a_wrong_table_is_refused_with_its_line(text: str, words: str, store: Store, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(ConfigError, match=words):
        plan_edit(store.path, EditOptions(relabel=tmp_path / "labels.csv"))


def test_split_divides_every_task_and_keeps_twins_together(contract, make_episode, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "s", contract, "raw")
    for number in range(40):
        twin = number - number % 2 if number < 8 else number  # 0 and 1, 2 and 3, ... have the same numbers
        recorder.write(make_episode(twin, 3, meta={"task": "ab"[number >= 20]}), name=f"e{number:02d}")
    new = edit(tmp_path / "s", tmp_path / "new", split="train=0.8,val=0.2")
    splits = {info.name: info.meta["split"] for info in new.index}
    for task in "ab":
        counts = Counter(splits[info.name] for info in new.index if info.meta["task"] == task)
        assert abs(counts["val"] - 4) <= 1 and counts["train"] + counts["val"] == 20
    assert all(splits[f"e{n:02d}"] == splits[f"e{n + 1:02d}"] for n in range(0, 8, 2))
    again = edit(tmp_path / "s", tmp_path / "again", split="train=0.8,val=0.2")
    assert again.hash == new.hash


@pytest.mark.parametrize("text", ["train", "train=0.9", "train=0.9,val=0.2", "train=0.5,train=0.5", "train=-1,val=2"])
def test_wrong_shares(text: str) -> None:
    with pytest.raises(ConfigError, match="--split"):
        parse_split(text)
    assert parse_split("train=0.9, val=0.1") == {"train": 0.9, "val": 0.1}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "nothing to do"),
        ({"drop": ["e0"], "keep": ["e1"]}, "two things"),
        ({"drop": ["f*"]}, "no episode is named 'f\\*'"),
        ({"drop": ["*"]}, "no episode would be left"),
        ({"trim": ["e0"]}, "NAME:START-END"),
        ({"trim": ["e0:3-99"]}, r"e0 has frames \[0, 9\)"),
        ({"trim": ["e0:1-5", "e0:2-4"]}, "trimmed twice"),
        ({"trim": ["e9:1-5"]}, "no episode 'e9'"),
    ],
)
def test_wrong_options(options: dict, words: str, store: Store) -> None:
    with pytest.raises(ConfigError, match=words):
        plan_edit(store.path, EditOptions(**options))


def test_only_an_empty_folder_or_the_same_edit_goes_on(store: Store, tmp_path: Path) -> None:
    plan = plan_edit(store.path, EditOptions(drop=["e0"]))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").write_text("mine")
    for out, words in (
        (tmp_path / "full", "is not empty"),
        (store.path, "lie in one another"),
        (store.path / "episodes" / "x", "lie in one another"),
    ):
        with pytest.raises(StoreError, match=words):
            run_edit(plan, out)
    first = run_edit(plan, tmp_path / "new")
    shutil.rmtree(tmp_path / "new" / "episodes" / "e3")  # as if it had been killed before e3
    second = run_edit(plan, tmp_path / "new")
    assert (first.written, second.written, second.present) == (4, 1, 3) and second.hash == first.hash
    with pytest.raises(StoreError, match="another edit"):
        run_edit(plan_edit(store.path, EditOptions(drop=["e1"])), tmp_path / "new")
    (tmp_path / "new" / EDIT_FILE).write_bytes(b"{}")
    with pytest.raises(StoreError, match="another edit"):
        run_edit(plan, tmp_path / "new")


def test_killed_and_run_again_gives_the_same_store(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "s", SELFTEST_CONTRACT, "raw")
    for number in range(30):
        recorder.write(noisy_episode(f"n{number}"), name=f"e{number:02d}")
    whole = edit(tmp_path / "s", tmp_path / "whole", split="train=0.7,val=0.3")
    code = (
        "from pathlib import Path; from foreact.datasets.edit import run_edit;"
        "from foreact.datasets.edit_plan import EditOptions, plan_edit;"
        f"run_edit(plan_edit(Path({str(tmp_path / 's')!r}), EditOptions(split='train=0.7,val=0.3')),"
        f"Path({str(tmp_path / 'new')!r}))"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    folder = tmp_path / "new" / "episodes"
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if folder.is_dir() and len(os.listdir(folder)) >= 3:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.002)
    assert process.wait() in (-signal.SIGKILL, 0)
    report = run_edit(plan_edit(tmp_path / "s", EditOptions(split="train=0.7,val=0.3")), tmp_path / "new")
    assert report.present >= 3 and report.present + report.written == 30
    assert report.hash == whole.hash
    assert bytes_of(tmp_path / "new") == bytes_of(tmp_path / "whole")


def test_damage_is_never_copied(store: Store, tmp_path: Path) -> None:
    chunk = next((store.path / "episodes" / "e0" / "camera.static.frames").rglob("0"))
    data = bytearray(chunk.read_bytes())
    data[20] ^= 1
    chunk.write_bytes(bytes(data))
    with pytest.raises(DamagedEpisode, match="e0"):
        run_edit(plan_edit(store.path, EditOptions(drop=["e1"])), tmp_path / "new")
    (store.path / "episodes" / "e3" / "manifest.json").write_bytes(b"")
    (store.path / INDEX_FILE).unlink(missing_ok=True)
    with pytest.warns(UserWarning), pytest.raises(StoreError, match="--drop e3"):
        plan_edit(store.path, EditOptions(drop=["e0"]))
    with pytest.warns(UserWarning):
        plan = plan_edit(store.path, EditOptions(drop=["e0", "e3"]))
    assert [step.name for step in plan.steps] == ["e1", "e2", "e4"]


def test_too_long_a_sentence_is_refused(store: Store, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("episode,instruction\ne0," + "x" * 600 + "\n")
    with pytest.raises(InvalidEpisode, match="at most 512 bytes"):
        run_edit(plan_edit(store.path, EditOptions(relabel=tmp_path / "labels.csv")), tmp_path / "new")


def test_the_command(store: Store, tmp_path: Path) -> None:
    def call(*arguments: object):
        return CliRunner().invoke(app, ["edit", str(store.path), *map(str, arguments)])

    out = tmp_path / "new"
    tried = call(out, "--drop", "e0,e1", "--dry-run")
    assert tried.exit_code == 0 and "would write 3 of 5 episodes" in tried.output and not out.exists()
    done = call(out, "--drop", "e0", "--drop", "e1", "--split", "train=0.67,val=0.33")
    assert done.exit_code == 0 and "splits: train 2, val 1" in done.output and "wrote 3 episodes" in done.output
    again = json.loads(call(out, "--drop", "e0,e1", "--split", "train=0.67,val=0.33", "--json").output)
    assert (again["written"], again["present"], again["hash"]) == (0, 3, Store.open(out).hash)
