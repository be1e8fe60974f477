"""`foreact robot sim`: the simulated desk as a robot on ROS 2 topics, to try a bridge on."""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foreact.vla.errors import ConfigError, ForeActError, did_you_mean

if TYPE_CHECKING:
    from foreact.robot_bridge.robot_side import RobotSide
    from foreact.robot_bridge.sim_robot import SimRobot
    from foreact.robot_bridge.sim_robot_loop import Pace
    from foreact.robot_bridge.topic_names import TopicNames
    from foreact.sim.robot_body import DeskBody

TRANSPORTS = ("dds", "ros")


def sim(
    robot: Annotated[str, typer.Option(help="Robot file: its topics, joints and cameras.")] = "desk_sim",
    scene: Annotated[str, typer.Option(help="A, B, C or D.")] = "D",
    task: Annotated[str, typer.Option(help="Start where this task can be done, and judge it; none by default.")] = "",
    start: Annotated[int, typer.Option(help="Number of the start.", min=0)] = 0,
    seed: Annotated[int, typer.Option(help="Start n is drawn from (seed, n).", min=0)] = 0,
    transport: Annotated[str, typer.Option(help="dds: pip's cyclonedds; ros: rclpy, in a sourced shell.")] = "dds",
    domain_id: Annotated[int, typer.Option(help="ROS domain; -1: ROS_DOMAIN_ID, or 0.", min=-1, max=232)] = -1,
    realtime_factor: Annotated[float, typer.Option(help="Simulated seconds per second.")] = 1.0,
    view: Annotated[bool, typer.Option("--view/--headless", help="Show it in MuJoCo's viewer.")] = False,
    cameras: Annotated[bool, typer.Option("--cameras/--no-cameras", help="Publish pictures.")] = True,
    control: Annotated[bool, typer.Option("--control", help="JSON requests on stdin, answers on stdout.")] = False,
    seconds: Annotated[float, typer.Option(help="End after so long; 0: when told to.", min=0.0)] = 0.0,
    cmd_timeout_s: Annotated[float, typer.Option(help="Of the trajectory controller; 0: off.", min=0.0)] = 0.0,
) -> None:
    """Simulate the desk as a ROS 2 robot in real time, until Ctrl-C; prints a line per second.

    With --control the lines go to stderr, stdin takes requests such as {"do": "reset", "task": "open_drawer"}, and the
    end of stdin ends the program; see robot_bridge/sim_robot_control.py.
    """
    if transport not in TRANSPORTS:
        raise ConfigError(f"no transport {transport!r}; {did_you_mean(transport, TRANSPORTS)}")
    if not 0.0 < realtime_factor < 100.0:
        raise ConfigError(f"--realtime-factor must be above 0 and below 100, found {realtime_factor}")
    if view and sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise ForeActError("--view needs a display, and DISPLAY and WAYLAND_DISPLAY are not set; leave it out")
    from foreact.commands.terminate import orderly_end
    from foreact.robot_bridge.give_back import few_arenas
    from foreact.robot_bridge.sim_robot import SimRobot, SimRobotSettings
    from foreact.robot_bridge.sim_robot_loop import run_in_real_time
    from foreact.sim.robot_body import DeskBody

    few_arenas()
    names, sizes = _topics(robot)
    # MuJoCo and the renderer with several threads each only get in each other's way
    os.environ.setdefault("LP_NUM_THREADS", "0")
    body = DeskBody(scene, sizes=sizes, seed=seed, render=cameras)
    if names.arm_joints != body.joints:
        raise ConfigError(f"robot {robot}: the desk has the joints {list(body.joints)}, found {list(names.arm_joints)}")
    if task or start:
        body.restart(body.draw_start(task or None, start))
    stop, console = threading.Event(), _Console(control)
    out = sys.stderr if control else sys.stdout
    with orderly_end("the simulated robot is gone"):
        side = _side(names, transport, domain_id)
        simulated = SimRobot(body, side, SimRobotSettings(cmd_timeout_s=cmd_timeout_s, seed=seed))
        simulated.on_done = lambda judgement: console.say({"event": "done", **judgement})
        simulated.start()
        try:
            console.begin(simulated, body, stop)
            console.say({"event": "ready", "joints": list(body.joints), "cameras": list(body.cameras)})
            last: dict[str, Any] = {}

            def each_second(pace: Pace) -> None:
                print(_line(simulated, pace, last), file=out, flush=True)
                if seconds and simulated.now_s / realtime_factor >= seconds:
                    stop.set()

            with _window(body, stop, view) as each_picture:
                run_in_real_time(
                    simulated, stop, factor=realtime_factor, each_second=each_second, each_picture=each_picture
                )
        finally:
            simulated.close()
    raise typer.Exit(1 if simulated.counts["diverged"] else 0)


