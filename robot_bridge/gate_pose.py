"""Where motion may begin: inside the limits and the box, and where the arm was when it was armed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from foreact.robot_bridge.causes import Cause, Finding
from foreact.robot_bridge.limiter import Limiter


def pose_findings(limiter: Limiter, q: Sequence[float]) -> Iterable[Finding]:
    """What keeps motion from beginning at joints (N,) [rad]; nothing is said if none were measured."""
    limits = limiter.limits
    for name, x, low, high in zip(limits.joints, q, limiter.position_low, limiter.position_high, strict=False):
        if not low <= x <= high:
            message = f"{name} is at {x:.3f} rad; motion may begin between {low:.3f} and {high:.3f}: move it there"
            yield Finding(Cause.START_POSE, message)
    if not q:
        return
    box = zip(limits.workspace_low_base, limits.workspace_high_base, strict=True)
    for axis, p, (low, high) in zip("xyz", limiter.kinematics.position(q), box, strict=True):
        if not low <= p <= high:
            message = f"the tool is at {axis} = {p:.3f} m; the workspace is from {low} to {high}: move it there"
            yield Finding(Cause.START_POSE, message)


def moved_since(limiter: Limiter, q: Sequence[float]) -> str:
    """Which joint is no longer where the command rests, (N,) [rad]; "" if all are."""
    limits = limiter.limits
    for name, x, y in zip(limits.joints, q, limiter.end, strict=True):
        if not abs(x - y) <= limits.start_tolerance_rad:
            return f"{name} has moved by {x - y:+.4f} rad since the gate was armed; disarm and arm again"
    return ""
