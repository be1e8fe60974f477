"""Is it a chunk? Asked before any arithmetic, of the whole of it, of whatever came."""

from __future__ import annotations

import math
from collections import deque

import numpy as np

from foreact.robot_bridge.gate_settings import GateSettings
from foreact.robot_bridge.limits import RobotLimits
from foreact.robot_bridge.types import ActionChunk

MAX_ROWS = 1000


class TooOften:
    """Whether something happened `limit` times within `window_s`; a limit of 0: never."""

    def __init__(self, limit: int, window_s: float):
        self._limit, self._window_s = limit, window_s
        self._at: deque[float] = deque(maxlen=max(limit, 1))

    def note(self, now_s: float) -> bool:
        """It happened; whether that was too often."""
        self._at.append(now_s)
        return len(self._at) == self._limit and now_s - self._at[0] <= self._window_s

    def reset(self) -> None:
        """Forget what was."""
        self._at.clear()


class ChunkJudge:
    """Judges chunks for an arm of N joints, and counts those that are none."""

    def __init__(self, limits: RobotLimits, settings: GateSettings):
        self._n, self._settings = len(limits.joints), settings
        low, high = np.array(limits.position_low), np.array(limits.position_high)
        excess = settings.range_excess * (high - low)
        self._low, self._high = low - excess, high + excess
        self._names = limits.joints
        self._rejects = TooOften(settings.reject_limit, settings.reject_window_s)

    def reset(self) -> None:
        """Forget earlier rejects."""
        self._rejects.reset()

    def reject(self, now_s: float) -> bool:
        """Count a reject; whether there were too many lately."""
        return self._rejects.note(now_s)

    def problem(self, found: object, now_s: float) -> str:
        """What makes it no chunk; "" if it is one."""
        if not isinstance(found, ActionChunk):
            return f"a {type(found).__name__}, not a chunk"
        for name in ("sequence", "instruction_id", "step"):
            value = getattr(found, name)
            if not isinstance(value, int) or isinstance(value, bool) or abs(value) >= 1 << 62:
                return f"{name} must be a whole number, found {value!r:.40}"
        for name in ("observed_s", "inference_s"):
            value = getattr(found, name)
            if not isinstance(value, float | int) or isinstance(value, bool) or not math.isfinite(value):
                return f"{name} must be a finite time, found {value!r:.40}"
        if found.observed_s > now_s + 1e-6:
            return f"it was observed {found.observed_s - now_s:.3f} s in the future"
        return self._array_problem(found.joint_position, found.gripper)

    def _array_problem(self, q: object, gripper: object) -> str:
        for name, array, dims in (("joint_position", q, 2), ("gripper", gripper, 1)):
            if type(array) is not np.ndarray:
                return f"{name} must be an array, found {type(array).__name__}"
            if array.dtype != np.float64 or array.ndim != dims:
                return f"{name} must be float64 with {dims} axes, found {array.dtype} of shape {array.shape}"
        assert isinstance(q, np.ndarray) and isinstance(gripper, np.ndarray)
        if q.shape[1] != self._n or not 1 <= q.shape[0] <= MAX_ROWS or gripper.shape != q.shape[:1]:
            return f"joint_position of shape {q.shape} with gripper {gripper.shape}, expected (K, {self._n}) and (K,)"
        if not (np.isfinite(q).all() and np.isfinite(gripper).all()):
            return "numbers that are not finite"
        return ""

    def out_of_range(self, chunk: ActionChunk) -> str:
        """Which target is so far beyond its joint's range that clamping would hide a fault; "" if none is."""
        q = chunk.joint_position
        beyond = (q < self._low) | (q > self._high)
        if not beyond.any():
            return ""
        row, joint = (int(i) for i in np.argwhere(beyond)[0])
        low, high = self._low[joint], self._high[joint]
        return f"row {row} leads {self._names[joint]} to {q[row, joint]:.3f} rad, beyond {low:.3f} to {high:.3f}"
