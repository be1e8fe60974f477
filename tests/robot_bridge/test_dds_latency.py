"""How long a VGA picture takes from one process to another, and that none of the bridge's threads starve meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from foreact.robot_bridge.network import NetworkScope
from foreact.robot_bridge.topic_names import make_topics

pytest.importorskip("cyclonedds", reason="needs cyclonedds: pip install '.[robot]'")

from foreact.robot_bridge.dds_transport import DdsTransport

DOMAIN = 103 + os.getpid() % 100
ROBOT = """
import sys, time
import numpy as np
from foreact.robot_bridge.dds_transport import DdsRobotSide
from foreact.robot_bridge.network import NetworkScope
from foreact.robot_bridge.topic_names import TopicNames
names = TopicNames.model_validate_json(sys.argv[1])
side = DdsRobotSide(names, NetworkScope(domain_id=int(sys.argv[2])))
side.start(lambda t: None, lambda g: None)
camera = names.cameras["front"]
# Smooth, as pictures of a scene are, with a little noise.
rows, columns = np.mgrid[: camera.height, : camera.width]
image = np.stack([rows // 4, columns // 4, (rows + columns) // 8], axis=2).astype(np.uint8)
image[::7, ::5] += np.random.default_rng(0).integers(0, 9, image[::7, ::5].shape).astype(np.uint8)
due = time.monotonic() + 1.0
for n in range(int(sys.argv[3])):
    time.sleep(max(0.0, due - time.monotonic()))
    due += 1 / 30
    side.publish_frame("front", image, time.time())
time.sleep(0.5)
side.close()
"""


class Box:
    def __init__(self) -> None:
        self.delays: list[float] = []
        self.bad: list[str] = []

    def frame(self, frame: object) -> None:
        self.delays.append(time.time() - frame.stamp_s)  # type: ignore[attr-defined]

    def bad_message(self, role: str, message: str, received_s: float) -> None:
        self.bad.append(message)

    def __getattr__(self, name: str) -> object:
        return lambda *_: (True, "")


@pytest.mark.slow  # a machine that does something else beside it drops frames of a best-effort topic, as it should
@pytest.mark.parametrize("topic", ["/front/image_raw", "/front/image_raw/compressed"])
def test_vga_at_30_hz(topic: str, capsys: pytest.CaptureFixture[str]) -> None:
    n = int(os.environ.get("FOREACT_LATENCY_FRAMES", "90"))
    names = make_topics({"cameras": {"front": topic}}, [("front", 480, 640)], ("a1",))
    box = Box()
    bridge = DdsTransport(names, NetworkScope(domain_id=DOMAIN))
    bridge.start(box)  # type: ignore[arg-type]
    late: list[float] = []
    stop = threading.Event()

    def tick() -> None:
        due = time.monotonic()
        while not stop.is_set():
            due += 0.01
            time.sleep(max(0.0, due - time.monotonic()))
            late.append(time.monotonic() - due)
            due = max(due, time.monotonic() - 0.01)

    ticker = threading.Thread(target=tick)
    try:
        command = [sys.executable, "-c", ROBOT, names.model_dump_json(), str(DOMAIN), str(n)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        with subprocess.Popen(command, env=environment) as robot:
            ticker.start()
            assert robot.wait(60 + n) == 0
    finally:
        stop.set()
        bridge.close()
        ticker.join()
    p50, p95 = np.percentile(box.delays, [50, 95]) * 1e3
    lateness = np.percentile(late, [50, 99]) * 1e3
    with capsys.disabled():
        print(
            f"\n{topic}: {len(box.delays)} of {n} frames, delay p50 {p50:.1f} ms, p95 {p95:.1f} ms; a 100 Hz thread "
            f"beside it late by p50 {lateness[0]:.2f} ms, p99 {lateness[1]:.2f} ms"
        )
    assert not box.bad and len(box.delays) >= 0.9 * n
    assert p50 < 100.0, "three frames at 30 Hz"
