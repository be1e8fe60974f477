"""`foreact sim play`: a film of a task, an exit status that says whether it was done, mistakes by name."""

from __future__ import annotations

from pathlib import Path

import av
import pytest

from foreact.commands.main import app, run


def _play(*words: str) -> int:
    return run(app, ["sim", "play", *words])


def test_the_experts_attempt_is_filmed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    film = tmp_path / "new" / "film.mp4"
    assert _play("--task", "open_drawer", "--scene", "B", "--out", str(film)) == 0
    shown = capsys.readouterr().out
    assert "expert: 'open_drawer' done after" in shown and str(film) in shown
    steps = int(shown.split("done after ")[1].split()[0])
    with av.open(str(film)) as opened:
        assert sum(1 for _ in opened.decode(video=0)) == steps + 1 + 30  # the start, the steps, one second at the end


def test_what_is_not_done_in_time_exits_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    film = tmp_path / "film.gif"
    assert _play("--task", "turn_on_led", "--actor", "zero", "--max-steps", "4", "--out", str(film)) == 1
    assert "'turn_on_led' not done after 4 steps" in capsys.readouterr().out and film.stat().st_size > 1000


@pytest.mark.parametrize(
    ("words", "needed"),
    [
        (("--task", "open_drawr"), "did you mean 'open_drawer'"),
        (("--task", "open_drawer", "--scene", "E"), "'E'"),
        (("--task", "open_drawer", "--actor", "zeor"), "did you mean 'zero'"),
        (("--task", "open_drawer", "--out", "film.avi"), ".mp4 or .gif"),
        (("--task", "open_drawer", "--checkpoint", "nowhere"), "nowhere"),
        (("--task", "open_drawer", "--viewer"), "needs a display"),
    ],
)
def test_mistakes_are_named(
    words: tuple[str, ...], needed: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert _play(*words) != 0
    error = capsys.readouterr().err
    assert error.startswith("error: ") and needed in error and "Traceback" not in error
