"""The scheduler that goes with a gate, and what its refusals mean to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foreact.robot_bridge.causes import Cause
from foreact.robot_bridge.gate_settings import GateSettings
from foreact.robot_bridge.limits import RobotLimits
from foreact.robot_bridge.scheduler import Scheduler, SchedulerSettings

REFUSALS = {
    "MALFORMED": Cause.CHUNK_BAD,
    "FROM_THE_FUTURE": Cause.CHUNK_BAD,
    "LATE": Cause.LATE_INFERENCE,
    "PASSED": Cause.LATE_INFERENCE,
    "JUMP": Cause.DISCONTINUITY,
}
"""Names of the scheduler's refusals that stop the arm; the others only drop the chunk: it came twice or too late for
what has happened since, and nothing depends on it."""


def default_scheduler(
    limits: RobotLimits, settings: GateSettings, chosen: Mapping[str, Any] | None = None
) -> Scheduler:
    """A scheduler whose bounds are the gate's.

    Args:
        limits: The arm.
        settings: The gate's.
        chosen: The `scheduler:` part of a robot file.

    Raises:
        ConfigError: If an entry of it is not valid.
    """
    own = {
        "late_steps": settings.late_s / settings.period_s + 1.0,
        "max_jump_rad": settings.jump_rad,
        "acceleration": limits.acceleration,
    }
    return Scheduler(SchedulerSettings.from_mapping({**own, **(chosen or {})}), settings.period_s)
