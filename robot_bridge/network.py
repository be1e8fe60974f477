"""Who may hear and command the robot, as the environment of this process says, read as strictly as rcl reads it freely.

ROS 2 takes a misspelt ROS_SECURITY_STRATEGY for "Permissive" and an unset ROS_AUTOMATIC_DISCOVERY_RANGE for the whole
subnet (rcl/src/rcl/security.c and discovery_options.c, Jazzy). Here a misspelt value is an error, and the robot is not
armed where strangers could publish to it, unless SROS2 is enforced or a person has said that the network is closed.
"""

from __future__ import annotations

import enum
import ipaddress
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from foreact.robot_bridge.keystore import enclave_of, lets_in, missing_keys
from foreact.vla.errors import ConfigError, did_you_mean

MAX_DOMAIN_ID = 232
"""Beyond, the UDP ports of DDS do not exist; above 101 they may collide with Linux's ephemeral ports."""
_MAX_URI_BYTES = 1 << 20


class Range(enum.StrEnum):
    """How far participants look for each other: the values of ROS_AUTOMATIC_DISCOVERY_RANGE."""

    OFF = "OFF"
    LOCALHOST = "LOCALHOST"
    SUBNET = "SUBNET"
    SYSTEM_DEFAULT = "SYSTEM_DEFAULT"


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkScope:
    """What the environment says."""

    domain_id: int = 0
    range: Range = Range.LOCALHOST
    range_given: bool = False
    """False if the environment is silent and the default was taken."""
    static_peers: tuple[str, ...] = ()
    security_enabled: bool = False
    security_enforced: bool = False
    keystore: str = ""
    enclave: str = "/"
    beyond: tuple[str, ...] = ()
    """What else leads beyond this machine, in words."""

    def refusals(self, *, allow_network: bool = False, transport_has_security: bool = False) -> list[str]:
        """Why the robot may not be armed here; empty if it may.

        Args:
            allow_network: A person said that everyone on this network may command the robot.
            transport_has_security: Whether the transport obeys SROS2 (rclpy does; pip's cyclonedds and Zenoh do not).
        """
        open_by = list(self.beyond)
        if self.range in (Range.SUBNET, Range.SYSTEM_DEFAULT):
            given = f"ROS_AUTOMATIC_DISCOVERY_RANGE is {self.range}" if self.range_given else (
                f"ROS_AUTOMATIC_DISCOVERY_RANGE is not set, which means {self.range}"
            )  # fmt: skip
            open_by.insert(0, given)
        if self.range is not Range.OFF:
            open_by += [f"ROS_STATIC_PEERS names {peer}" for peer in self.static_peers if not is_loopback(peer)]
        if not open_by or allow_network:
            return []
        missing = missing_keys(self.keystore, self.enclave, self.domain_id) if self.enforced else ""
        missing = missing or (lets_in(self.keystore, self.enclave) if self.enforced else "")
        if self.enforced and transport_has_security and not missing:
            return []
        advice = (
            "; so anyone on the network could command the robot. Set ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST, or "
            "enforce SROS2 (ROS_SECURITY_ENABLE=true, ROS_SECURITY_STRATEGY=Enforce, ROS_SECURITY_KEYSTORE=..., "
            "ROS_SECURITY_ENCLAVE_OVERRIDE=/foreact), or give --allow-network if the network is closed"
        )
        if self.security_enabled and not transport_has_security:
            advice += ". SROS2 is enabled, but this transport does not obey it; the rclpy node does"
        elif self.security_enabled and not self.security_enforced:
            advice += ". SROS2 is enabled, but not enforced"
        elif missing:
            advice += f". SROS2 is enforced, but {missing}"
        return [" and ".join(open_by) + advice]

    @property
    def enforced(self) -> bool:
        """Whether ROS 2 takes part with keys or not at all."""
        return self.security_enabled and self.security_enforced


def need_keys(arguments: Sequence[str], environ: Mapping[str, str] | None = None) -> None:
    """Ask before rclpy does, which says no more than `error not set`.

    Args:
        arguments: Command line, which may name the enclave.
        environ: Default: of this process.

    Raises:
        ConfigError: If SROS2 is enforced, and the keys for it are not there or for another domain.
    """
    env = os.environ if environ is None else environ
    if env.get("ROS_SECURITY_ENABLE") != "true" or env.get("ROS_SECURITY_STRATEGY") != "Enforce":
        return
    enclave = env.get("ROS_SECURITY_ENCLAVE_OVERRIDE", "") or enclave_of(arguments)
    if missing := missing_keys(env.get("ROS_SECURITY_KEYSTORE", ""), enclave, _domain(env.get("ROS_DOMAIN_ID", ""))):
        raise ConfigError(f"SROS2 is enforced (ROS_SECURITY_STRATEGY=Enforce), but {missing}")


