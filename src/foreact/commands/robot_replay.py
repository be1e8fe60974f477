"""`foreact robot replay`: chunks through scheduler and gate under injected latency and loss; no robot needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foreact.vla.errors import ConfigError

if TYPE_CHECKING:
    from foreact.robot_bridge.config import Robot
    from foreact.robot_bridge.limits import RobotLimits
    from foreact.robot_bridge.replay_wishes import Wishes


def replay(
    robot: Annotated[str, typer.Option(help="Robot file: limits, speed, scheduler and gate.")] = "desk_sim",
    store: Annotated[
        str, typer.Option(help="Trajectory store whose joints are followed; default: an arm that wanders.")
    ] = "",
    episode: Annotated[int, typer.Option(help="Number of the episode in the store.", min=0)] = 0,
    mode: Annotated[
        str, typer.Option(help="replace, frozen_prefix or ensemble; default: as the robot file says.")
    ] = "",
    steps: Annotated[int, typer.Option(help="Policy steps of simulated time.", min=1)] = 1000,
    rows: Annotated[int, typer.Option(help="Rows of a chunk.", min=1, max=1000)] = 10,
    plan_every: Annotated[int, typer.Option(help="Policy steps between two plans.", min=1)] = 1,
    latency_low_s: Annotated[float, typer.Option(help="Every answer takes at least so long.")] = 0.0,
    latency_high_s: Annotated[float, typer.Option(help="... and at most so long.")] = 0.2,
    loss: Annotated[float, typer.Option(help="Part of the answers that never come.")] = 0.0,
    reorder: Annotated[float, typer.Option(help="Part of the answers that are overtaken.")] = 0.0,
    duplicate: Annotated[float, typer.Option(help="Part of the answers that come twice.")] = 0.0,
    change_every: Annotated[int, typer.Option(help="Steps between two instructions, about; 0: one only.", min=0)] = 0,
    disagreement_rad: Annotated[float, typer.Option(help="How far chunks differ at their last row.", min=0.0)] = 0.01,
    seed: Annotated[int, typer.Option(help="Of all that is random.", min=0)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Replay a policy's chunks under bad conditions, through the scheduler alone and through the whole gate; exits with
    1 if anything stale was executed."""
    import dataclasses

    import numpy as np

    from foreact.robot_bridge.config import load_robot
    from foreact.robot_bridge.gate_settings import GateSettings
    from foreact.robot_bridge.limits import load_limits
    from foreact.robot_bridge.replay import ReplaySettings
    from foreact.robot_bridge.replay import replay as replay_scheduler
    from foreact.robot_bridge.replay_gate import replay_gate
    from foreact.robot_bridge.schedule_settings import SchedulerSettings

    found = load_robot(robot)
    limits = load_limits(found.limits)
    chosen: dict[str, Any] = {**found.scheduler, **({"mode": mode} if mode else {})}
    settings = ReplaySettings(
        period_s=found.period_s, tick_s=min(0.01, found.period_s), steps=steps, plan_every=plan_every,
        latency_low_s=latency_low_s, latency_high_s=latency_high_s, loss=loss, reorder=reorder, duplicate=duplicate,
        change_every=change_every, seed=seed,
    )  # fmt: skip
    bounds = GateSettings.from_mapping(
        {
            **found.gate, "rate_hz": found.contract.rate_hz, "speed_scale": found.speed_scale, "cameras": (),
            "require_graph": False, "require_clock": False, "require_mode": True, "gripper_required": False,
            "packet_success": 0.0, "identity": {},
        }
    )  # fmt: skip
    scheduler = SchedulerSettings.from_mapping({"acceleration": limits.acceleration, **chosen})

    def wishes() -> Wishes:
        return _wishes(found, limits, store, episode, rows, disagreement_rad, seed)

    alone = replay_scheduler(wishes(), scheduler, settings, np.array(limits.acceleration)).as_dict()
    gated = replay_gate(wishes(), limits, settings, bounds, chosen).as_dict()
    if as_json:
        print(json.dumps({"settings": dataclasses.asdict(settings), "scheduler": alone, "gate": gated}, indent=2))
    else:
        for title, report in (("through the scheduler", alone), ("through the gate", gated)):
            print(title)
            for name, value in report.items():
                print(f"  {name:20} {_text(value)}")
    if alone["stale"]:
        raise typer.Exit(1)


def _wishes(
    robot: Robot, limits: RobotLimits, store: str, episode: int, rows: int, disagreement_rad: float, seed: int
) -> Wishes:
    """What the policy wants.

    Raises:
        ConfigError: If the store has no joints of this arm.
    """
    import numpy as np

    from foreact.robot_bridge.replay_wishes import Recorded, Wandering

    if not store:
        return Wandering(
            limits, robot.period_s, rows=rows, disagreement_rad=disagreement_rad, reach_rad=0.1, seed=seed
        )  # fmt: skip
    from foreact.datasets.store import Store

    opened = Store.open(Path(store))
    if episode >= len(opened):
        raise ConfigError(f"{store} has {len(opened)} episodes, counted from 0; there is no episode {episode}")
    data = opened.read(episode, cameras=(), extras=False)
    places: dict[str, slice] = {}
    start = 0
    for field in opened.contract.state:
        places[field.name] = slice(start, start + field.size)
        start += field.size
    n = len(limits.joints)
    joints = places.get("joint_position")
    if data.state is None or joints is None or joints.stop - joints.start != n:
        raise ConfigError(
            f"{store} has no state field joint_position with {n} numbers, so the {limits.robot} cannot follow it; its "
            f"state is {', '.join(places) or 'empty'}"
        )
    gripper = data.state[:, places["gripper_command"]][:, 0] if "gripper_command" in places else None
    path = data.state[:, joints].astype(np.float64)
    return Recorded(path, gripper, rows=rows, disagreement_rad=disagreement_rad, seed=seed)


def _text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items()) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
