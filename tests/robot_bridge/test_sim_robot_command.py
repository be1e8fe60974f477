"""`foreact robot sim` as a process of its own: DDS topics on one side, JSON on the other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import typer

from foreact.commands.robot_sim import sim
from foreact.robot_bridge.network import read_network
from foreact.robot_bridge.topic_names import make_topics
from foreact.robot_bridge.types import CameraFrame, JointSample, RobotMode, Trajectory
from foreact.sim.robot_body import DeskBody
from foreact.vla.errors import ConfigError, ForeActError

pytest.importorskip("cyclonedds", reason="needs pip's cyclonedds: pip install '.[robot]'")

ROOT = Path(__file__).resolve().parents[2]
DOMAIN = 90 + os.getpid() % 10
CAMERAS = (("rgb_static", 200, 200), ("rgb_gripper", 84, 84))
FINGERS = ("panda_finger_joint1", "panda_finger_joint2")


class Seen:
    """The bridge's end: an `Inbox` that keeps the newest of all."""

    def __init__(self) -> None:
        self.cameras: dict[str, CameraFrame] = {}
        self.sample: JointSample | None = None
        self.modes: list[RobotMode] = []

    def frame(self, frame: CameraFrame) -> None:
        self.cameras[frame.camera] = frame

    def joints(self, sample: JointSample) -> None:
        self.sample = sample

    def mode(self, mode: RobotMode, received_s: float) -> None:
        self.modes.append(mode)

    def instruction(self, text: str, received_s: float) -> None: ...

    def description(self, urdf: str) -> None: ...

    def bad_message(self, role: str, message: str, received_s: float) -> None:
        raise AssertionError(f"{role}: {message}")

    def command(self, name: str, value: bool) -> tuple[bool, str]:
        return False, ""


@pytest.fixture
def process() -> Iterator[subprocess.Popen[str]]:
    """The simulated robot; killed if a test leaves it."""
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    program = "import typer; from foreact.commands.robot_sim import sim; typer.run(sim)"
    options = ["--control", "--domain-id", str(DOMAIN), "--task", "open_drawer", "--start", "1"]
    with subprocess.Popen(
        [sys.executable, "-c", program, *options],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env,
    ) as child:  # fmt: skip
        yield child
        child.kill()


def ask(child: subprocess.Popen[str], **request) -> dict:
    assert child.stdin is not None and child.stdout is not None
    child.stdin.write(json.dumps(request) + "\n")
    child.stdin.flush()
    return json.loads(child.stdout.readline())


def wait_for(what, seconds: float = 20.0):
    """The first true value of `what()`."""
    end_s = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end_s, "it did not happen"
        time.sleep(0.01)
    return found


def test_a_robot_is_there_obeys_over_dds_and_is_controlled_by_json(process: subprocess.Popen[str]) -> None:
    from foreact.robot_bridge.dds_transport import DdsTransport

    assert process.stdout is not None and process.stdin is not None
    ready = json.loads(process.stdout.readline())
    assert ready["event"] == "ready"
    assert ready["cameras"] == [name for name, *_ in CAMERAS]
    names = make_topics({}, CAMERAS, ready["joints"], FINGERS)
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    transport, seen = DdsTransport(names, read_network(domain_id=DOMAIN)), Seen()
    transport.start(seen)  # type: ignore[arg-type]
    try:
        wait_for(lambda: len(seen.cameras) == 2 and seen.sample and seen.modes)
        assert seen.cameras["rgb_static"].image.shape == (200, 200, 3)
        assert seen.sample is not None
        assert abs(seen.sample.stamp_s - time.time()) < 5.0
        start = DeskBody("D", render=False).draw_start("open_drawer", 1)
        np.testing.assert_allclose(seen.sample.position, start.robot_obs[7:14], atol=1e-3)
        goal = seen.sample.position + 0.05
        still = np.zeros((1, 7))

        def there() -> bool:
            assert seen.sample is not None
            return bool(np.abs(seen.sample.position - goal).max() < 2e-3)

        transport.send_trajectory(
            Trajectory(
                start_s=time.monotonic(), time_from_start_s=np.array([0.4]), position=goal[None], velocity=still,
                acceleration=still,
            )
        )  # fmt: skip
        wait_for(there)
        status = ask(process, do="status", id=5)
        assert (status["id"], status["mode"], status["judgement"]["task"]) == (5, "ok", "open_drawer")
        assert status["controller"] == {"accepted": 1}
        assert status["alarms"] == []
        assert ask(process, do="mode", mode="emergency_stop")["ok"]
        wait_for(lambda: seen.modes[-1] is RobotMode.EMERGENCY_STOP)
        reset = ask(process, do="reset", task="turn_on_led", start=0)
        assert (reset["ok"], reset["task"], reset["done"]) == (True, "turn_on_led", False)
    finally:
        transport.close()
    process.stdin.close()
    assert process.wait(timeout=20) == 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"transport": "ddds"}, "dds"),
        ({"realtime_factor": 0.0}, "realtime-factor"),
        ({"robot": "desk_simm"}, "desk_sim"),
        ({"scene": "E"}, "A, B, C, D"),
        ({"task": "open_drawerr"}, "open_drawer"),
    ],
)
def test_wrong_options_are_explained(settings: dict, words: str) -> None:
    with pytest.raises(ForeActError, match=words):
        sim(**{**DEFAULTS, **settings})


def test_no_window_without_a_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    if sys.platform == "linux":
        with pytest.raises(ForeActError, match="--view needs a display"):
            sim(**{**DEFAULTS, "view": True})


def test_a_robot_with_other_joints_than_the_desks_is_refused(tmp_path: Path) -> None:
    text = (ROOT / "robot_bridge" / "robots" / "desk_sim.yaml").read_text().replace("limits: panda", "limits: ur5e")
    path = tmp_path / "other.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match="shoulder_pan_joint"):
        sim(**{**DEFAULTS, "robot": str(path)})


DEFAULTS: dict = {
    "robot": "desk_sim", "scene": "D", "task": "", "start": 0, "seed": 0, "transport": "dds", "domain_id": DOMAIN,
    "realtime_factor": 1.0, "view": False, "cameras": False, "control": False, "seconds": 0.5, "cmd_timeout_s": 0.0,
}  # fmt: skip


def test_it_ends_after_the_seconds_it_was_given(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended:
        sim(**DEFAULTS)
    assert ended.value.exit_code == 0
    assert "late ticks" in capsys.readouterr().out
