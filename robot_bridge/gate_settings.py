"""The gate's numbers: each bound of the event table, its unit, default and range; a wrong one ends start-up by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from foreact.vla.errors import ConfigError

Seconds = Annotated[float, Field(gt=0.0, le=60.0)]
Fraction = Annotated[float, Field(gt=0.0, le=1.0)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class CameraRule(_Part):
    """What the pictures of one camera must be."""

    name: str
    height: Annotated[int, Field(gt=0, le=8192)]
    width: Annotated[int, Field(gt=0, le=8192)]
    rate_hz: Annotated[float, Field(gt=0.0, le=1000.0)] = 30.0
    encoding: str = ""
    """As it is sent, such as "rgb8"; empty: that of the first picture, for ever."""


class GateSettings(_Part):
    """Settings of `foreact.robot_bridge.gate.Gate`."""

    cameras: tuple[CameraRule, ...] = ()
    rate_hz: Annotated[float, Field(gt=0.0, le=1000.0)] = 30.0
    """Of the policy's contract."""
    speed_scale: Fraction = 0.25
    """Stretches the policy's period, never its displacement per step."""

    # motion
    tick_s: Annotated[float, Field(ge=0.002, le=0.02)] = 0.01
    lead_ticks: Annotated[int, Field(ge=2, le=10)] = 4
    """Ticks of motion in a message before its brake begins."""
    send_every: Annotated[int, Field(ge=1, le=4)] = 2
    """A message every so many ticks."""
    speed_fraction: Fraction = 0.25
    """Part of the joint velocity limits that is used."""
    soft_margin_rad: Annotated[float, Field(ge=0.0, le=0.5)] = 0.1
    """The command stays so far inside the joint limits."""
    jump_rad: Annotated[float, Field(gt=0.0, le=0.2)] = 0.1
    """A target further than this from the command is never approached."""
    jump_m: Annotated[float, Field(gt=0.0, le=0.1)] = 0.05
    range_excess: Fraction = 0.1
    """A target so far beyond a joint's range, as part of it, is not clamped but refused."""
    clip_fraction: Fraction = 0.5
    clip_window_s: Seconds = 1.0
    """HOLD when more than this part of the ticks of this time was kept from its target by joint limits or the box."""
    leash_s: Seconds = 0.2
    """How long the arm may be at the end of the leash."""
    leash_limit: Annotated[int, Field(ge=0, le=100)] = 5
    leash_window_s: Seconds = 30.0
    """FAULT, once the command is back where the arm is held, after so many HOLDs by the leash within this time: a
    touch is forgiven, an arm that keeps pushing waits for a person. 0: never."""
    rest_rad_s: Annotated[float, Field(gt=0.0, le=0.1)] = 0.01
    """A joint slower than this rests."""

    # cameras
    camera_hold_s: Seconds = 0.1
    camera_hold_frames: Annotated[float, Field(gt=0.0, le=30.0)] = 3.0
    """A picture older than both is stale."""
    camera_fault_s: Seconds = 0.5
    frozen_frames: Annotated[int, Field(ge=2, le=100)] = 5
    frozen_motion_rad: Annotated[float, Field(gt=0.0, le=1.0)] = 0.01
    """So many equal pictures while a joint moves further than this: frozen."""
    sync_s: Seconds = 1.0 / 30.0
    """Largest spread of the stamps of one observation."""
    sync_drops: Annotated[int, Field(ge=1, le=100)] = 3
    """So many observations in a row dropped for it: HOLD."""

    # joints
    joints_hold_s: Seconds = 0.02
    joints_fault_s: Seconds = 0.1
    gripper_required: bool = True
    gripper_hold_s: Seconds = 0.1
    gripper_fault_s: Seconds = 0.5

    # policy
    inference_period_s: Seconds | None = None
    """Time between two chunks; None: one policy step."""
    late_steps: Annotated[float, Field(gt=0.0, le=100.0)] = 2.0
    """A chunk that comes more than so many policy steps after its observation is late."""
    reject_limit: Annotated[int, Field(ge=1, le=100)] = 3
    reject_window_s: Seconds = 10.0
    """FAULT at so many malformed chunks in this time."""
    warmup_least: Annotated[int, Field(ge=1, le=10_000)] = 20
    warmup_window: Annotated[int, Field(ge=1, le=10_000)] = 100
    warmup_cold: Annotated[int, Field(ge=0, le=19)] = 3
    """The first so many are not judged: what is compiled or loaded on first use."""
    warmup_fraction: Fraction = 0.8
    """p99 of the last `warmup_window` inferences, as part of `inference_period_s`."""
    policy_hold_s: Seconds = 0.08
    policy_fault_s: Seconds = 0.45
    """Silence of the policy process."""
    identity: Mapping[str, str] = Field(default_factory=dict)
    """Name -> hash that the policy must state: weights, normaliser, action space, joint order, contract, ..."""

    # the rest
    hold_limit_s: Seconds = 2.0
    """A HOLD whose cause lasts longer, or after which no chunk comes for so long, becomes a FAULT."""
    require_clock: bool = True
    clock_jump_s: Seconds = 0.05
    clock_settle_s: Seconds = 0.5
    """After a jump the clock must be steady for so long."""
    future_s: Seconds = 0.05
    """A stamp so far in the future is refused."""
    late_tick_s: Seconds = 0.05
    """A tick so late is counted and answered by HOLD."""
    late_fault_s: Seconds = 0.5
    """... and one so late by FAULT."""
    require_graph: bool = True
    graph_age_s: Seconds = 2.5
    """The graph must have been looked at so recently to arm."""
    require_mode: bool = True
    """The robot must have said that it is well."""
    require_description: bool = False
    """Whether a URDF that fits the limits file must have come; `assemble` demands it where the robot file names a topic
    for it."""
    packet_success: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Least mean success rate of control packets over `packet_window_s` before READY; 0: the robot does not say. Franka
    warns below 0.95."""
    packet_window_s: Seconds = 10.0

    @model_validator(mode="after")
    def _is_ordered(self) -> GateSettings:
        for low, high in (
            ("camera_hold_s", "camera_fault_s"),
            ("joints_hold_s", "joints_fault_s"),
            ("gripper_hold_s", "gripper_fault_s"),
            ("policy_hold_s", "policy_fault_s"),
            ("late_tick_s", "late_fault_s"),
        ):
            if getattr(self, low) >= getattr(self, high):
                raise ValueError(f"{low} must be below {high}")
        if self.send_every >= self.lead_ticks:
            raise ValueError("send_every must be below lead_ticks, or the arm brakes between two messages")
        names = [camera.name for camera in self.cameras]
        if len(names) != len(set(names)):
            raise ValueError(f"cameras must be named once each, found {names}")
        return self

    @property
    def period_s(self) -> float:
        """One policy step [s]."""
        return 1.0 / (self.rate_hz * self.speed_scale)

    @property
    def late_s(self) -> float:
        """A chunk that comes so long after its observation is late [s]."""
        return self.late_steps * self.period_s

    @property
    def between_chunks_s(self) -> float:
        """Time between two chunks [s]."""
        return self.inference_period_s or self.period_s

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> GateSettings:
        """From the `gate:` part of a robot file.

        Raises:
            ConfigError: If a name is unknown or a value out of range; each is named.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            lines = [f"  gate.{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
            raise ConfigError("these gate settings are not valid:\n" + "\n".join(lines)) from error
