"""Results as a table in the terminal."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from foreact.vla.results import ALL_CAMERAS, Chains, Results, Success

if TYPE_CHECKING:
    from rich.console import Console


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def _interval(interval: tuple[float, float]) -> str:
    return f"{100 * interval[0]:.0f} - {100 * interval[1]:.0f} %"


def _print_chains(chains: Chains, console: Console) -> None:
    rates = ", ".join(f"{at}: {100 * rate:.1f} %" for at, rate in enumerate(chains.success_at, start=1))
    console.print(
        f"average length {chains.average_length:.3f} ({chains.ci95[0]:.2f} - {chains.ci95[1]:.2f}) over {chains.n} "
        f"chains; solved in a row: {rates}"
    )
    if chains.feasible is not None:
        console.print(
            f"without {chains.n_infeasible} chains that nobody can finish: {chains.feasible.average:.3f} "
            f"({chains.feasible.ci95[0]:.2f} - {chains.feasible.ci95[1]:.2f})"
        )


def print_summary(results: Results, folder: Path, console: Console) -> None:
    """Task, success, interval and count, then what else was measured and where the files lie."""
    from rich.markup import escape
    from rich.table import Table

    where = f"scene {results.benchmark['scene']}" if "scene" in results.benchmark else results.benchmark.get("env", "?")
    table = Table(title=f"{escape(results.actor)}, {escape(str(where))}")
    for heading, justify in (("task", "left"), ("success", "right"), ("95 % interval", "right"), ("n", "right")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]

    def add(name: str, row: Success) -> None:
        table.add_row(escape(name), _percent(row.success_rate), _interval(row.ci95), str(row.n))

    for name, row in results.tasks.items():
        add(name, row)
    table.add_section()
    add("all tasks", results.overall)
    console.print(table)
    if results.chains is not None:
        _print_chains(results.chains, console)
    heard = results.listening
    console.print(
        f"another task than the asked one happened in {_percent(heard.other_task_rate)} of rollouts "
        f"({_interval(heard.ci95)}), {heard.n_tasks_per_start} instructions per start, {heard.n_starts} starts"
    )
    if results.failure_kinds:
        kinds = Counter[str]()
        for counts in results.failure_kinds.values():
            kinds.update(counts)
        console.print(f"failed: {', '.join(f'{kind} {count}' for kind, count in kinds.most_common())}", highlight=False)
    if results.foresight is not None:
        score = results.foresight.cameras[ALL_CAMERAS]
        console.print(
            f"predicted frames, {results.foresight.steps_ahead} steps ahead: squared error {score.error_ratio:.2f} "
            f"({score.ci95[0]:.2f} - {score.ci95[1]:.2f}) of that of copying, on the pixels that changed; "
            f"{score.n_frames} frames of {results.foresight.n_rollouts} rollouts"
        )
    minutes, seconds = divmod(round(results.wall_s), 60)
    console.print(f"took {minutes} min {seconds} s; rendered by {escape(results.gl_renderer)}")
    for label, path in (("report", "report.html"), ("numbers", "results.json"), ("videos", "videos")):
        if (folder / path).exists():
            console.print(f"{label:8} {folder / path}", soft_wrap=True, markup=False)
