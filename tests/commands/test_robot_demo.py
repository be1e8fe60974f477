"""`foreact robot demo`: the table and its sentences; and, slowly, one real try by three processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from foreact.commands.robot_demo import _sentence, _table, demo
from foreact.commands.robot_processes import Child, ProcessEnded
from foreact.datasets.store import Store
from foreact.datasets.verify import verify_store
from foreact.vla.errors import ConfigError, ForeActError

ROOT = Path(__file__).resolve().parents[2]


def test_the_table_counts_each_task() -> None:
    rows = [{"task": "open_drawer", "success": True}, {"task": "open_drawer", "success": False}]
    found = {"successes": 1, "tries": 2, "ci95": [0.1, 0.9], "rows": rows, "latency": {"inference p50 ms": "90.0"}}
    text = _table(found)
    assert text.startswith("1 of 2 (95 %: 10% to 90%)")
    assert "open_drawer          1 of 2" in text
    assert "inference p50 ms: 90.0" in text


def test_a_try_is_told_in_one_sentence() -> None:
    row = {"instruction": "open it", "ended": "fault", "seconds": 12.3, "holds": 2, "cause": "leash"}
    assert _sentence(row) == "'open it': fault after 12 s, 2 holds (leash)"


def test_a_task_without_words_must_be_known() -> None:
    with pytest.raises(ConfigError, match="open_drawer"):
        demo(task="fold_the_towel", instruction="", tries=0, checkpoint="", robot="desk_sim", out="x", domain_id=1,
             view=False, as_json=False)  # fmt: skip


def child(argv: list[str], folder: Path, talks: bool = False) -> Child:
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    return Child("it", argv, folder / "it.log", environ, talks)


def test_a_process_that_ends_is_told_with_the_end_of_its_log(tmp_path: Path) -> None:
    it = child(["robot", "sim", "--realtime-factor", "0"], tmp_path)
    try:
        with pytest.raises(ProcessEnded, match="realtime-factor"):
            while it.next(20.0) is None:
                pass
    finally:
        it.end()


@pytest.mark.slow
def test_one_try_of_the_real_demo_is_judged_and_recorded(tmp_path: Path) -> None:
    pytest.importorskip("cyclonedds", reason="needs pip's cyclonedds: pip install '.[robot]'")
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    found = subprocess.run(
        [sys.executable, "-m", "foreact.commands.main", "robot", "demo", "open the drawer", "--task", "open_drawer",
         "--out", str(tmp_path), "--json"],
        env=environ, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr[-2000:]
    result = json.loads(found.stdout)
    assert result["ended"] in ("done", "time is up", "fault")
    assert result["seconds"] > 1.0
    assert result["success"] is (result["ended"] == "done")
    (folder,) = tmp_path.iterdir()
    assert verify_store(folder / "store").problems == []
    store = Store.open(folder / "store")
    assert len(store) >= 1
    assert {store.index[i].instruction for i in range(len(store))} == {"open the drawer"}
    states = [json.loads(line)["state"] for line in (folder / "events.jsonl").read_text().splitlines()]
    assert "running" in states
    assert states[-1] == "disarmed"


@pytest.mark.slow
def test_a_demo_without_words_and_without_a_terminal_says_what_to_type(tmp_path: Path) -> None:
    from foreact.commands.robot_demo import _conversation

    with pytest.raises(ForeActError, match="robot demo"):
        _conversation(None, None, "")  # type: ignore[arg-type]
