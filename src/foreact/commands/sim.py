"""`foreact sim`: what the simulator is and how it draws on this machine."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    help="What the simulator is and how it draws here.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback()
def _root() -> None:
    pass


def describe() -> dict[str, Any]:
    """Drawing backend, driver, scenes, tasks and the contract of the environment.

    Raises:
        NoGlBackend: If nothing can draw here.
    """
    import mujoco

    from foreact.sim.embodiment import ACTION_MODES, desk_contract
    from foreact.sim.gl_backend import pick_gl_backend
    from foreact.sim.language import validation_instruction
    from foreact.sim.scenes import SCENES
    from foreact.sim.system import gl_renderer
    from foreact.sim.tasks import TASKS

    backend = pick_gl_backend()
    return {
        "gl_backend": backend,
        "gl_renderer": gl_renderer(),
        "mujoco": mujoco.__version__,
        "cores": os.cpu_count(),
        "scenes": sorted(SCENES),
        "tasks": {name: validation_instruction(name) for name in TASKS},
        "action_modes": list(ACTION_MODES),
        "contract": desk_contract().model_dump(mode="json"),
    }


@app.command()
def info(as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False) -> None:
    """Print how pictures are drawn here, the scenes and the tasks."""
    found = describe()
    if as_json:
        print(json.dumps(found, indent=2))
        return
    contract = found["contract"]
    print(
        f"MuJoCo {found['mujoco']}, drawing with {found['gl_backend']}: {found['gl_renderer']}; {found['cores']} cores"
    )
    print(f"scenes: {', '.join(found['scenes'])}; robot: {contract['embodiment']}, {contract['rate_hz']:g} Hz")
    print("cameras: " + ", ".join(f"{c['name']} {c['height']}x{c['width']}" for c in contract["cameras"]))
    print(f"action modes: {', '.join(found['action_modes'])}")
    print("tasks, each with the sentence it is judged by:")
    for name, sentence in found["tasks"].items():
        print(f"  {name:20} {sentence}")


@app.command()
def experts(
    scene: Annotated[str, typer.Option(help="A, B, C, D or all.")] = "D",
    tasks: Annotated[str, typer.Option(help="all, fixtures, blocks, or names joined by commas.")] = "all",
    starts: Annotated[int, typer.Option(help="Random starts per task.", min=1)] = 200,
    seed: Annotated[int, typer.Option(help="Start i is drawn from (seed, i).", min=0)] = 0,
    workers: Annotated[int, typer.Option(help="Processes.", min=1)] = 2,
    at_least: Annotated[float, typer.Option(help="Exit with 1 if an expert succeeds less often.")] = 0.97,
    out: Annotated[str, typer.Option(help="File for the numbers, as JSON.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Let every scripted expert try its task from random starts (no pictures): is the benchmark feasible?"""
    from foreact.commands.sim_experts import check

    enough = check(
        scenes=scene,
        tasks=tasks,
        starts=starts,
        seed=seed,
        workers=workers,
        at_least=at_least,
        out=out,
        as_json=as_json,
    )
    if not enough:
        raise typer.Exit(1)


@app.command()
def play(
    task: Annotated[str, typer.Option(help="One of the 34 tasks; `foreact sim info` lists them.")],
    scene: Annotated[str, typer.Option(help="A, B, C or D.")] = "D",
    actor: Annotated[str, typer.Option(help="expert, zero, random, or one that a package installs.")] = "expert",
    checkpoint: Annotated[str, typer.Option(help="Folder of a trained policy, instead of an actor.")] = "",
    seed: Annotated[int, typer.Option(help="Of the random start.", min=0)] = 0,
    max_steps: Annotated[int, typer.Option(help="Control steps of 1/30 s.", min=1)] = 360,
    out: Annotated[str, typer.Option(help="The film (.mp4 or .gif); default: outputs/play/SCENE-TASK-SEED.mp4.")] = "",
    viewer: Annotated[bool, typer.Option("--viewer", help="A window in real time instead of a film.")] = False,
) -> None:
    """Watch one task being done from a random start; exits with 1 if it is not done in time."""
    from foreact.commands.sim_play import play as watch

    done = watch(
        task=task,
        scene=scene,
        actor=actor,
        checkpoint=checkpoint,
        seed=seed,
        max_steps=max_steps,
        out=out,
        viewer=viewer,
    )
    if not done:
        raise typer.Exit(1)


@app.command()
def gallery(
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("docs/media"),
    reference: Annotated[Path, typer.Option(help="Folder of CALVIN's own pictures.")] = Path("tests/sim/data/looks"),
    seed: Annotated[int, typer.Option(help="Of the random looks.", min=0)] = 0,
) -> None:
    """Draw our tables beside CALVIN's, random looks and depth, and print how close the parts are."""
    from foreact.commands.sim_gallery import gallery as draw_gallery

    paths, table = draw_gallery(out, reference, seed)
    print("\n".join(table))
    for path in paths:
        print(f"wrote {path} ({path.stat().st_size / 1000:.0f} kB)")
