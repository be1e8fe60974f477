"""What a task oracle looks at: one immutable snapshot of the desk per control step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import mujoco
import numpy as np
from numpy.typing import ArrayLike, NDArray

from foreact.sim.lights import LightState
from foreact.sim.rotations import euler_xyz_to_matrix
from foreact.sim.scene_state import BULB, LED, check_scene_obs, desk_index, touching
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

    def contacts_of(self, name: str) -> set[str]:
        """The bodies that touch `name`."""
        return {b if a == name else a for a, b in self.contacts if name in (a, b)}

    @classmethod
    def capture(cls, model: mujoco.MjModel, data: mujoco.MjData, lights: LightState) -> SceneInfo:
        """The snapshot of a simulation; contacts are those of the last collision pass."""
        index = desk_index(model)
        slide, drawer, button, switch = data.qpos[index.fixture_qpos].tolist()
        blocks = {}
        for name in BLOCKS:
            at, dof = index.block_qpos[name], index.block_dof[name]
            matrix = np.empty(9)
            mujoco.mju_quat2Mat(matrix, data.qpos[at + 3 : at + 7])
            blocks[name] = BlockInfo(
                pos_world=data.qpos[at : at + 3].copy(),
                R_world_block=matrix.reshape(3, 3),
                lin_vel_world=data.qvel[dof : dof + 3].copy(),
                ang_vel_block=data.qvel[dof + 3 : dof + 6].copy(),
            )
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
