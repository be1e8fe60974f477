"""Kinds of failure: from scenes made by hand, and from rollouts whose end is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from foreact.sim import failure_kinds as kinds
from foreact.sim.env import DeskEnv
from foreact.sim.experts import Expert
from foreact.sim.failure_kinds import TaskWatch
from foreact.sim.rotations import euler_xyz_to_matrix
from foreact.sim.scene_info import BlockInfo, SceneInfo
from foreact.sim.scene_state import ROBOT
from foreact.sim.scenes import BLOCKS

Pairs = frozenset[tuple[str, str]]


def _block(x: float, z: float = 0.46, yaw: float = 0.0) -> BlockInfo:
    rotation = euler_xyz_to_matrix(np.array([0.0, 0.0, yaw]))
    return BlockInfo(np.array([x, -0.1, z]), rotation, np.zeros(3), np.zeros(3))


def _pairs(*touching: tuple[str, str]) -> Pairs:
    return frozenset((min(pair), max(pair)) for pair in touching)


ON_DESK = [(name, "desk") for name in BLOCKS]
START = SceneInfo(
    slide_m=0.0, drawer_m=0.0, button_m=0.0, switch_m=0.0, bulb=False, led=False,
    blocks={"block_red": _block(0.0), "block_blue": _block(0.2), "block_pink": _block(-0.2)},
    contacts=_pairs(*ON_DESK),
)  # fmt: skip


def _kind(task: str, *seen: SceneInfo, start: SceneInfo = START, possible: bool = True, others: tuple[str, ...] = ()):
    watch = TaskWatch(task)
    for now in seen:
        watch.see(start, now)
    return watch.kind(possible=possible, others=others)


def _red(block: BlockInfo, *touching: tuple[str, str]) -> SceneInfo:
    return replace(START, blocks={**START.blocks, "block_red": block}, contacts=_pairs(*ON_DESK[1:], *touching))


def _touching(body: str) -> SceneInfo:
    return replace(START, contacts=_pairs((ROBOT, body)))


@pytest.mark.parametrize(
    ("task", "seen", "found"),
    [
        ("open_drawer", START, (kinds.UNTOUCHED, "it touched nothing")),
        ("open_drawer", _touching("slide"), (kinds.UNTOUCHED, "it touched the door instead")),
        ("open_drawer", _touching("drawer"), (kinds.TOUCHED, "0.0 of 12 cm")),
        ("open_drawer", replace(START, drawer_m=0.06), (kinds.SHORT, "6.0 of 12 cm")),
        ("move_slider_left", replace(START, slide_m=0.05), (kinds.SHORT, "5.0 of 15 cm")),
        ("turn_on_led", _touching("button"), (kinds.TOUCHED, "")),
        ("turn_on_lightbulb", replace(START, switch_m=0.02), (kinds.SHORT, "")),
        ("push_red_block_right", _red(_block(0.04), ("block_red", "desk")), (kinds.SHORT, "4.0 of 10 cm")),
        ("push_red_block_left", _red(_block(0.04), (ROBOT, "block_red")), (kinds.TOUCHED, "0.0 of 10 cm")),
        ("push_red_block_right", _red(_block(0.2), (ROBOT, "block_red")), (kinds.RULE, "20.0 of 10 cm")),
        ("rotate_red_block_left", _red(_block(0.0, yaw=np.pi / 6), ON_DESK[0]), (kinds.SHORT, "30 of 60 degrees")),
        ("lift_red_block_table", _red(_block(0.0, z=0.48), (ROBOT, "block_red")), (kinds.SHORT, "2.0 of 5 cm up")),
        ("push_into_drawer", _red(_block(0.03), ("block_red", "desk")), (kinds.SHORT, "a block moved 3.0 cm")),
        ("unstack_block", START, (kinds.IMPOSSIBLE, "")),
        ("stack_block", START, (kinds.IMPOSSIBLE, "")),
    ],
)  # fmt: skip
def test_each_kind_is_what_the_scene_says(task: str, seen: SceneInfo, found: tuple[str, str]) -> None:
    assert _kind(task, seen) == found
    assert found[0] in kinds.KINDS


def test_the_furthest_point_counts_and_other_tasks_come_before_it() -> None:
    there, back = replace(START, drawer_m=0.09), replace(START, drawer_m=0.0)
    assert _kind("open_drawer", there, back) == (kinds.SHORT, "9.0 of 12 cm")
    assert _kind("open_drawer", there, others=("turn_on_led",)) == (kinds.OTHER, "turn_on_led")
    assert _kind("open_drawer", there, possible=False, others=("turn_on_led",)) == (kinds.IMPOSSIBLE, "")


def test_a_held_block_is_kept_or_let_go_elsewhere() -> None:
    held = _red(_block(0.0, z=0.6), (ROBOT, "block_red"))
    for task in ("place_in_drawer", "stack_block"):
        assert _kind(task, held, start=held) == (kinds.HELD, "the red block is in the hand")
        assert _kind(task, START, start=held) == (kinds.DROPPED, "the red block touches the desk")


def test_real_rollouts_of_the_wrong_expert_are_another_task() -> None:
    env = DeskEnv("D", render=False)
    for asked, done, kind in (
        ("turn_on_led", "open_drawer", kinds.OTHER),
        ("open_drawer", "", kinds.UNTOUCHED),
    ):
        obs, _ = env.reset(seed=3, options={"task": done or asked})
        env.begin_task(asked)
        watch, others = TaskWatch(asked), set()
        expert = Expert(done, env.scene) if done else None
        for _ in range(60):
            action = np.zeros(7) if expert is None else expert.act(obs["robot_obs"], obs["scene_obs"])
            obs, _, _, _, info = env.step(action)
            watch.see(*info["tasks_happened"].moments)
            others.update(name for name in info["tasks_happened"] if name != asked)
        found, detail = watch.kind(possible=True, others=sorted(others))
        assert found == kind and (not done or done in detail)
    env.close()
