"""What a policy might want, for replays: a wandering arm, or the joints of a recorded episode.

Like a real policy's, each chunk starts from the target that was commanded when it was made, comes back to the path it
has in mind, and disagrees a little with the chunk before.

Shape legend: T recorded steps, K rows, N joints.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from foreact.robot_bridge.limits import RobotLimits
from foreact.vla.errors import ConfigError

Array = NDArray[np.float64]


class Wishes(Protocol):
    """Makes chunks."""

    def start(self) -> Array:
        """Joints (N,) [rad] where the arm stands at first."""
        ...

    def chunk(self, step: int, anchor: Array, instruction_id: int) -> tuple[Array, Array]:
        """Joint targets (K, N) [rad] and gripper commands (K,) on seeing the robot at `step`."""
        ...


class Recorded:
    """Follows a path of joints.

    Args:
        path: Shape (T, N) [rad], one row per policy step; after the last it stands.
        gripper: Shape (T,), +1 open, -1 close.
        rows: K.
        disagreement_rad: Standard deviation of what a chunk's last row adds to the path; grows from 0 along the chunk.
        seed: Of the disagreement.
    """

    def __init__(
        self, path: Array, gripper: Array | None = None, rows: int = 10, disagreement_rad: float = 0.01, seed: int = 0
    ):
        if path.ndim != 2 or len(path) < 2 or not np.isfinite(path).all():
            raise ConfigError(f"a recorded path must be (T, N) finite joints with T at least 2, found {path.shape}")
        self._path, self._rows, self._noise = np.asarray(path, np.float64), rows, disagreement_rad
        self._gripper = np.ones(len(path)) if gripper is None else np.asarray(gripper, np.float64)
        self._random = np.random.default_rng(seed)

    def start(self) -> Array:
        """The first recorded joints."""
        return self._path[0].copy()

    def chunk(self, step: int, anchor: Array, instruction_id: int) -> tuple[Array, Array]:
        """See `Wishes`; the instruction does not matter."""
        ahead = np.minimum(step + np.arange(1, self._rows + 1), len(self._path) - 1)
        rows = self._path[ahead] + _coming_back(anchor - self._path[min(step, len(self._path) - 1)], self._rows)
        return rows + _drifting(self._random, rows, self._noise), self._gripper[ahead]


@dataclass
class Wandering:
    """Every joint swings about the middle of its range, in another way for each instruction."""

    limits: RobotLimits
    period_s: float
    rows: int = 10
    disagreement_rad: float = 0.01
    reach_rad: float = 0.3
    """Amplitude; slowed down so that it takes at most a fifth of the acceleration limits."""
    seed: int = 0
    _random: np.random.Generator = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._random = np.random.default_rng(self.seed)

    def start(self) -> Array:
        """The middle of the joints' ranges."""
        return 0.5 * (np.array(self.limits.position_low) + np.array(self.limits.position_high))

    def chunk(self, step: int, anchor: Array, instruction_id: int) -> tuple[Array, Array]:
        """See `Wishes`."""
        steps = np.arange(step, step + self.rows + 1, dtype=np.float64)
        path, gripper = self._path(steps, instruction_id)
        rows = path[1:] + _coming_back(anchor - path[0], self.rows)
        return rows + _drifting(self._random, rows, self.disagreement_rad), gripper[1:]

    def _path(self, steps: Array, instruction_id: int) -> tuple[Array, Array]:
        random = np.random.default_rng([self.seed, instruction_id])
        n = len(self.limits.joints)
        fastest = np.sqrt(0.2 * np.array(self.limits.acceleration) / self.reach_rad)
        rate = np.minimum(random.uniform(0.3, 1.0, n) * fastest, 1.0)  # rad/s of the swing's phase
        phase = steps[:, None] * self.period_s * rate + random.uniform(0, 2 * np.pi, n)
        return self.start() + self.reach_rad * np.sin(phase), np.where(np.sin(phase[:, 0] * 0.7) > 0, 1.0, -1.0)


def _coming_back(gap: Array, rows: int, keeps: float = 0.7, at_most_rad: float = 0.02) -> Array:
    """(K, N): a gap (N,) that each row shortens to `keeps` of the row before, but not faster than `at_most_rad`."""
    out = np.empty((rows, len(gap)))
    for row in range(rows):
        gap = out[row] = gap - np.clip((1.0 - keeps) * gap, -at_most_rad, at_most_rad)
    return out


def _drifting(random: np.random.Generator, rows: Array, noise: float) -> Array:
    """(K, N): a random direction, further with each row."""
    return np.linspace(0.0, 1.0, len(rows) + 1)[1:, None] * random.normal(size=rows.shape[1]) * noise
