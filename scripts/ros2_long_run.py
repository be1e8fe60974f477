"""How late the rclpy node's loop is: pictures at 30 Hz in, trajectories out, for as long as you say, then percentiles.

Needs a sourced ROS 2 shell with foreact in its Python; the policy server and the simulated robot are started here, with
the Python that FOREACT_POLICY_PYTHON names (torch, MuJoCo).

    python scripts/ros2_long_run.py --seconds 600 --json results/ros2_long_run.json

Lateness is that of a tick of the gate's loop at 100 Hz: the time from when it was due to when it began. The node itself
counts and publishes every tick that is more than 50 ms late, and the gate answers it by HOLD. An instruction is given
whenever the gate is READY, and a FAULT is disarmed and armed again; both are counted.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
WORDS = ("open the drawer", "close the drawer", "turn on the light bulb", "move the sliding door to the left")


def main() -> int:
    """See the module."""
    options = _options()
    os.environ.setdefault("ROS_DOMAIN_ID", str(options.domain_id))
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    python = os.environ.get("FOREACT_POLICY_PYTHON", sys.executable)
    theirs = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    foreact = [python, "-m", "foreact.commands.main"]
    policy = subprocess.Popen(
        [*foreact, "serve", options.checkpoint, "--robot", options.robot, "--port", "0", "--json"],
        env=theirs, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert policy.stdout is not None
    robot = subprocess.Popen(
        [*foreact, "robot", "sim", "--robot", options.robot, "--task", "open_drawer", "--domain-id",
         os.environ["ROS_DOMAIN_ID"]],
        env=theirs, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        line = policy.stdout.readline()
        if not line:
            print("error: the policy server did not start", file=sys.stderr)
            return 1
        found = run(options, json.loads(line)["urls"]["openpi"])
    finally:
        for process in (robot, policy):
            process.terminate()  # not SIGINT: a shell's background jobs ignore it, and so do their children
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
    print(json.dumps(found, indent=2))
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=2) + "\n")
    return 0 if found["p99.9_ms"] < 10.0 else 1


def run(options: argparse.Namespace, url: str) -> dict[str, Any]:
    """The node in this process, so that each tick's lateness is seen."""
    import rclpy  # type: ignore[import-not-found]
    from rclpy.executors import MultiThreadedExecutor  # type: ignore[import-not-found]
    from rclpy.lifecycle import TransitionCallbackReturn  # type: ignore[import-not-found]
    from rclpy.signals import SignalHandlerOptions  # type: ignore[import-not-found]

    from foreact.robot_bridge.ros_node import ForeActNode

    rclpy.init(
        args=["--ros-args", "-p", f"url:={url}", "-p", f"robot:={options.robot}",
              "-p", f"speed_scale:={options.speed_scale}"],
        signal_handler_options=SignalHandlerOptions.NO,
    )  # fmt: skip
    sys.setswitchinterval(0.0005)
    node = ForeActNode()
    executor = MultiThreadedExecutor(num_threads=4)
    executor.add_node(node)
    threading.Thread(target=_spin, args=(executor,), daemon=True).start()
    try:
        if node.trigger_configure() != TransitionCallbackReturn.SUCCESS:
            raise SystemExit("error: the node could not be configured; see above")
        lateness = _listen_to_lateness(node)
        node.trigger_activate()
        found = _drive(node, options.seconds, lateness)
        node.trigger_deactivate()
        node.trigger_cleanup()
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()
    return found


def _spin(executor: Any) -> None:
    with suppress(Exception):  # its end is ours
        executor.spin()


def _listen_to_lateness(node: Any) -> list[float]:
    """Seconds of every tick, beside what the report keeps."""
    late: list[float] = []
    report = node.bridge.report
    keep = report.tick

    def tick(late_s: float) -> None:
        late.append(late_s)
        keep(late_s)

    report.tick = tick
    return late


def _drive(node: Any, seconds: float, lateness: list[float]) -> dict[str, Any]:
    """Give instructions, arm again after a FAULT, and count."""
    from foreact.robot_bridge.types import State

    bridge, times = node.bridge, Counter()
    end, rested, word = time.monotonic() + seconds, 0.0, 0
    heard = ("camera rgb_static", "joints")
    way = bridge.transport
    first = {role: way._counts[role] for role in heard}
    while time.monotonic() < end:
        state = bridge.gate.state
        times[str(state)] += 1
        if state is State.FAULT:
            bridge.mailbox.command("disarm", True)
            times["faults"] += 1
        if state is State.DISARMED and bridge.mailbox.command("arm", True)[0]:
            times["armed"] += 1
        if state is State.READY and time.monotonic() - rested > 2.0:
            rested = time.monotonic()
            bridge.mailbox.instruction(WORDS[word % len(WORDS)], rested)
            word += 1
        time.sleep(0.1)
    ms = 1e3 * np.array(lateness)
    states = {name: times[name] for name in map(str, State) if times[name]}
    return {
        "seconds": seconds,
        "ticks": len(ms),
        **{f"p{q:g}_ms": round(float(np.percentile(ms, q)), 3) for q in (50, 90, 99, 99.9)},
        "max_ms": round(float(ms.max()), 3),
        "late_over_50_ms": int((ms > 50.0).sum()),
        "published_late": bridge.report.late_ticks,
        "holds_for_late_ticks": bridge.gate.log.counts["tick_late"],
        "commands_sent": bridge.report.sent_count,
        "hz": {role: round((way._counts[role] - first[role]) / seconds, 1) for role in heard},
        "states_tenths_of_a_second": states,
        "faults": times["faults"],
        "causes": dict(bridge.gate.log.counts),
        "latency": bridge.report.latency_s(),
        "load_average": os.getloadavg(),
        "cpus": os.cpu_count(),
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--checkpoint", default=str(ROOT / "checkpoints" / "foreact_desk"))
    parser.add_argument("--robot", default="desk_sim")
    parser.add_argument("--speed-scale", type=float, default=0.25)
    parser.add_argument("--domain-id", type=int, default=77)
    parser.add_argument("--json", default="")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
