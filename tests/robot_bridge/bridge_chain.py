"""Bridge, gate, link, controller and simulated arm on one clock that the test turns: a whole robot without waiting.

The policy is scripted, everything else is what runs on a robot. Pictures are noise, physics is MuJoCo's.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from foreact.robot_bridge.assemble import gate_settings
from foreact.robot_bridge.bridge import TICK_S, Bridge
from foreact.robot_bridge.config import Robot, load_robot
from foreact.robot_bridge.event_log import EventLog
from foreact.robot_bridge.gate import Gate, default_scheduler
from foreact.robot_bridge.gate_lease import ArmLease
from foreact.robot_bridge.kinematics import Kinematics
from foreact.robot_bridge.lossy import Channels, LossyTransport, Network
from foreact.robot_bridge.observe import Observer
from foreact.robot_bridge.policy_thread import Answer, PolicyThread, Question
from foreact.robot_bridge.sim_robot import SimRobot, SimRobotSettings
from foreact.robot_bridge.transport import Transport
from foreact.robot_bridge.transport_memory import MemoryLink
from foreact.robot_bridge.types import State
from foreact.sim.robot_body import DeskBody
from foreact.vla.contract import Camera
from foreact.vla.errors import ForeActError

REST = 0.01
"""Joint speed below which the arm stands [rad/s]."""
SIZES = {"rgb_static": (24, 32), "rgb_gripper": (20, 20)}


def small_robot(**changes: Any) -> Robot:
    """The simulated desk, with pictures that cost nothing."""
    robot = load_robot("desk_sim")
    cameras = tuple(Camera(name=name, height=h, width=w) for name, (h, w) in SIZES.items())
    contract = robot.contract.model_copy(update={"cameras": cameras})
    policy = robot.policy.model_copy(update={"execute_steps": 3})
    return robot.model_copy(update={"contract": contract, "policy": policy, **changes})


class GreyBody(DeskBody):
    """The desk with pictures that nobody draws: one grey level, to which the robot adds its noise."""

    def __init__(self) -> None:
        super().__init__("D", render=False)
        self.cameras = tuple(SIZES)
        self.level = 100

    def view(self) -> Any:
        return None

    def draw(self, view: Any = None) -> dict[str, np.ndarray]:
        return {name: np.full((*size, 3), self.level, np.uint8) for name, size in SIZES.items()}


class Script:
    """A policy client: leads the arm to and fro about where it began, always from where it has been led.

    Args:
        sweep: (7,) rad: how far each joint goes.
        turn: Of the sweep [rad per policy step].
        rows: Of a chunk.
    """

    def __init__(self, sweep: np.ndarray, turn: float = 0.25, rows: int = 10):
        self.sweep, self.turn, self.rows = sweep, turn, rows
        self.begin: np.ndarray | None = None
        self.asked: list[Mapping[str, Any]] = []
        self.metadata: Mapping[str, Any] = {"execute_steps": 3, "foresight_steps": 2, "checkpoint": "c" * 64}
        self.change: Callable[[dict[str, Any], Mapping[str, Any]], dict[str, Any]] = lambda reply, _: reply
        """What is wrong with its replies."""

    def infer(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """See `PolicyClient`."""
        self.asked.append(request)
        if request["kind"] != "plan":
            return {}
        anchor = np.array(request["anchor"])
        if self.begin is None:
            self.begin = anchor
        steps = request["step"] + 1 + np.arange(self.rows)
        wanted = self.begin + self.sweep * (1.0 - np.cos(self.turn * steps[:, None]))
        reach = 0.6 * self.turn * np.abs(self.sweep).max() * (1 + np.arange(self.rows))[:, None]
        q = anchor + np.clip(wanted - anchor, -reach, reach)
        reply: dict[str, Any] = {
            "joint_position": q,
            "gripper": np.where(steps % 40 < 20, 1.0, -1.0),
            "actions": np.zeros((self.rows, 7), np.float32),
        }
        return self.change(reply, request)

    def alive(self) -> bool:
        return True

    def close(self) -> None: ...


class ClockedPolicy(PolicyThread):
    """Asks a client one question at a time, as `PolicyThread` does, and takes as long as a clock says."""

    def __init__(self, client: Any, clock: Callable[[], float], latency_s: Callable[[], float]):
        super().__init__(lambda: client, clock)
        self.client, self.clock, self.latency_s = client, clock, latency_s
        self.instant = True
        """While it warms up, the clock stands."""
        self.silent_since_s: float | None = None
        """Nothing is heard of it from then on."""
        self.lost = False
        """Whether its connection is known to be gone."""
        self.there = True
        """Whether it can be connected again."""
        self.tries = 0
        """To connect again."""
        self.pending: list[tuple[float, int, Answer]] = []
        self._free_s, self._number = 0.0, itertools.count()

    def connect(self) -> Mapping[str, Any]:
        return self.client.metadata

    def connect_later(self) -> None:
        self.tries += 1

    def connected(self) -> Mapping[str, Any]:
        if not self.there:
            raise ForeActError("nobody listens")
        self.lost = False
        self.pending.clear()
        return self.client.metadata

    @property
    def alive(self) -> bool:
        return not self.lost

    @property
    def heard_s(self) -> float:
        return self.clock() if self.silent_since_s is None else self.silent_since_s

    @property
    def busy(self) -> bool:
        silent = self.silent_since_s is not None
        return any(silent or due > self.clock() for due, _, _ in self.pending)

    def ask(self, question: Question) -> bool:
        if len(self.pending) >= 8:
            return False
        took = self.latency_s() if question.kind == "plan" else 0.001
        reply, error = None, ""
        try:
            reply = self.client.infer(question.request)
        except ForeActError as problem:
            error = str(problem)
        due = self.clock()
        if not self.instant:
            due = self._free_s = max(due, self._free_s) + took
        answer = Answer(question=question, reply=reply, error=error, took_s=took)
        heapq.heappush(self.pending, (due, next(self._number), answer))
        return True

    def answers(self) -> list[Answer]:
        out = []
        while self.pending and self.pending[0][0] <= self.clock() and self.silent_since_s is None:
            out.append(heapq.heappop(self.pending)[2])
        return out

    def close(self) -> None:
        self.pending.clear()


class World:
    """All of it.

    Args:
        folder: For the lease and other files.
        number: Which start, and which way it sweeps.
        sweep: Largest joint amplitude [rad].
        latency_s: Of a plan.
        network: Between bridge and robot; None: nothing is lost.
        begin_s: The clock's first reading.
        more: For `Bridge`.
    """

    def __init__(
        self,
        folder: Path,
        number: int = 0,
        *,
        robot: Robot | None = None,
        sweep: float = 0.2,
        turn: float = 0.25,
        latency_s: Callable[[], float] = lambda: 0.08,
        network: Network | None = None,
        client: Any = None,
        begin_s: float = 1000.0,
        **more: Any,
    ):
        rng = np.random.default_rng([28, number])
        self.folder, self.settings = folder, robot or small_robot()
        self.body = BODIES.setdefault("D", GreyBody())
        self.body.block(None)
        self.body.restart(START.setdefault(number % 4, self.body.draw_start(None, number % 4)))
        self._begin_s, self.now_s = begin_s, begin_s
        self.offset_s = 0.0
        """Of the clock of the stamps [s], as the bridge reads it."""
        self.arm = self.settings.arm()
        self.kinematics = Kinematics(self.arm)
        self.link = MemoryLink(self.settings.topic_names(), clock=self.clock)
        self.robot = SimRobot(self.body, self.link.robot, SimRobotSettings(seed=number))
        self.robot.epoch_s = begin_s
        ways = rng.uniform(-1.0, 1.0, 7)
        self.script: Any = client or Script(sweep * ways / np.abs(ways).max(), turn)
        self.policy = ClockedPolicy(self.script, self.clock, latency_s)
        self.channels: Channels | None = None
        transport: Transport = self.link.transport
        if network is not None:
            self.channels = Channels(network, number, self.clock, threaded=False)
            transport = LossyTransport(transport, self.channels, self.clock)
        made = gate_settings(self.settings)
        scheduler = default_scheduler(self.arm, made, self.settings.scheduler)
        lease = ArmLease("chain", folder)
        self.log = EventLog()
        self.gate = Gate(self.arm, made, self.log, scheduler=scheduler, lease=lease)
        self.bridge = Bridge(
            self.settings, self.gate, transport, self.policy,
            Observer(self.settings, self.kinematics, self.settings.contract), self.script.metadata,
            clock=self.clock, stamps=lambda: self.clock() + self.offset_s, **more,
        )  # fmt: skip
        self.bridge_runs = True
        self.moves: list[tuple[float, float, np.ndarray]] = []
        """Time, speed of the fastest joint [rad/s] and place of the tool [m], after every physics step."""
        self.bridge.start()
        self.robot.start()
        self.run(0.2)
        self.bridge.warm_up(30)
        self.policy.instant = False
        self.run(1.2)

    def clock(self) -> float:
        """The one clock [s]."""
        return self.now_s

    @property
    def state(self) -> State:
        return self.gate.state

    @property
    def q(self) -> np.ndarray:
        return self.body.state()[0].copy()

    @property
    def speed(self) -> float:
        return float(np.abs(self.body.state()[1]).max())

    @property
    def tool(self) -> np.ndarray:
        return self.kinematics.forward(self.q)[0]

    def step(self) -> None:
        """One tick of the bridge, and the physics until the next."""
        if self.channels is not None:
            self.channels.pump(self.now_s)
        if self.bridge_runs:
            self.bridge.tick(self.now_s)
        until = self.now_s + TICK_S
        while self._begin_s + self.robot.now_s + self.body.period_s <= until + 1e-9:
            self.now_s = max(self.now_s, self._begin_s + self.robot.now_s)
            self.robot.step(self.body.period_s)
            self.moves.append((self._begin_s + self.robot.now_s, self.speed, self.tool))
        self.now_s = until

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds / TICK_S)):
            self.step()

    def until(self, what: Callable[[], bool], seconds: float = 5.0) -> float:
        """Go on until it is so; how long that took [s]."""
        began = self.now_s
        while not what():
            assert self.now_s - began < seconds, f"not within {seconds} s; {self.state}, {self.tail()}"
            self.step()
        return self.now_s - began

    def tail(self) -> list[str]:
        """The last events, for messages."""
        return [f"{e.at_s:.2f} {e.kind} {e.cause} {e.state}: {e.message}" for e in self.log.last(8)]

    def arm_it(self) -> None:
        assert self.bridge.command("arm", True, self.now_s) == (True, "armed"), self.tail()

    def go(self, words: str = "open the drawer", seconds: float = 1.0) -> None:
        """Arm, say what to do, and go on until the arm moves."""
        self.arm_it()
        self.link.say(words)
        self.until(lambda: self.state is State.RUNNING)
        self.run(seconds)
        assert self.state is State.RUNNING, self.tail()

    def rest_after(self, since_s: float, within_s: float = 1.5, rest: float = REST) -> tuple[float, float]:
        """Go on for so long; when the arm came to rest after `since_s` [s], and how far the tool went after it [m]."""
        self.run(max(0.0, since_s + within_s - self.now_s))
        after = [m for m in self.moves if m[0] > since_s]
        before = [m for m in self.moves if m[0] <= since_s]
        moving = [t - since_s for t, speed, _ in after if speed > rest]
        far = max(float(np.linalg.norm(p - before[-1][2])) for _, _, p in after)
        return max(moving, default=0.0), far

    def hold_s(self, since_s: float, state: State = State.HOLD) -> float:
        """How long after `since_s` the gate was in a state [s]."""
        states = [e.at_s for e in self.log.last(1000) if e.kind == "state" and e.state is state]
        return next(at_s for at_s in states if at_s > since_s - 1e-9) - since_s

    def close(self) -> None:
        self.bridge.close()


BODIES: dict[str, GreyBody] = {}
START: dict[int, Any] = {}
