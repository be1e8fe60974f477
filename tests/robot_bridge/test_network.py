"""S15: over which networks the robot may be armed, for environments right, wrong and misspelt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from foreact.robot_bridge.keystore import enclave_of, missing_keys
from foreact.robot_bridge.network import Range, is_loopback, need_keys, read_network
from foreact.vla.errors import ConfigError

RANGE, SECURE, STRATEGY = "ROS_AUTOMATIC_DISCOVERY_RANGE", "ROS_SECURITY_ENABLE", "ROS_SECURITY_STRATEGY"
KEYS, ENCLAVE = "ROS_SECURITY_KEYSTORE", "ROS_SECURITY_ENCLAVE_OVERRIDE"
ENFORCED = {SECURE: "true", STRATEGY: "Enforce", ENCLAVE: "/foreact"}


SIGNED = """MIME-Version: 1.0

<dds><domains><id>{domain}</id></domains>
<allow_unauthenticated_participants>{strangers}</allow_unauthenticated_participants>
<enable_join_access_control>true</enable_join_access_control>
<enable_write_access_control>{write}</enable_write_access_control></dds>
"""


def make_keystore(folder: Path, domain: int = 0, strangers: str = "false", write: str = "true") -> str:
    """The files of `ros2 security generate_artifacts`, as far as they are looked at; tests/ros2 has real ones."""
    enclave = folder / "enclaves" / "foreact"
    enclave.mkdir(parents=True)
    for name in ("identity_ca.cert.pem", "permissions_ca.cert.pem", "cert.pem", "key.pem"):
        (enclave / name).write_text("")
    for name in ("governance.p7s", "permissions.p7s"):
        (enclave / name).write_text(SIGNED.format(domain=domain, strangers=strangers, write=write))
    return str(folder)


@pytest.fixture
def keystore(tmp_path: Path) -> str:
    return make_keystore(tmp_path)


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
    "subnet, enforced, no enclave": ({RANGE: "SUBNET", **ENFORCED, KEYS: "KEYSTORE", ENCLAVE: ""},
                                     Range.SUBNET, True, False),
    "subnet, enforced, another enclave": ({RANGE: "SUBNET", **ENFORCED, KEYS: "KEYSTORE", ENCLAVE: "/robot"},
                                          Range.SUBNET, True, False),
    "subnet, enforced, another domain": ({RANGE: "SUBNET", **ENFORCED, KEYS: "KEYSTORE", "ROS_DOMAIN_ID": "77"},
                                         Range.SUBNET, True, False),
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
    "another interface by settings": (
        {"CYCLONEDDS_URI": "<Interfaces><NetworkInterface name='eth0' priority='1'/></Interfaces>"},
        Range.LOCALHOST, False, False,
    ),
    "an interface that is found": (
        {"CYCLONEDDS_URI": "<networkinterface autodetermine='true'/>"}, Range.LOCALHOST, False, False,
    ),
    "another interface, as it was spelt": (
        {"CYCLONEDDS_URI": "<NetworkInterfaceAddress>192.168.1.4</NetworkInterfaceAddress>"},
        Range.LOCALHOST, False, False,
    ),
    "this machine's interface": (
        {"CYCLONEDDS_URI": "<NetworkInterface Name='lo'/>,<NetworkInterface address=\"127.0.0.1\" />"},
        Range.LOCALHOST, False, True,
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


def test_enforced_needs_keys_that_are_there(tmp_path: Path) -> None:
    keys = make_keystore(tmp_path / "keys", domain=7)
    env = {RANGE: "SUBNET", "ROS_DOMAIN_ID": "7", **ENFORCED, KEYS: keys}

    def says(words: str, **changes: str) -> None:
        found = {**env, **changes}
        with pytest.raises(ConfigError, match=words) as caught:
            need_keys([], found)
        if Path(found[KEYS]).is_dir():
            sentence = str(caught.value).partition("but ")[2]
            assert sentence in read_network(found).refusals(transport_has_security=True)[0]

    need_keys([], env)
    need_keys([], {**env, SECURE: "false", KEYS: "/no/such"})
    need_keys([], {**env, STRATEGY: "Permissive", KEYS: "/no/such"})
    need_keys(["node", "--ros-args", "-r", "a:=b", "--enclave", "/foreact"], {**env, ENCLAVE: ""})
    assert enclave_of(["-e", "/x", "--ros-args", "-e", "/y", "--", "-e", "/z"]) == "/y" and enclave_of([]) == "/"
    says("is not set", **{KEYS: ""})
    says("no keystore", **{KEYS: str(tmp_path)})
    says("no enclave is named .* known: /foreact. Set ROS_SECURITY_ENCLAVE_OVERRIDE", **{ENCLAVE: ""})
    says("no enclave '/foreect'.* did you mean '/foreact'", **{ENCLAVE: "/foreect"})
    says("must begin with a slash", **{ENCLAVE: "foreact"})
    says("governance.p7s .* is not for domain 8: .* make them anew with ROS_DOMAIN_ID=8", ROS_DOMAIN_ID="8")
    (Path(keys) / "enclaves" / "foreact" / "key.pem").unlink()
    says("has no key.pem that can be read")
    (Path(keys) / "enclaves" / "foreact" / "key.p11").write_text("pkcs11:x")
    (Path(keys) / "enclaves" / "foreact" / "permissions.p7s").unlink()
    says("has no permissions.p7s")
    (Path(keys) / "enclaves" / "foreact" / "permissions.p7s").symlink_to("gone")
    says("has no permissions.p7s")


@pytest.mark.parametrize("change", [{"strangers": "true"}, {"strangers": "1"}, {"write": "false"}])
def test_a_governance_that_lets_strangers_in_is_no_closed_network(tmp_path: Path, change: dict[str, Any]) -> None:
    env = {RANGE: "SUBNET", **ENFORCED, KEYS: make_keystore(tmp_path, **change)}
    need_keys([], env)
    assert "governance.p7s" in read_network(env).refusals(transport_has_security=True)[0]


def test_ranges_of_domains(tmp_path: Path) -> None:
    keys = make_keystore(tmp_path)
    text = "<domains><id_range><min>5</min><max>9</max></id_range></domains>"
    for name in ("governance.p7s", "permissions.p7s"):
        (tmp_path / "enclaves" / "foreact" / name).write_text(text)
    assert missing_keys(keys, "/foreact", 9) == missing_keys(keys, "/foreact", 5) == ""
    assert "domain 10" in missing_keys(keys, "/foreact", 10) and "domain 4" in missing_keys(keys, "/foreact", 4)


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
