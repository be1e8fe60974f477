"""DDS domains as rmw_cyclonedds sets them up, so that participants of this process and of ROS 2 nodes find each other.

The settings restate rmw_cyclonedds_cpp/src/rmw_node.cpp of Jazzy (ros2/rmw_cyclonedds, Apache-2.0): what a discovery
range means, then whatever CYCLONEDDS_URI says.
"""

from __future__ import annotations

import os
import threading
from typing import Any

from foreact.robot_bridge.network import NetworkScope, Range, cyclonedds_settings, is_loopback
from foreact.robot_bridge.transport_errors import TransportError

_lock = threading.Lock()
_open: dict[int, tuple[Any, str, int]] = {}
"""Domain id -> the domain, its settings, and how many use it."""


def domain_settings(scope: NetworkScope, uri: str = "") -> str:
    """For cyclonedds: pieces of XML, separated by commas; the later ones win.

    Args:
        scope: How far to look for others.
        uri: CYCLONEDDS_URI.
    """
    if scope.range is Range.SYSTEM_DEFAULT:
        return uri
    near = scope.range is not Range.SUBNET
    general = "<AllowMulticast>false</AllowMulticast>" if near else ""
    chosen = any("<networkinterface" in text.lower() for _, text in cyclonedds_settings(uri))
    if near and not chosen and all(is_loopback(peer) for peer in scope.static_peers):
        # Beyond what rmw_cyclonedds does: from other machines nothing is even received. Nodes of rmw_cyclonedds with
        # the range LOCALHOST are found all the same, since they announce themselves to 127.0.0.1; and cyclonedds 11
        # would ignore what they send there if it had chosen another interface.
        general += '<Interfaces><NetworkInterface address="127.0.0.1"/></Interfaces>'
    if scope.range is Range.OFF:
        # The tag is this process's own, so nobody else is found.
        inside = f"<ParticipantIndex>none</ParticipantIndex><Tag>ros_discovery_off_{os.getpid()}</Tag>"
    else:
        peers = (["localhost"] if near else []) + list(scope.static_peers)
        listed = "".join(f'<Peer address="{_attribute(peer)}"/>' for peer in peers)
        inside = "<ParticipantIndex>auto</ParticipantIndex><MaxAutoParticipantIndex>32</MaxAutoParticipantIndex>"
        inside += f"<Peers>{listed}</Peers>" if listed else ""
    general = f"<General>{general}</General>" if general else ""
    return f"<CycloneDDS><Domain>{general}<Discovery>{inside}</Discovery></Domain></CycloneDDS>,{uri}"


def enter_domain(scope: NetworkScope) -> None:
    """Set a domain up for this process; `leave_domain` once for each call.

    Raises:
        TransportError: If cyclonedds is not installed, refuses, or the domain is set up otherwise already.
    """
    try:
        from cyclonedds.core import DDSException
        from cyclonedds.domain import Domain
    except ImportError as error:
        raise TransportError(
            "DDS needs the package cyclonedds, which is not installed (it has none for Python 3.14 yet): "
            "pip install '.[robot]' in ForeAct's folder"
        ) from error
    wanted = domain_settings(scope, os.environ.get("CYCLONEDDS_URI", ""))
    with _lock:
        if scope.domain_id in _open:
            domain, settings, users = _open[scope.domain_id]
            if settings != wanted:
                raise TransportError(
                    f"DDS domain {scope.domain_id} is in use in this process with other settings; use one discovery "
                    "range for all, or another ROS_DOMAIN_ID"
                )
            _open[scope.domain_id] = (domain, settings, users + 1)
            return
        try:
            _open[scope.domain_id] = (Domain(scope.domain_id, wanted), wanted, 1)
        except (DDSException, UnicodeEncodeError) as error:
            raise TransportError(
                f"DDS domain {scope.domain_id} cannot be opened: {error!s:.200}; check CYCLONEDDS_URI, and that a "
                "network interface is up"
            ) from error


def leave_domain(domain_id: int) -> None:
    """Take the domain down if nobody else in this process uses it."""
    with _lock:
        domain, settings, users = _open[domain_id]
        if users > 1:
            _open[domain_id] = (domain, settings, users - 1)
        else:
            del _open[domain_id]
            domain.__del__()


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
