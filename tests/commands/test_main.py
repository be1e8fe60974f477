"""The command line: quick to answer, and one readable block for every mistake."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from foreact.commands.main import app, explain, run
from foreact.vla.errors import ConfigError, ForeActError


def _foreact(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "foreact.commands.main", *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
    )


def test_help_is_quick_and_lists_every_command() -> None:
    began = time.perf_counter()
    done = _foreact("--help")
    seconds = time.perf_counter() - began
    assert done.returncode == 0 and not done.stderr
    for command in ("collect", "train", "evaluate", "demo", "data", "sim", "bench"):
        assert f"\n  {command} " in done.stdout
    assert seconds < 3  # 0.2 to 0.4 s on an idle machine; what keeps it so is the next test


def test_nothing_heavy_is_imported_before_a_command_is_called() -> None:
    code = "import sys, foreact.commands.main; print(sorted({n.split('.')[0] for n in sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    heavy = {"numpy", "torch", "mujoco", "hydra", "zarr", "pydantic", "PIL", "av", "transformers"}
    assert not heavy & set(json.loads(done.stdout.replace("'", '"')))


def test_a_full_disk_is_a_sentence() -> None:
    found = explain(OSError(errno.ENOSPC, "No space left on device", "runs/desk/log.jsonl"))
    assert found is not None and found[1] == 1
    assert found[0].startswith("runs/desk/log.jsonl: No space left on device; make room") and "resume=true" in found[0]


def test_a_mistake_in_a_process_of_its_own_is_one_block_without_a_traceback() -> None:
    done = _foreact("evaluate", "actr=zero")
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith("error: ") and "actr" in done.stderr and "Traceback" not in done.stderr
    shown = _foreact("evaluate", "actr=zero", FOREACT_DEBUG="1")
    assert shown.returncode == 1 and "Traceback" in shown.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("collect",),
        ("train",),
        ("data",),
        ("evaluate",),
        ("sim",),
        ("sim", "info"),
        ("bench",),
        ("bench", "sim"),
        ("demo",),
    ],
)
def test_every_command_has_help(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, [*words, "--help"]) == 0
    shown = capsys.readouterr()
    assert f"Usage: foreact {' '.join(words)}" in shown.out and len(shown.out) > 150


def test_help_of_settings_names_the_choices(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, ["train", "--help"]) == 0
    assert "policy=NAME, one of: foreact, foreact_as_gr1, foreact_debug, gr1_published" in capsys.readouterr().out
    assert run(app, ["train", "--policy=foreact"]) == 2
    assert "settings are key=value, without dashes" in capsys.readouterr().err


def test_version_and_unknown_commands(capsys: pytest.CaptureFixture[str]) -> None:
    from foreact import __version__

    assert run(app, ["--version"]) == 0
    assert capsys.readouterr().out == f"foreact {__version__}\n"
    assert run(app, ["evaluat"]) == 2
    assert "evaluate" in capsys.readouterr().err
    assert run(app, ["sim", "inof"]) == 2
    assert "info" in capsys.readouterr().err


def test_errors_for_people_keep_their_status_and_bugs_are_not_hidden() -> None:
    assert explain(ConfigError("no")) == ("no", 2)
    assert explain(ForeActError("no")) == ("no", 1)
    missing = explain(ModuleNotFoundError("No module named 'mujoco.x'", name="mujoco.x"))
    assert missing is not None and ".[sim]' in ForeAct's folder" in missing[0]
    assert explain(ModuleNotFoundError("No module named 'foreact.oops'", name="foreact.oops")) is None
    assert explain(ZeroDivisionError()) is None

    def bug(**_: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(bug, [])


def test_interruption_has_its_own_status(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(**_: object) -> None:
        raise KeyboardInterrupt

    assert run(interrupted, []) == 130
    assert capsys.readouterr().err == "error: interrupted\n"


def test_sim_info_describes_what_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, ["sim", "info", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["scenes"] == ["A", "B", "C", "D"] and len(found["gl_renderer"]) > 3
    assert found["tasks"]["open_drawer"] == "pull the handle to open the drawer"
    assert found["contract"]["rate_hz"] == 30
    assert run(app, ["sim", "info"]) == 0
    assert found["gl_renderer"] in capsys.readouterr().out


def test_demo_without_its_checkpoint_says_where_it_looked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from foreact.commands import demo

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "SHIPPED", Path("checkpoints/nothing_of_that_name"))
    assert run(app, ["demo"]) == 1
    error = capsys.readouterr().err
    assert str(tmp_path / "checkpoints/nothing_of_that_name") in error and "--checkpoint" in error
