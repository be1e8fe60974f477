"""The ament package: built by colcon, started by `ros2 launch`, seen by ROS 2's own tools."""

# pyright: reportMissingImports=false
from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy); see docs/ros2.md")

from std_msgs.msg import String

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.ros,
    pytest.mark.skipif(not (shutil.which("colcon") and shutil.which("ros2")), reason="needs colcon and ros2"),
]


@pytest.fixture(scope="module")
def sourced(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a shell that has sourced the built package."""
    folder = tmp_path_factory.mktemp("ws")
    built = subprocess.run(
        ["colcon", "build", "--base-paths", str(ROOT / "launch" / "ros2"), "--event-handlers", "console_direct+"],
        cwd=folder, capture_output=True, text=True, timeout=170,
    )  # fmt: skip
    assert built.returncode == 0, built.stdout + built.stderr
    found = subprocess.run(
        ["bash", "-c", '. "$1/install/local_setup.bash" && env -0', "bash", str(folder)],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    env = dict(line.split("=", 1) for line in found.stdout.split("\0") if "=" in line)
    return {**env, "FOREACT_POLICY_PYTHONPATH": str(ROOT / "src")}


def bridges() -> dict[int, dict[str, str]]:
    """Process -> environment of every bridge that runs here."""
    found = {}
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and b"lib/foreact_ros/bridge" in (process / "cmdline").read_bytes():
                pairs = (process / "environ").read_bytes().decode(errors="replace").split("\0")
                found[int(process.name)] = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
        except OSError:
            continue
    return found


def test_it_is_an_ament_package(sourced: dict[str, str]) -> None:
    def ros2(*words: str) -> str:
        found = subprocess.run(["ros2", *words], env=sourced, capture_output=True, text=True, timeout=60)
        assert found.returncode == 0, found
        return found.stdout

    assert ros2("pkg", "executables", "foreact_ros").split() == ["foreact_ros", "bridge"]
    share = Path(ros2("pkg", "prefix", "--share", "foreact_ros").strip())
    assert {p.name for p in share.rglob("*.launch.py")} == {"bridge.launch.py", "desk_demo.launch.py"}
    assert (share / "config" / "bridge.yaml").is_file() and (share / "sros2" / "policy.xml").is_file()
    assert "'domain_id'" in ros2("launch", "foreact_ros", "bridge.launch.py", "--show-args")


def test_its_parameter_file_has_every_parameter() -> None:
    import yaml

    from foreact.robot_bridge.ros_parameters import SETTINGS

    found = yaml.safe_load((ROOT / "launch" / "ros2" / "config" / "bridge.yaml").read_text())["/**"]["ros__parameters"]
    assert found == {setting.name: setting.default for setting in SETTINGS}


@pytest.mark.fault("S15", n=1, event="ros2 launch from a shell that is open to the network")
def test_launch_keeps_to_this_computer_and_a_domain_of_its_own(
    sourced: dict[str, str], start: Callable[..., Any], wait_until: Callable[..., float]
) -> None:
    open_shell = {**sourced, "ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET", "ROS_DOMAIN_ID": "0"}
    before = set(bridges())
    launch = start(["ros2", "launch", "foreact_ros", "bridge.launch.py", "configure:=false"], open_shell)
    wait_until(lambda: set(bridges()) - before, 20.0, lambda: launch.text)
    pid = (set(bridges()) - before).pop()
    environment = bridges()[pid]
    assert environment["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST" and environment["ROS_DOMAIN_ID"] == "77"
    time.sleep(3.0)
    assert launch.end() == 0, launch.text
    assert "process has finished cleanly" in launch.text and pid not in bridges(), launch.text


def test_the_demo_under_ros2_launch(
    ros: Any, sourced: Mapping[str, str], start: Callable[..., Any], wait_until: Callable[..., float],
    robot_file: Callable[..., str], policy_python: list[str],
) -> None:  # fmt: skip
    """Simulated desk, policy server and bridge as three processes; seen by `ros2 topic echo` and called by
    `ros2 service call`."""
    launch = start(
        ["ros2", "launch", "foreact_ros", "desk_demo.launch.py", f"robot:={robot_file()}", f"port:={_port()}",
         f"checkpoint:={ROOT / 'checkpoints' / 'foreact_desk'}", f"policy_python:={policy_python[0]}",
         f"domain_id:={os.environ['ROS_DOMAIN_ID']}"],
        {**sourced, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip

    def ros2(*words: str, timeout_s: float = 60.0) -> str:
        found = subprocess.run(["ros2", *words], env=dict(sourced), capture_output=True, text=True, timeout=timeout_s)
        assert found.returncode == 0, (found, launch.text)
        return found.stdout + found.stderr

    states = ros.listen(String, "/foreact/state", durability=1)
    ended = launch.process.poll
    wait_until(lambda: "active and disarmed;" in launch.text or ended() is not None, 120.0, lambda: launch.text)
    assert ended() is None, launch.text
    said = ""
    for _ in range(10):
        said = ros2("service", "call", "/foreact/arm", "std_srvs/srv/Trigger")
        if "success=True" in said:
            break
    assert "success=True" in said, (said, launch.text)
    ros.say("open the drawer")
    wait_until(lambda: any('"running"' in message.data for _, message in states), 30.0, lambda: launch.text)
    echoed = ros2("topic", "echo", "--once", "/foreact/foresight/rgb_static/compressed", "--field", "format")
    assert "jpeg" in echoed
    echoed = ros2("topic", "echo", "--once", "/diagnostics")
    assert ": gate" in echoed and ": camera rgb_static" in echoed and "speed_scale" in echoed
    assert ros2("lifecycle", "get", "/foreact").startswith("active")
    assert "sensor_msgs/msg/Image" in ros2("topic", "type", "/rgb_static/image_raw")
    assert "cannot be changed" in ros2("param", "set", "/foreact", "speed_scale", "1.0")
    assert float(ros2("param", "get", "/foreact", "speed_scale").split()[-1]) == 0.0
    assert launch.end(timeout_s=60.0) in (0, 1), launch.text
    assert not bridges(), launch.text


def _port() -> str:
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def test_ros2_run_without_foreact_is_a_sentence(sourced: Mapping[str, str], tmp_path: Path) -> None:
    without = ":".join(part for part in sourced["PYTHONPATH"].split(":") if part != str(ROOT / "src"))
    probe = [sys.executable, "-c", "import foreact"]
    if subprocess.run(probe, env={**sourced, "PYTHONPATH": without}, cwd=tmp_path, capture_output=True).returncode == 0:
        pytest.skip("foreact is installed for this Python")
    found = subprocess.run(
        ["ros2", "run", "foreact_ros", "bridge"], env={**sourced, "PYTHONPATH": without}, cwd=tmp_path,
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert found.returncode != 0 and "pip install '.[robot]'" in found.stderr and "Traceback" not in found.stderr
