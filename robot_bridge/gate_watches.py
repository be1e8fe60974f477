"""All watches of one gate, in the order in which their findings count."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from foreact.robot_bridge.causes import Finding
from foreact.robot_bridge.gate_settings import GateSettings
from foreact.robot_bridge.limits import RobotLimits
from foreact.robot_bridge.types import CameraFrame
from foreact.robot_bridge.watch import Watch
from foreact.robot_bridge.watch_camera import CameraWatch, SyncWatch
from foreact.robot_bridge.watch_clock import ClockWatch
from foreact.robot_bridge.watch_graph import GraphWatch
from foreact.robot_bridge.watch_joints import JointWatch
from foreact.robot_bridge.watch_policy import PolicyWatch
from foreact.robot_bridge.watch_robot import RobotWatch


class Watches:
    """What the gate looks at in every tick."""

    def __init__(self, limits: RobotLimits, settings: GateSettings):
        self.robot = RobotWatch(limits, settings)
        self.graph = GraphWatch(settings)
        self.clock = ClockWatch(settings)
        self.policy = PolicyWatch(settings)
        self.joints = JointWatch(len(limits.joints), settings, self.clock)
        self.sync = SyncWatch(settings)
        self.cameras = {rule.name: CameraWatch(rule, settings, self.clock) for rule in settings.cameras}
        # The robot's own word first; the clock before what is judged by it.
        self._all: tuple[Watch, ...] = (
            self.robot, self.graph, self.clock, self.policy, self.joints, *self.cameras.values(), self.sync,
        )  # fmt: skip

    def reset(self) -> None:
        """A new arming: what was counted before counts no more."""
        self.sync.reset()
        for camera in self.cameras.values():
            camera.reset()

    def on_frame(self, frame: CameraFrame) -> None:
        """A picture; of a camera that no policy looks at it is not judged."""
        watch = self.cameras.get(frame.camera)
        if watch is not None:
            joints = self.joints.newest
            watch.on_frame(frame, None if joints is None else joints.position)

    def on_bad_frame(self, camera: str, problem: str) -> None:
        """A picture that the transport could not read."""
        if camera in self.cameras:
            self.cameras[camera].on_bad(problem)

    def look(self, now_s: float) -> tuple[dict[str, CameraFrame] | None, str]:
        """Camera -> the newest picture, if all are fresh and belong together; else None, and why if they do not."""
        found: dict[str, CameraFrame] = {}
        for name, watch in self.cameras.items():
            if watch.newest is None or not watch.fresh(now_s):
                return None, ""
            found[name] = watch.newest
        problem = self.sync.judge(found)
        return (None, problem) if problem else (found, "")

    def findings(self, now_s: float) -> Sequence[Finding]:
        """What is wrong now."""
        found: list[Finding] = []
        for watch in self._all:
            if more := watch.findings(now_s):
                found += more
        return found

    def well(self, now_s: float) -> bool:
        """Whether nothing is wrong now; looks no further than the first finding, which thereby counts as told."""
        return not any(watch.findings(now_s) for watch in self._all)

    def missing(self, now_s: float) -> Iterable[Finding]:
        """What else keeps from arming."""
        return itertools.chain.from_iterable(watch.missing(now_s) for watch in self._all)
