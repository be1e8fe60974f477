"""What a task oracle looks at: one immutable snapshot of the desk per control step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import mujoco
import numpy as np
from numpy.typing import ArrayLike, NDArray

from foreact.sim.lights import LightState
from foreact.sim.rotations import euler_xyz_to_matrix
from foreact.sim.scene_state import BULB, LED, DeskIndex, check_scene_obs, desk_index, touching
from foreact.sim.scenes import BLOCKS, SceneSpec

Array = NDArray[np.float64]


@dataclass(frozen=True)
class BlockInfo:
    """Pose and velocity of one block in the world."""

    pos_world: Array
    """Centre (3,) [m]."""
    R_world_block: Array
    """Rotation matrix (3, 3)."""
    lin_vel_world: Array
    """(3,) [m/s]."""
    ang_vel_block: Array
    """(3,) [rad/s], in the block's own frame."""


class _Blocks(Mapping[str, BlockInfo]):
    """The blocks of one simulation state, worked out when they are looked at: most oracles look at none."""

    def __init__(self, index: DeskIndex, qpos: Array, qvel: Array) -> None:
        self._index, self._qpos, self._qvel = index, qpos, qvel
        self._seen: dict[str, BlockInfo] = {}

    def __getitem__(self, name: str) -> BlockInfo:
        block = self._seen.get(name)
        if block is None:
            at, dof = self._index.block_qpos[name], self._index.block_dof[name]
            matrix = np.empty(9)
            mujoco.mju_quat2Mat(matrix, self._qpos[at + 3 : at + 7])
            block = self._seen[name] = BlockInfo(
                pos_world=self._qpos[at : at + 3],
                R_world_block=matrix.reshape(3, 3),
                lin_vel_world=self._qvel[dof : dof + 3],
                ang_vel_block=self._qvel[dof + 3 : dof + 6],
            )
        return block

    def __iter__(self) -> Iterator[str]:
        return iter(BLOCKS)

    def __len__(self) -> int:
        return len(BLOCKS)

    def __reduce__(self) -> tuple[type[dict], tuple[dict[str, BlockInfo]]]:
        return dict, (dict(self),)


@dataclass(frozen=True)
class SceneInfo:
    """Joints, lamps, blocks and contacts at one moment."""

    slide_m: float
    drawer_m: float
    button_m: float
    switch_m: float
    bulb: bool
    led: bool
    blocks: Mapping[str, BlockInfo] = field(default_factory=dict)
    contacts: frozenset[tuple[str, str]] = frozenset()
    """Touching bodies, each pair sorted by name; see `scene_state.touching`."""

    def contacts_of(self, name: str) -> frozenset[str]:
        """The bodies that touch `name`."""
        return self._touched.get(name, frozenset())

    @cached_property
    def _touched(self) -> dict[str, frozenset[str]]:
        touched: dict[str, set[str]] = {}
        for a, b in self.contacts:
            touched.setdefault(a, set()).add(b)
            touched.setdefault(b, set()).add(a)
        return {name: frozenset(others) for name, others in touched.items()}

    @classmethod
    def capture(cls, model: mujoco.MjModel, data: mujoco.MjData, lights: LightState) -> SceneInfo:
        """The snapshot of a simulation; contacts are those of the last collision pass."""
        index = desk_index(model)
        qpos, qvel = data.qpos.copy(), data.qvel.copy()
        slide, drawer, button, switch = (float(qpos[at]) for at in index.fixture_at)
        blocks = _Blocks(index, qpos, qvel)
        return cls(slide, drawer, button, switch, lights.bulb, lights.led, blocks, frozenset(touching(model, data)))

    @classmethod
    def from_scene_obs(cls, scene_obs: ArrayLike, scene: SceneSpec) -> SceneInfo:
        """The snapshot that a stored vector (24,) allows: at rest, contacts unknown (empty)."""
        obs = check_scene_obs(scene_obs)
        blocks = {}
        for slot, name in enumerate(scene.slot_order):
            start = 6 + 6 * slot
            blocks[name] = BlockInfo(
                pos_world=obs[start : start + 3].copy(),
                R_world_block=euler_xyz_to_matrix(obs[start + 3 : start + 6]),
                lin_vel_world=np.zeros(3),
                ang_vel_block=np.zeros(3),
            )
        slide, drawer, button, switch = obs[:4].tolist()
        return cls(slide, drawer, button, switch, bool(obs[BULB] > 0.5), bool(obs[LED] > 0.5), blocks)
