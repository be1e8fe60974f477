"""`foreact demo` asks for what it says: the eight fixture tasks, each from a few starts."""

from __future__ import annotations

import pytest

from foreact.commands.evaluate_settings import EvaluateSettings
from foreact.commands.main import app, run
from foreact.sim.tasks import FIXTURE_TASKS
from foreact.vla.errors import ForeActError


def test_the_demo_evaluates_the_fixture_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[EvaluateSettings] = []

    def note(settings: EvaluateSettings, **_: object) -> None:
        asked.append(settings)
        raise ForeActError("enough")  # what an evaluation does is tested elsewhere

    monkeypatch.setattr("foreact.commands.evaluate.evaluate", note)
    assert run(app, ["demo", "--checkpoint", "somewhere", "--starts-per-task", "3"]) == 1
    (settings,) = asked
    bench = settings.benchmark
    assert bench.kind == "tasks" and set(bench.tasks) == set(FIXTURE_TASKS) and bench.starts_per_task == 3
