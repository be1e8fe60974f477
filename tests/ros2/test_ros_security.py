"""S16: with the keys and permissions of launch/ros2/sros2/policy.xml one identity commands the arm, and nobody else.

Every intruder is a program of its own (intruder.py) and sends 100 commands; what the robot's side took is counted. That
the same program with the right keys, or without any security, is obeyed shows that it could have been.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy); see docs/ros2.md")
pytest.importorskip("sros2", reason="needs sros2 (ros2 security); see docs/ros2.md")

from foreact.robot_bridge.config import load_robot  # noqa: E402
from foreact.robot_bridge.network import read_network  # noqa: E402
from foreact.robot_bridge.ros_robot_side import RosRobotSide  # noqa: E402
from foreact.robot_bridge.ros_transport import RosTransport  # noqa: E402

pytestmark = [pytest.mark.ros, pytest.mark.skipif(not shutil.which("ros2"), reason="needs the command ros2")]

HERE = Path(__file__).parent
POLICY = HERE.parents[1] / "launch" / "ros2" / "sros2" / "policy.xml"
ROBOT = load_robot("desk_sim")
NAMES = ROBOT.topic_names()
MARK = 0.123
"""As in intruder.py."""
N = 100
SENSORS = [spec.role for spec in NAMES.specs() if spec.role == "joints" or spec.role.startswith("camera ")]
OFF = {"ROS_SECURITY_ENABLE": "false"}
_VARIABLES = ("ENABLE", "STRATEGY", "KEYSTORE", "ENCLAVE_OVERRIDE")


def keys(keystore: Path, enclave: str = "") -> dict[str, str]:
    """Variables of somebody who takes part with these keys or not at all."""
    return {
        "ROS_SECURITY_ENABLE": "true", "ROS_SECURITY_STRATEGY": "Enforce", "ROS_SECURITY_KEYSTORE": str(keystore),
        "ROS_SECURITY_ENCLAVE_OVERRIDE": enclave,
    }  # fmt: skip


def security(*words: str) -> None:
    """`ros2 security`."""
    done = subprocess.run(["ros2", "security", *words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def keystore(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The robot's, made as docs/ros2.md says."""
    folder = tmp_path_factory.mktemp("sros2") / "keys"
    security("generate_artifacts", "-k", str(folder), "-p", str(POLICY))
    return folder


