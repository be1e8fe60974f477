"""What crosses the borders inside the bridge: plain objects of NumPy arrays, nothing that needs ROS, torch or MuJoCo.

Two clocks, never mixed: `*_s` times named `received_s` or `now_s` are readings of the steady clock of this process,
which no one can set; `stamp_s` is the time in a message's header, from whichever clock its sender uses. Every timeout
is measured on the steady clock; stamps only say how old a message was when it came.

Shape legend: N arm joints, K steps of a chunk, P points of a trajectory, H x W pixels.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np


class State(enum.StrEnum):
    """What the gate may do."""

    DISARMED = "disarmed"
    """Nothing is published. Every start ends here."""
    READY = "ready"
    """Armed, every check passed, at rest; waits for an instruction and a chunk."""
    RUNNING = "running"
    """Follows chunks."""
    HOLD = "hold"
    """Stops, or stands; goes on by itself only if the cause clears in time."""
    FAULT = "fault"
    """Stopped for good: an operator disarms and arms again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraFrame:
    """One picture of one camera."""

    camera: str
    image: np.ndarray
    """(H, W, 3) uint8 RGB."""
    stamp_s: float
    """Time in its header [s]."""
    received_s: float
    """Steady clock [s] when it arrived."""
    sequence: int
    """Counts the pictures of this camera that arrived, from 0."""
    encoding: str = "rgb8"
    """As it was sent: "rgb8", "bgr8", "mono8", "jpeg", "png", ..."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JointSample:
    """Measured joints, in the order of the limits file."""

    position: np.ndarray
    """(N,) float64 [rad]."""
    velocity: np.ndarray | None
    """(N,) float64 [rad/s]; None if the robot does not say."""
    gripper_width_m: float | None
    stamp_s: float
    received_s: float


class RobotMode(enum.StrEnum):
    """What the robot says of itself."""

    OK = "ok"
    PROTECTIVE_STOP = "protective_stop"
    EMERGENCY_STOP = "emergency_stop"
    REFLEX = "reflex"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionChunk:
    """Joint targets for the next K steps of the policy; the first is for the step at which it looked."""

    sequence: int
    """Rises with every chunk of one connection to one policy process."""
    instruction_id: int
    """The instruction it obeys; one more with every change of words."""
    observed_s: float
    """Steady clock [s] of the observation it was made from: the newest frame's arrival."""
    step: int
    """Policy step (gate's own count) at which that observation was taken: row 0 is the target of this step."""
    joint_position: np.ndarray
    """(K, N) float64 [rad]: absolute targets, each due one policy period after the one before."""
    gripper: np.ndarray
    """(K,) float64: +1 open, -1 close."""
    inference_s: float = 0.0
    """How long the policy took."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """What is sent to the native controller. It begins where the last one is at `start_s` and ends at rest."""

    start_s: float
    """Steady clock [s] at `time_from_start_s` 0."""
    time_from_start_s: np.ndarray
    """(P,) float64, rising, > 0 [s]."""
    position: np.ndarray
    """(P, N) float64 [rad]."""
    velocity: np.ndarray
    """(P, N) float64 [rad/s]; the last row is zero."""
    acceleration: np.ndarray
    """(P, N) float64 [rad/s2]; the last row is zero."""
    observed_s: float | None = None
    """Of the observation that it follows from; None for a stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A line of the event log."""

    at_s: float
    """Steady clock [s]."""
    kind: str
    """One of "state", "refused", "clamped", "warning", ..."""
    cause: str
    """A name of `foreact.robot_bridge.causes`; "" if there is none."""
    message: str
    """A sentence for people."""
    state: State
    """After it."""
    data: Mapping[str, float | int | str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicReport:
    """What a transport knows of one topic it uses."""

    topic: str
    role: str
    """Such as "camera rgb_static", "joints", "trajectory", "instruction", ..."""
    direction: str
    """Either "in" or "out"."""
    expected_type: str
    found_types: Sequence[str] = ()
    publishers: int = 0
    subscribers: int = 0
    rate_hz: float | None = None
    qos_problem: str = ""
    """Empty, or the policies that do not fit, in words."""
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DiagnosticLine:
    """One status of /diagnostics."""

    name: str
    level: int
    """0 ok, 1 warning, 2 error, 3 stale, as in diagnostic_msgs/msg/DiagnosticStatus."""
    message: str
    values: Mapping[str, str] = field(default_factory=dict)
