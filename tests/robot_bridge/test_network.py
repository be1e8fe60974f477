"""S15: over which networks the robot may be armed, for environments right, wrong and misspelt."""

from __future__ import annotations

from pathlib import Path

import pytest

from foreact.robot_bridge.network import Range, is_loopback, read_network
from foreact.vla.errors import ConfigError

RANGE, SECURE, STRATEGY = "ROS_AUTOMATIC_DISCOVERY_RANGE", "ROS_SECURITY_ENABLE", "ROS_SECURITY_STRATEGY"
KEYS = "ROS_SECURITY_KEYSTORE"
ENFORCED = {SECURE: "true", STRATEGY: "Enforce"}


@pytest.fixture
def keystore(tmp_path: Path) -> str:
    return str(tmp_path)


# What the environment says; what silence about the range means; whether the transport obeys SROS2; whether it arms.
MATRIX: dict[str, tuple[dict[str, str], Range, bool, bool]] = {
    "silent, own transport": ({}, Range.LOCALHOST, False, True),
    "silent, rclpy": ({}, Range.SUBNET, True, False),
    "localhost": ({RANGE: "LOCALHOST"}, Range.SUBNET, True, True),
    "off": ({RANGE: "OFF"}, Range.SUBNET, True, True),
    "subnet": ({RANGE: "SUBNET"}, Range.LOCALHOST, False, False),
    "left to the middleware": ({RANGE: "SYSTEM_DEFAULT"}, Range.LOCALHOST, False, False),
    "subnet, deprecated localhost wins": ({RANGE: "SUBNET", "ROS_LOCALHOST_ONLY": "1"}, Range.SUBNET, True, True),
    "deprecated localhost off": ({"ROS_LOCALHOST_ONLY": "0"}, Range.SUBNET, True, False),
    "subnet, enforced": ({RANGE: "SUBNET", **ENFORCED, KEYS: "KEYSTORE"}, Range.SUBNET, True, True),
    "subnet, enforced, transport without": ({RANGE: "SUBNET", **ENFORCED, KEYS: "KEYSTORE"},
                                            Range.SUBNET, False, False),
    "subnet, enforced, no keys": ({RANGE: "SUBNET", **ENFORCED}, Range.SUBNET, True, False),
    "subnet, permissive": ({RANGE: "SUBNET", SECURE: "true", STRATEGY: "Permissive", KEYS: "KEYSTORE"},
                           Range.SUBNET, True, False),
    "subnet, enabled, no strategy": ({RANGE: "SUBNET", SECURE: "true", KEYS: "KEYSTORE"}, Range.SUBNET, True, False),
    "subnet, strategy without enable": ({RANGE: "SUBNET", STRATEGY: "Enforce", KEYS: "KEYSTORE"},
                                        Range.SUBNET, True, False),
    "localhost, distant peer": ({RANGE: "LOCALHOST", "ROS_STATIC_PEERS": "10.0.0.7"}, Range.SUBNET, True, False),
    "localhost, near peers": ({RANGE: "LOCALHOST", "ROS_STATIC_PEERS": "127.0.0.1;localhost"},
                              Range.SUBNET, True, True),
    "multicast by settings": (
        {"CYCLONEDDS_URI": "<General><AllowMulticast>spdp</AllowMulticast></General>"}, Range.LOCALHOST, False, False,
    ),
    "distant peer by settings": (
        {"CYCLONEDDS_URI": "<Peers><Peer Address='robot.lan'/></Peers>"}, Range.LOCALHOST, False, False,
    ),
    "harmless settings": (
        {"CYCLONEDDS_URI": "<General><AllowMulticast>false</AllowMulticast></General>,"}, Range.LOCALHOST, False, True,
    ),
}  # fmt: skip


@pytest.mark.fault("S15", n=len(MATRIX), event="discovery range and SROS2 settings")
@pytest.mark.parametrize("name", MATRIX)
def test_arming_depends_on_who_could_command(name: str, keystore: str) -> None:
    env, unset, secure, arms = MATRIX[name]
    env = {key: value.replace("KEYSTORE", keystore) for key, value in env.items()}
    refusals = read_network(env, unset=unset).refusals(transport_has_security=secure)
    assert (refusals == []) is arms
    if not arms:
        assert "could command the robot" in refusals[0] and "--allow-network" in refusals[0]
        assert read_network(env, unset=unset).refusals(transport_has_security=secure, allow_network=True) == []


@pytest.mark.fault("S15", n=14, event="misspelt values, which ROS 2 takes for something else")
@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({RANGE: "localhost"}, "known: LOCALHOST"), ({RANGE: "LOCAL_HOST"}, "did you mean 'LOCALHOST'"),
         ({RANGE: "SUBNETS"}, "SUBNET"),
        ({RANGE: " LOCALHOST"}, "LOCALHOST"), ({"ROS_LOCALHOST_ONLY": "true"}, "known: 0, 1"),
        ({SECURE: "True"}, "'true'"), ({SECURE: "1"}, "known: false, true"), ({STRATEGY: "enforce"}, "'Enforce'"),
        ({STRATEGY: "ENFORCE"}, "Enforce"), ({SECURE: "true", KEYS: "/no/such/keys"}, "not a folder"),
        ({"ROS_DOMAIN_ID": "seven"}, "not a domain"), ({"ROS_DOMAIN_ID": "233"}, "0 to 232"),
        ({"ROS_DOMAIN_ID": "-1"}, "not a domain"), ({"CYCLONEDDS_URI": "file:///no/such.xml"}, "no readable file"),
    ],
)  # fmt: skip
def test_misspelt_values_are_errors(env: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read_network(env)


def test_a_file_of_settings_is_read(tmp_path: Path) -> None:
    file = tmp_path / "cyclone.xml"
    peers = '<Peers><Peer address="10.1.2.3"/></Peers>'
    file.write_text(f"<CycloneDDS><Domain><Discovery>{peers}</Discovery></Domain></CycloneDDS>")
    found = read_network({"CYCLONEDDS_URI": f"<A>,</A>,file://{file}"})
    assert len(found.beyond) == 1 and "10.1.2.3" in found.beyond[0] and "cyclone.xml" in found.beyond[0]


def test_domain_and_reasons_in_words() -> None:
    assert read_network({"ROS_DOMAIN_ID": "42"}).domain_id == 42
    assert read_network({"ROS_DOMAIN_ID": "42"}, domain_id=7).domain_id == 7
    silent = read_network({}, unset=Range.SUBNET)
    assert "is not set, which means SUBNET" in silent.refusals()[0]
    both = read_network({RANGE: "SUBNET", "ROS_STATIC_PEERS": "10.0.0.7", SECURE: "true"})
    text = both.refusals()[0]
    assert "is SUBNET and ROS_STATIC_PEERS names 10.0.0.7" in text and "does not obey" in text
    assert "not enforced" in both.refusals(transport_has_security=True)[0]


def test_loopback_addresses() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost", "LOCALHOST")))
    assert not any(map(is_loopback, ("10.0.0.1", "localhost.evil.org", "0.0.0.0", "robot", "")))