@pytest.fixture(scope="module")
def stolen(keystore: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The operator's keys, with permissions that were not given to it."""
    folder = tmp_path_factory.mktemp("stolen") / "keys"
    shutil.copytree(keystore, folder, symlinks=True)
    enclaves = folder / "enclaves"
    shutil.copytree(enclaves / "operator", enclaves / "edited", symlinks=True)
    given = (enclaves / "edited" / "permissions.p7s").read_bytes()
    edited = given.replace(b"rt/foreact/instruction<", b"rt/joint_trajectory_controller/joint_trajectory<")
    assert edited != given
    (enclaves / "edited" / "permissions.p7s").write_bytes(edited)
    shutil.copytree(enclaves / "operator", enclaves / "borrowed", symlinks=True)
    shutil.copy(enclaves / "foreact" / "permissions.p7s", enclaves / "borrowed" / "permissions.p7s")
    return folder


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables of a program that does not check its own permissions."""
    prefixes = [Path(p) for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    real = next((p for prefix in prefixes for p in (prefix / "lib").glob("**/libdds_security_ac.so")), None)
    headers = sorted({str(h.parents[2]) for p in prefixes for h in p.glob("**/dds/security/dds_security_api.h")})
    if real is None or not headers or not shutil.which("cc"):
        pytest.skip("needs a C compiler and the headers of Cyclone DDS with security")
    folder = tmp_path_factory.mktemp("hostile")
    made = folder / "libdds_security_ac.so"
    subprocess.run(
        ["cc", "-shared", "-fPIC", f'-DREAL="{real}"', *(f"-I{h}" for h in headers), "-o", str(made),
         str(HERE / "hostile_access_control.c"), "-ldl"],
        check=True, timeout=120,
    )  # fmt: skip
    return {"LD_LIBRARY_PATH": f"{folder}:{os.environ.get('LD_LIBRARY_PATH', '')}"}


@pytest.fixture
def become(monkeypatch: pytest.MonkeyPatch) -> Callable[[Mapping[str, str]], None]:
    """What is made next in this process, or started by it, is somebody else."""

    def change(who: Mapping[str, str]) -> None:
        for name in _VARIABLES:
            monkeypatch.delenv(f"ROS_SECURITY_{name}", raising=False)
        for name, value in who.items():
            monkeypatch.setenv(name, value)

    return change


@pytest.fixture
def robot(become: Callable[..., None]) -> Iterator[Callable[..., tuple[RosRobotSide, list[Any]]]]:
    """Starts the robot's side as somebody, with what it takes."""
    opened: list[RosRobotSide] = []

    def make(who: Mapping[str, str]) -> tuple[RosRobotSide, list[Any]]:
        become(who)
        taken: list[Any] = []
        side = RosRobotSide(NAMES)
        opened.append(side)
        side.start(taken.append, taken.append, lambda role, text: taken.append((role, text)))
        return side, taken

    yield make
    for side in opened:
        side.close()


def intrude(who: Mapping[str, str], roles: str, n: int = N, patience_s: float = 3.0) -> dict[str, Any]:
    """What an intruder could do."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("ROS_SECURITY_")}
    command = [sys.executable, str(HERE / "intruder.py"), roles, str(n), str(patience_s)]
    done = subprocess.run(command, env={**env, **who}, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0 and done.stdout.startswith("{"), done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[0])
    print(who.get("ROS_SECURITY_ENCLAVE_OVERRIDE", ""), {k: found[k] for k in ("joined", "sent", "matched")})
    return found


def ros2(who: Mapping[str, str], *words: str) -> str:
    """What `ros2` says to somebody."""
    done = subprocess.run(["ros2", *words], env={**os.environ, **who}, capture_output=True, text=True, timeout=60)
    return done.stdout + done.stderr


@pytest.fixture
def intruders(
    keystore: Path, stolen: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> Callable[[str], dict[str, str]]:
    """Variables of each kind of intruder."""

    def make(kind: str) -> dict[str, str]:
        match kind:
            case "security off":
                return dict(OFF)
            case "no enclave":
                return keys(keystore)
            case "no enclave, permissive":
                return {**keys(keystore), "ROS_SECURITY_STRATEGY": "Permissive"}
            case "keys of its own":
                security("create_keystore", str(tmp_path / "own"))
                security("create_enclave", str(tmp_path / "own"), "/foreact")  # which may do everything
                return keys(tmp_path / "own", "/foreact")
            case "permissions edited":
                return keys(stolen, "/edited")
            case "permissions of the bridge":
                return keys(stolen, "/borrowed")
            case "the robot's keys" | "the operator's keys":
                return keys(keystore, "/" + kind.split("'")[0].removeprefix("the "))
            case _:  # the same with a program that does not keep to its permissions
                return {**make(kind.removesuffix(", hostile")), **request.getfixturevalue("hostile")}

    return make


# Whether it takes part in the domain at all; whether it sends.
KINDS = {
    "security off": (True, True), "no enclave": (False, False), "no enclave, permissive": (True, True),
    "keys of its own": (True, True), "permissions edited": (False, False), "permissions of the bridge": (False, False),
    "the robot's keys": (True, False), "the operator's keys": (True, False),
    "the robot's keys, hostile": (True, True), "the operator's keys, hostile": (True, True),
}  # fmt: skip


@pytest.mark.fault("S16", n=1000, event="commands to arm and gripper of ten kinds of intruder: none is taken")
@pytest.mark.parametrize("kind", KINDS)
def test_no_command_of_an_intruder_is_taken(
    kind: str, keystore: Path, robot: Callable[..., Any], intruders: Callable[[str], dict[str, str]],
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    joins, sends = KINDS[kind]
    side, taken = robot(keys(keystore, "/robot"))
    found = intrude(intruders(kind), "trajectory,gripper")
    assert taken == [], found
    assert found["joined"] is joins, found
    assert set(found["sent"].values()) == ({N} if sends else set()), found
    assert not any(found["matched"].values()), found
    if joins and not sends:
        assert set(found["refused"]) == {"trajectory", "gripper"}, found
    # the robot still listens, to the one, whatever program that loads
    loaded = request.getfixturevalue("hostile") if kind.endswith("hostile") else {}
    again = intrude({**keys(keystore, "/foreact"), **loaded}, "trajectory", n=20, patience_s=10.0)
    assert again["sent"] == {"trajectory": 20} and again["matched"] == {"trajectory": 1}, again
    assert taken and all(np.allclose(trajectory.position, MARK) for trajectory in taken)
    assert side.action is not None and side.action.counts["accepted"] == 0


@pytest.mark.fault("S16", n=300, event="FollowJointTrajectory goals of three kinds of intruder: none is accepted")
@pytest.mark.parametrize("kind", ["security off", "keys of its own", "the operator's keys, hostile"])
def test_no_goal_of_an_intruder_is_accepted(
    kind: str, keystore: Path, robot: Callable[..., Any], intruders: Callable[[str], dict[str, str]]
) -> None:
    side, taken = robot(keys(keystore, "/robot"))
    found = intrude(intruders(kind), "action")
    assert found["joined"] and found["sent"] == {"action": N} and not taken, found
    assert set(side.action.counts.values()) == {0} and not found["matched"].get("action"), (found, side.action.counts)
    intrude(keys(keystore, "/foreact"), "action", n=20, patience_s=10.0)
    assert side.action.counts["accepted"] > 0


@pytest.mark.parametrize("who", ["the bridge's keys", "nobody has any"])
def test_the_same_program_is_obeyed_where_it_may(who: str, keystore: Path, robot: Callable[..., Any]) -> None:
    """Were it not for the keys, the tests above would count messages."""
    secure = who == "the bridge's keys"
    _, taken = robot(keys(keystore, "/robot") if secure else OFF)
    found = intrude(keys(keystore, "/foreact") if secure else OFF, "trajectory", patience_s=10.0)
    assert found["sent"] == {"trajectory": N} and found["matched"] == {"trajectory": 1}
    assert len(taken) >= 0.8 * N, len(taken)  # depth 1: on a busy machine one may replace another
    print("taken", len(taken))


class Box:
    """An `Inbox` that counts."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def count(*_: Any) -> tuple[bool, str]:
            self.counts[name] += 1
            return True, ""

        return count


@pytest.fixture
def bridges_side(keystore: Path, become: Callable[..., None]) -> Iterator[tuple[RosTransport, Box]]:
    """The bridge's way to the robot, in this process, with the bridge's keys."""
    from rclpy.executors import MultiThreadedExecutor
    from rclpy.signals import SignalHandlerOptions

    become(keys(keystore, "/foreact"))
    context, box = rclpy.Context(), Box()
    inbox: Any = box
    rclpy.init(args=[], context=context, signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node("foreact", context=context)
    executor = MultiThreadedExecutor(num_threads=2, context=context)
    executor.add_node(node)
    way = RosTransport(node, NAMES, ROBOT.arm())
    way.start(inbox)
    yield way, box
    way.close()
    executor.shutdown(timeout_sec=2.0)
    node.destroy_node()
    context.try_shutdown()


@pytest.mark.fault("S16", n=900, event="pictures and joints of four kinds of intruder: the bridge takes none")
@pytest.mark.parametrize(
    "kind", ["security off", "keys of its own", "the operator's keys", "the operator's keys, hostile"]
)
def test_no_picture_of_an_intruder_is_taken(
    kind: str, keystore: Path, bridges_side: tuple[RosTransport, Box], intruders: Callable[[str], dict[str, str]]
) -> None:
    way, box = bridges_side
    found = intrude(intruders(kind), ",".join(SENSORS))
    assert found["joined"] and sum(found["sent"].values()) == (0 if kind == "the operator's keys" else 3 * N), found
    assert not box.counts and not way._counts, (box.counts, found)
    intrude(keys(keystore, "/robot"), ",".join(SENSORS), n=50, patience_s=10.0)
    print("of the robot", dict(box.counts), dict(way._counts))
    assert box.counts["joints"] > 10 and box.counts["frame"] > 10 and not box.counts["bad_message"]


@pytest.mark.fault("S16", n=1, event="intruders beside a bridge that moves the arm, in the range SUBNET")
@pytest.mark.timeout(400)
def test_the_bridge_moves_the_arm_and_nobody_else_does(
    keystore: Path, become: Callable[..., None], make_arm: Callable[..., Any], start: Callable[..., Any],
    bridge: Callable[..., Any], robot_file: Callable[..., str], wait_until: Callable[..., float],
    intruders: Callable[[str], dict[str, str]], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The whole node, in the range SUBNET, where it is only armed because SROS2 is enforced; a person with `ros2`."""
    operator = keys(keystore, "/operator")
    become(keys(keystore, "/robot"))
    arm = make_arm("robot_sim")
    become(keys(keystore, "/foreact"))
    words = ["/foreact/state", "std_msgs/msg/String", "--qos-durability", "transient_local", "--full-length"]
    heard = start(["ros2", "topic", "echo", *words, "--field", "data"], {**os.environ, **operator})
    with monkeypatch.context() as wide:
        wide.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET")
        assert read_network().refusals(transport_has_security=True) == []
        node = bridge(robot=robot_file(), speed_scale=0.5)
    wait_until(lambda: "unconfigured" in ros2(operator, "lifecycle", "get", "/foreact"), 60.0, lambda: node.text)
    for step in ("configure", "activate"):
        assert "successful" in (said := ros2(operator, "lifecycle", "set", "/foreact", step)), said + node.text
    armed = ("service", "call", "/foreact/arm", "std_srvs/srv/Trigger")
    wait_until(lambda: "success=True" in ros2(operator, *armed), 40.0, lambda: node.text)
    words = ["--qos-durability", "transient_local", "/foreact/instruction", "std_msgs/msg/String"]
    start(["ros2", "topic", "pub", "--once", "--keep-alive", "120", *words, "data: open the drawer"],
          {**os.environ, **operator})  # fmt: skip
    wait_until(lambda: len(arm.trajectories) > 50, 60.0, lambda: node.text)
    for kind in ("security off", "keys of its own"):
        before = len(arm.trajectories)
        found = intrude(intruders(kind), ",".join(("trajectory", *SENSORS)), patience_s=1.0)
        assert set(found["sent"].values()) == {N} and not any(found["matched"].values()), found
        assert len(arm.trajectories) > before + 50, node.text
    assert not any(np.allclose(t.position, MARK) for t in arm.trajectories) and not arm.bad
    assert np.abs(arm.q - np.array(arm.START)).max() > 0.01
    states = [json.loads(line)["state"] for line in heard.text.splitlines() if line.startswith("{")]
    print(len(arm.trajectories), Counter(states))
    assert "running" in states and "fault" not in states, (states, node.text)
    assert "success=True" in ros2(operator, "service", "call", "/foreact/stop", "std_srvs/srv/Trigger")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ROS_SECURITY_ENCLAVE_OVERRIDE": "/nobody"}, "no enclave '/nobody' in the keystore"),
        ({"ROS_SECURITY_ENCLAVE_OVERRIDE": ""}, "no enclave is named"),
        ({"ROS_SECURITY_KEYSTORE": ""}, "ROS_SECURITY_KEYSTORE is not set"),
        ({"ROS_DOMAIN_ID": "19"}, "is not for domain 19"),
    ],
)
def test_a_node_without_keys_says_what_is_missing(
    keystore: Path, start: Callable[..., Any], wait_until: Callable[..., float], change: dict[str, str], words: str
) -> None:
    env = {**os.environ, **keys(keystore, "/foreact"), **change}
    node = start([sys.executable, "-m", "foreact.robot_bridge.ros_node"], env)
    wait_until(lambda: node.process.poll() is not None, 30.0, lambda: node.text)
    node.end()
    assert node.process.returncode == 1 and words in node.text and "Traceback" not in node.text, node.text


def test_operators_commands_of_ros2(
    keystore: Path, start: Callable[..., Any], wait_until: Callable[..., float]
) -> None:
    """`ros2 service`, `ros2 lifecycle` and `ros2 topic` with the operator's keys; with none, they hear of no node."""
    assert importlib.util.find_spec("ros2service") and importlib.util.find_spec("ros2lifecycle")
    arguments = [sys.executable, "-m", "foreact.robot_bridge.ros_node", "--ros-args", "--enclave", "/foreact"]
    node = start(arguments, {**os.environ, **keys(keystore)})

    operator = keys(keystore, "/operator")
    wait_until(lambda: "unconfigured" in ros2(operator, "lifecycle", "get", "/foreact"), 60.0, lambda: node.text)
    assert "not active, so it cannot arm" in ros2(operator, "service", "call", "/foreact/arm", "std_srvs/srv/Trigger")
    said = ros2(operator, "topic", "pub", "--once", "-w", "0", "/foreact/instruction", "std_msgs/msg/String", "data: x")
    assert "publishing #1" in said and "rror" not in said, said
    # security off: what its own daemon, or no daemon, could find
    assert "/foreact" not in ros2(OFF, "node", "list", "--no-daemon", "--spin-time", "3")
    assert "/foreact" in ros2(operator, "node", "list", "--no-daemon", "--spin-time", "3")
