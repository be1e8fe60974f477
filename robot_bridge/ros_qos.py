"""Quality of service in rclpy's terms: our profiles, and where two of them do not fit.

The rules are those of the DDS standard (OMG DDS 1.4, 2.2.3, "requested / offered"), as ROS 2 restates them in its table
of QoS compatibilities. The words are those of `qos_fit`, which compares the same in cyclonedds' terms.
"""

from __future__ import annotations

from typing import Any

from foreact.robot_bridge.topic_names import Qos

_RELIABILITY = {1: "reliable", 2: "best effort"}
_DURABILITY = {1: "transient local", 2: "volatile"}
_LIVELINESS = {0: "automatic", 1: "automatic", 3: "manual by topic"}
_INFINITE_NS = 1 << 62


def profile(qos: Qos) -> Any:
    """A rclpy QoSProfile."""
    from rclpy.qos import (  # type: ignore[import-not-found]
        DurabilityPolicy,
        HistoryPolicy,
        LivelinessPolicy,
        QoSProfile,
        ReliabilityPolicy,
    )

    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=qos.depth,
        reliability=ReliabilityPolicy.RELIABLE if qos.reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if qos.transient_local else DurabilityPolicy.VOLATILE,
        liveliness=LivelinessPolicy.AUTOMATIC,
    )


def misfits(offered: Any, requested: Any) -> list[str]:
    """Policies for which a subscription cannot have what it asks, such as "reliability (offered best effort, requested
    reliable)"; both are rclpy `QoSProfile`."""
    found = []
    for name, words, weaker, stronger in (
        ("reliability", _RELIABILITY, 2, 1), ("durability", _DURABILITY, 2, 1), ("liveliness", _LIVELINESS, (0, 1), 3),
    ):  # fmt: skip
        has, wants = int(getattr(offered, name)), int(getattr(requested, name))
        if wants == stronger and has in (weaker if isinstance(weaker, tuple) else (weaker,)):
            found.append(_say(name, words[has], words[wants]))
    for attribute, name in (("deadline", "deadline"), ("liveliness_lease_duration", "liveliness lease")):
        has, wants = _span_ns(getattr(offered, attribute)), _span_ns(getattr(requested, attribute))
        if has > wants:
            found.append(_say(name, _words(has), _words(wants)))
    return found


def _span_ns(duration: Any) -> int:
    """Zero means "not said", which is for ever."""
    return min(duration.nanoseconds, _INFINITE_NS) or _INFINITE_NS


def _words(nanoseconds: int) -> str:
    return "infinite" if nanoseconds >= _INFINITE_NS else f"{nanoseconds / 1e9:g} s"


def _say(name: str, has: str, wants: str) -> str:
    return f"{name} (offered {has}, requested {wants})"