def read_network(
    environ: Mapping[str, str] | None = None,
    *,
    unset: Range = Range.LOCALHOST,
    domain_id: int | None = None,
    arguments: Sequence[str] = (),
) -> NetworkScope:
    """Read the environment.

    Args:
        environ: Default: of this process.
        unset: What a range that is not set means: LOCALHOST for transports that are configured here, SUBNET for rclpy.
        domain_id: Instead of ROS_DOMAIN_ID.
        arguments: Command line, which may name the enclave.

    Raises:
        ConfigError: If a value is none that ROS 2 knows, or would be read by it as something else than it says.
    """
    env = os.environ if environ is None else environ
    scope = _choice(env, "ROS_AUTOMATIC_DISCOVERY_RANGE", [r.value for r in Range])
    only = _choice(env, "ROS_LOCALHOST_ONLY", ["0", "1"])  # deprecated in Jazzy, still wins where it is 1
    enable = _choice(env, "ROS_SECURITY_ENABLE", ["true", "false"])
    strategy = _choice(env, "ROS_SECURITY_STRATEGY", ["Enforce", "Permissive"])
    found = Range.LOCALHOST if only == "1" else Range(scope) if scope else unset
    keystore = env.get("ROS_SECURITY_KEYSTORE", "")
    if enable == "true" and keystore and not Path(keystore).is_dir():
        raise ConfigError(f"ROS_SECURITY_KEYSTORE is {keystore!r:.200}, which is not a folder; see `ros2 security`")
    peers = () if only == "1" else tuple(p.strip() for p in env.get("ROS_STATIC_PEERS", "").split(";") if p.strip())
    return NetworkScope(
        domain_id=_domain(env.get("ROS_DOMAIN_ID", "")) if domain_id is None else _domain(str(domain_id)),
        range=found,
        range_given=bool(scope or only == "1"),
        static_peers=peers,
        security_enabled=enable == "true",
        security_enforced=strategy == "Enforce",
        keystore=keystore,
        enclave=env.get("ROS_SECURITY_ENCLAVE_OVERRIDE", "") or enclave_of(arguments),
        beyond=tuple(_beyond(env.get("CYCLONEDDS_URI", ""))),
    )


def is_loopback(peer: str) -> bool:
    """Whether an address or a name can only be this machine."""
    try:
        return ipaddress.ip_address(peer.strip("[]")).is_loopback
    except ValueError:
        return peer.lower() == "localhost"


def cyclonedds_settings(uri: str) -> list[tuple[str, str]]:
    """The pieces of CYCLONEDDS_URI, each with where it comes from.

    Raises:
        ConfigError: If a file that it names cannot be read.
    """
    found = []
    for part in _parts(uri):
        if part.startswith("<"):
            found.append(("CYCLONEDDS_URI", part))
            continue
        path = Path(part.removeprefix("file://"))
        if not path.is_file() or path.stat().st_size > _MAX_URI_BYTES:
            raise ConfigError(f"CYCLONEDDS_URI names {part!r:.200}, which is no readable file of settings")
        found.append((f"CYCLONEDDS_URI ({path})", path.read_text(encoding="utf-8", errors="replace")))
    return found


def _choice(env: Mapping[str, str], name: str, known: list[str]) -> str:
    value = env.get(name, "")
    if value and value not in known:
        raise ConfigError(f"{name}={value!r:.60} is not a value that ROS 2 knows; {did_you_mean(value, known)}")
    return value


def _domain(text: str) -> int:
    if not text:
        return 0
    if not re.fullmatch(r"\d{1,3}", text) or int(text) > MAX_DOMAIN_ID:
        raise ConfigError(f"ROS_DOMAIN_ID={text!r:.40} is not a domain; expected 0 to {MAX_DOMAIN_ID}, best 0 to 101")
    return int(text)


def _beyond(uri: str) -> list[str]:
    """What CYCLONEDDS_URI, a list of files and pieces of XML, opens."""
    found = []
    for name, text in cyclonedds_settings(uri):
        for value in re.findall(r"<AllowMulticast>\s*([^<\s]*)\s*</AllowMulticast>", text, re.IGNORECASE):
            if value.lower() != "false":
                found.append(f"{name} allows multicast ({value:.20})")
        for peer in re.findall(r"<Peer\b[^>]*?\baddress\s*=\s*[\"']([^\"']*)[\"']", text, re.IGNORECASE):
            if not is_loopback(peer):
                found.append(f"{name} names the peer {peer:.60}")
        for interface in _interfaces(text):
            if interface != "lo" and not is_loopback(interface):
                found.append(f"{name} chooses the network interface {interface:.60}")
    return found


def _interfaces(text: str) -> list[str]:
    """Addresses and names of the interfaces that a piece of XML chooses, in both spellings that cyclonedds knows."""
    found = [value.strip() for value in re.findall(r"<NetworkInterfaceAddress>([^<]*)<", text, re.IGNORECASE)]
    for inside in re.findall(r"<NetworkInterface\b([^>]*)>", text, re.IGNORECASE):
        given = dict(re.findall(r"\b(address|name|autodetermine)\s*=\s*[\"']([^\"']*)[\"']", inside.lower()))
        found.append(given.get("address") or given.get("name") or "that it finds")
    return found


def _parts(uri: str) -> list[str]:
    """Split at commas that are not inside XML."""
    parts, depth, word = [], 0, ""
    for char in uri:
        depth += (char == "<") - (char == ">")
        if char == "," and depth == 0 and (not word.strip().startswith("<") or word.strip().endswith(">")):
            parts.append(word.strip())
            word = ""
        else:
            word += char
    return [part for part in (*parts, word.strip()) if part]
