"""CALVIN's relative actions from its absolute ones, and its Euler angles as six numbers.

`actions` holds the pose of the next frame, `rel_actions` the clipped step to it from the measured pose, in units of
0.02 m and 0.05 rad, with turns taken the short way round (mees/calvin, dataset/README.md, MIT).
"""

from __future__ import annotations

import numpy as np

from foreact.datasets.lint_rotations import matrices_from_euler

_POSITION, _EULER = slice(0, 3), slice(3, 6)
_ONE_M, _ONE_RAD = 0.02, 0.05
NOTICEABLE = 0.01
"""Two relative actions differ if a number of theirs does by more than so much: 1 % of the largest step."""


def relative_actions(robot_obs: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """(T, 7) relative actions of measured poses (T, 15) and absolute actions (T, 7), all float64."""
    step_m = actions[:, _POSITION] - robot_obs[:, _POSITION]
    turn = actions[:, _EULER] - robot_obs[:, _EULER]
    turn = (turn + np.pi) % (2 * np.pi) - np.pi
    parts = [np.clip(step_m / _ONE_M, -1, 1), np.clip(turn / _ONE_RAD, -1, 1), actions[:, 6:]]
    return np.concatenate(parts, axis=1)


def differ(recorded: np.ndarray, computed: np.ndarray) -> np.ndarray:
    """(T,) whether relative actions (T, 7) differ noticeably in a number."""
    return np.abs(recorded - computed).max(axis=1) > NOTICEABLE


def with_six_numbers(robot_obs: np.ndarray) -> np.ndarray:
    """(T, 18): `robot_obs` (T, 15) with the first two columns of the rotation matrix in place of the Euler angles.

    Continuous where the roll of a hand that points down flips between pi and -pi. Source: Zhou et al., "On the
    Continuity of Rotation Representations in Neural Networks", 2019.
    """
    matrices = matrices_from_euler(robot_obs[:, _EULER])
    six = np.concatenate([matrices[:, :, 0], matrices[:, :, 1]], axis=1)
    return np.concatenate([robot_obs[:, _POSITION], six, robot_obs[:, 6:]], axis=1)