def _topics(robot: str) -> tuple[TopicNames, dict[str, tuple[int, int]]]:
    """Topics and camera sizes of a robot file."""
    from foreact.robot_bridge.config import load_robot
    from foreact.robot_bridge.limits import load_limits
    from foreact.robot_bridge.topic_names import make_topics

    file = load_robot(robot)
    limits = load_limits(file.limits)
    seen = file.contract.cameras
    names = make_topics(
        file.topics,
        [(c.name, c.height, c.width) for c in seen],
        limits.joints,
        limits.gripper.joints,
        limits.gripper.open_m,
        limits.gripper.closed_m,
    )
    return names, {c.name: (c.height, c.width) for c in seen}


def _side(names: TopicNames, transport: str, domain_id: int) -> RobotSide:
    if transport == "ros":
        from foreact.robot_bridge.ros_robot_side import RosRobotSide

        return RosRobotSide(names, domain_id=None if domain_id < 0 else domain_id)
    from foreact.robot_bridge.dds_transport import DdsRobotSide
    from foreact.robot_bridge.network import read_network

    return DdsRobotSide(names, read_network(domain_id=None if domain_id < 0 else domain_id))


def _line(robot: SimRobot, pace: Pace, last: dict[str, Any]) -> str:
    """What a second was like: rates since the line before."""
    now = {"joints": robot.counts["joints"], **{c: robot.counts[c] for c in robot.body.cameras}}
    rates = ", ".join(f"{name} {count - last.get(name, 0)}" for name, count in now.items())
    last.update(now)
    status = robot.status()
    judgement = status["judgement"]
    told = f", {judgement['task']} {'done' if judgement['done'] else 'not yet'}" if judgement["task"] else ""
    kept = status["controller"]
    return (
        f"{robot.now_s:7.1f} s {robot.mode.value}: sent {rates}; trajectories {kept.get('accepted', 0)}"
        f" (+{kept.get('rejected', 0)} refused); joint speed {status['joint_speed']:.2f} rad/s, "
        f"behind {status['tracking_error']:.3f} rad; late ticks {pace.late_ticks}/{pace.ticks}, "
        f"at most {1000 * pace.max_late_s:.0f} ms; pictures skipped {pace.pictures_skipped}; "
        f"alarms {robot.counts['alarms']}{told}"
    )


class _Console:
    """JSON lines with whoever started the program; silent without --control."""

    def __init__(self, on: bool) -> None:
        self._on, self._lock = on, threading.Lock()

    def begin(self, robot: SimRobot, body: DeskBody, stop: threading.Event) -> None:
        """Answer requests in a thread of its own; the end of stdin sets `stop`."""
        if not self._on:
            return
        from foreact.robot_bridge.sim_robot_control import Control

        asked = Control(robot, body, stop.set)

        def answer() -> None:
            for line in sys.stdin:
                if line.strip():
                    self._print(asked.line(line))
                if stop.is_set():
                    return
            stop.set()

        threading.Thread(target=answer, name="sim-robot-control", daemon=True).start()

    def say(self, what: dict[str, Any]) -> None:
        if self._on:
            self._print(json.dumps(what))

    def _print(self, line: str) -> None:
        with self._lock:
            print(line, flush=True)


class _window:
    """MuJoCo's viewer if it is wanted; gives what is to be called for each picture, or None."""

    def __init__(self, body: DeskBody, stop: threading.Event, wanted: bool) -> None:
        self._body, self._stop, self._wanted = body, stop, wanted
        self._viewer: Any = None

    def __enter__(self) -> Any:
        if not self._wanted:
            return None
        import mujoco.viewer

        self._viewer = mujoco.viewer.launch_passive(*self._body.mujoco_handles())
        return self._sync

    def _sync(self) -> None:
        if self._viewer.is_running():
            self._viewer.sync()
        else:
            self._stop.set()

    def __exit__(self, *_: object) -> None:
        if self._viewer is not None:
            self._viewer.close()
