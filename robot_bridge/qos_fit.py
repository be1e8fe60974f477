"""Whether what a writer offers is what a reader asks for, policy by policy.

The rules are those of the DDS standard (OMG DDS 1.4, 2.2.3, "requested / offered"), which ROS 2 restates in its table
of QoS compatibilities. DDS itself reports only the last policy that did not fit, and not whose.
"""

from __future__ import annotations

from typing import Any

_ORDER = {
    "Reliability": ("BestEffort", "Reliable"),
    "Durability": ("Volatile", "TransientLocal", "Transient", "Persistent"),
    "Liveliness": ("Automatic", "ManualByParticipant", "ManualByTopic"),
    "DestinationOrder": ("ByReceptionTimestamp", "BySourceTimestamp"),
    "PresentationAccessScope": ("Instance", "Topic", "Group"),
}
_NAMES = {
    "Reliability": "reliability", "Durability": "durability", "Liveliness": "liveliness",
    "DestinationOrder": "destination order", "PresentationAccessScope": "presentation",
}  # fmt: skip
_WORDS = {
    "BestEffort": "best effort", "Reliable": "reliable", "Volatile": "volatile", "TransientLocal": "transient local",
    "Automatic": "automatic", "ManualByParticipant": "manual by participant", "ManualByTopic": "manual by topic",
}  # fmt: skip
_INFINITE = (1 << 63) - 1


def misfits(offered: Any, requested: Any) -> list[str]:
    """Policies for which a reader cannot have what it asks, such as "reliability (offered best effort, requested
    reliable)"; both are cyclonedds `Qos`."""
    found = []
    for scope, order in _ORDER.items():
        has, wants = _kind(offered, scope, order[0]), _kind(requested, scope, order[0])
        if has in order and wants in order and order.index(has) < order.index(wants):
            found.append(_say(_NAMES[scope], _WORDS.get(has, has), _WORDS.get(wants, wants)))
    for scope, name in (("Deadline", "deadline"), ("LatencyBudget", "latency budget")):
        # Without the policy a deadline is infinite, a latency budget zero.
        none = _INFINITE if scope == "Deadline" else 0
        attribute = "deadline" if scope == "Deadline" else "budget"
        has, wants = _number(offered, scope, attribute, none), _number(requested, scope, attribute, none)
        if has > wants:
            found.append(_say(name, _span(has), _span(wants)))
    has = _number(offered, "Liveliness", "lease_duration", _INFINITE)
    wants = _number(requested, "Liveliness", "lease_duration", _INFINITE)
    if has > wants:
        found.append(_say("liveliness lease", _span(has), _span(wants)))
    has, wants = _kind(offered, "Ownership", "Shared"), _kind(requested, "Ownership", "Shared")
    if has != wants:
        found.append(_say("ownership", has.lower(), wants.lower()))
    has, wants = _representations(offered), _representations(requested)
    if not has[:1] or has[0] not in wants:
        found.append(_say("data representation", "+".join(has), "+".join(wants)))
    has, wants = _partitions(offered), _partitions(requested)
    if not any("*" in part or "?" in part for part in (*has, *wants)) and not set(has) & set(wants):
        found.append(_say("partition", repr(has[0]), repr(wants[0])))
    return found


def _say(name: str, has: str, wants: str) -> str:
    return f"{name} (offered {has}, requested {wants})"


def _policy(qos: Any, scope: str) -> Any:
    for policy in qos:
        if policy.__scope__.split("<")[0] == scope:
            return policy
    return None


def _kind(qos: Any, scope: str, default: str) -> str:
    policy = _policy(qos, scope)
    return default if policy is None else type(policy).__name__.split(".")[-1]


def _number(qos: Any, scope: str, attribute: str, default: int) -> int:
    value = getattr(_policy(qos, scope), attribute, None)
    return default if value is None else int(value)


def _representations(qos: Any) -> tuple[str, ...]:
    policy = _policy(qos, "DataRepresentation")
    if policy is None:
        return ("XCDR1",)
    both = (("XCDR1", policy.use_cdrv0_representation), ("XCDR2", policy.use_xcdrv2_representation))
    return tuple(name for name, used in both if used) or ("XCDR1",)


def _partitions(qos: Any) -> tuple[str, ...]:
    policy = _policy(qos, "Partition")
    return ("",) if policy is None or not policy.partitions else tuple(policy.partitions)


def _span(nanoseconds: int) -> str:
    return "infinite" if nanoseconds >= _INFINITE else f"{nanoseconds / 1e9:g} s"
