"""The contract of the simulated Panda, and the ways in which it can be commanded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from foreact.vla.contract import Camera, Contract, Field
from foreact.vla.errors import ConfigError, did_you_mean

CALVIN_SIZES: dict[str, tuple[int, int]] = {"rgb_static": (200, 200), "rgb_gripper": (84, 84)}
"""Camera name -> (height, width) in pixels, as in CALVIN."""

RATE_HZ = 30.0


@dataclass(frozen=True)
class ActionMode:
    """One way to command the robot: contract fields and bounds of the action vector."""

    fields: tuple[Field, ...]

    @property
    def low(self) -> np.ndarray:
        """(A,) float32 lower bounds."""
        return np.concatenate([np.full(f.size, f.low, np.float32) for f in self.fields])

    @property
    def high(self) -> np.ndarray:
        """(A,) float32 upper bounds."""
        return np.concatenate([np.full(f.size, f.high, np.float32) for f in self.fields])


_GRIPPER = Field(name="gripper", size=1, unit="1", low=-1.0, high=1.0)

ACTION_MODES: dict[str, ActionMode] = {
    "relative_cartesian": ActionMode(
        (
            Field(name="delta_position", size=3, unit="0.02 m", frame="world", low=-1, high=1, relative=True),
            Field(
                name="delta_euler",
                size=3,
                unit="0.05 rad",
                frame="world",
                low=-1,
                high=1,
                rotation="euler_xyz",
                relative=True,
            ),
            _GRIPPER,
        )
    ),
    "absolute_cartesian": ActionMode(
        (
            Field(name="tcp_target_position", size=3, unit="m", frame="world", low=-2, high=2),
            Field(name="tcp_target_euler", size=3, unit="rad", frame="world", low=-4, high=4, rotation="euler_xyz"),
            _GRIPPER,
        )
    ),
    "relative_joint": ActionMode(
        (
            Field(name="delta_joint_position", size=7, unit="rad", low=-0.1, high=0.1, relative=True),
            _GRIPPER,
        )
    ),
    "absolute_joint": ActionMode(
        (
            Field(name="joint_target_position", size=7, unit="rad", low=-4, high=4),
            _GRIPPER,
        )
    ),
}
"""Name -> what `DeskEnv.step` takes in that mode; the gripper is commanded open above 0, else closed."""


def desk_contract(
    sizes: Mapping[str, tuple[int, int]] | None = None, action_mode: str = "relative_cartesian"
) -> Contract:
    """The contract of `DeskEnv`; state fields follow `robot_obs` (15).

    Raises:
        ConfigError: If a camera is unknown.
    """
    wanted = dict(CALVIN_SIZES if sizes is None else sizes)
    for name in wanted:
        if name not in CALVIN_SIZES:
            raise ConfigError(f"no camera {name!r} on the desk; {did_you_mean(name, CALVIN_SIZES)}")
    return Contract(
        embodiment="panda_long_finger",
        rate_hz=RATE_HZ,
        cameras=tuple(Camera(name=name, height=h, width=w) for name, (h, w) in wanted.items()),
        state=(
            Field(name="tcp_position", size=3, unit="m", frame="world"),
            Field(name="tcp_euler", size=3, unit="rad", frame="world", rotation="euler_xyz"),
            Field(name="gripper_width", size=1, unit="m", low=0.0, high=0.08),
            Field(name="joint_position", size=7, unit="rad"),
            Field(name="gripper_command", size=1, unit="1", low=-1.0, high=1.0),
        ),
        action=ACTION_MODES[action_mode].fields,
        gripper="+1 open, -1 close",
    )


def privileged_fields() -> tuple[Field, ...]:
    """What only a simulator knows, as state fields: the 24 numbers of `scene_obs`, blocks in the scene's own order."""
    blocks = tuple(
        field
        for slot in (1, 2, 3)
        for field in (
            Field(name=f"scene_block{slot}_position", size=3, unit="m", frame="world"),
            Field(name=f"scene_block{slot}_euler", size=3, unit="rad", frame="world", rotation="euler_xyz"),
        )
    )
    joints = tuple(Field(name=f"scene_{name}", size=1, unit="m") for name in ("slide", "drawer", "button", "switch"))
    lamps = tuple(Field(name=f"scene_{name}", size=1, unit="1", low=0.0, high=1.0) for name in ("bulb", "led"))
    return (*joints, *lamps, *blocks)
