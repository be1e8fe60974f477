"""A bad network between the bridge and the robot: any transport, with what passes lost, delayed, doubled or overtaken.

`LossyTransport` wraps the bridge's end of any transport. Random numbers come from a seed, and time from a clock: with
`threaded=False` nothing happens until `pump` is called, so a run repeats exactly.

Operators' commands (arm, stop) pass as they are: on a network they are service calls over a reliable stream. Everything
else is treated as if nothing were sent twice, which is worse than what DDS does for reliable topics.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from foreact.robot_bridge.transport import Inbox, Transport
from foreact.robot_bridge.types import (
    CameraFrame,
    DiagnosticLine,
    Event,
    JointSample,
    RobotMode,
    State,
    TopicReport,
    Trajectory,
)
from foreact.vla.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """How bad it is; the same in both directions, each channel (a topic) on its own."""

    loss: float = 0.0
    """Part of the messages that never arrive, 0 to 1."""
    delay_s: float = 0.0
    """Every message takes so long."""
    jitter_s: float = 0.0
    """... and up to so much longer, evenly spread; order is kept."""
    reorder: float = 0.0
    """Part of the messages that are held back by `held_s` and so overtaken."""
    held_s: float = 0.1
    duplicate: float = 0.0
    """Part of the messages that arrive twice."""

    def __post_init__(self) -> None:
        for name in ("loss", "reorder", "duplicate"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"{name} is a part of all messages, 0 to 1; found {getattr(self, name)!r}")
        for name in ("delay_s", "jitter_s", "held_s"):
            if not 0.0 <= getattr(self, name) < 3600.0:
                raise ConfigError(f"{name} is a time of 0 to 3600 s; found {getattr(self, name)!r}")


class Channels:
    """Calls that are made later, or never.

    Args:
        network: How bad it is.
        seed: Of the random numbers; each channel has its own stream of them.
        clock: Steady clock [s].
        threaded: Whether a thread makes the calls; if not, `pump` does.
    """

    def __init__(self, network: Network, seed: int = 0, clock: Callable[[], float] = time.monotonic,
                 threaded: bool = True):  # fmt: skip
        self.network = network
        """May be exchanged at any time."""
        self.counts: Counter[str] = Counter()
        """ "sent", "lost", "held", "doubled", "delivered"."""
        self._seed, self._clock = seed, clock
        self._random: dict[str, np.random.Generator] = {}
        self._latest: dict[str, float] = {}
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._number = itertools.count()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="lossy network", daemon=True) if threaded else None
        if self._thread:
            self._thread.start()

    def send(self, channel: str, call: Callable[[], None]) -> None:
        """Make a call as the network allows it."""
        network = self.network
        with self._changed:
            if self._closed:
                return
            random = self._random.get(channel)
            if random is None:
                random = self._random[channel] = np.random.default_rng([self._seed, *channel.encode()])
            lost, held, doubled, spread, again = random.random(5)
            self.counts["sent"] += 1
            if lost < network.loss:
                self.counts["lost"] += 1
                return
            due = self._clock() + network.delay_s + spread * network.jitter_s
            if held < network.reorder:
                self.counts["held"] += 1
                due += network.held_s
            else:
                due = self._latest[channel] = max(due, self._latest.get(channel, due))
            heapq.heappush(self._due, (due, next(self._number), call))
            if doubled < network.duplicate:
                self.counts["doubled"] += 1
                heapq.heappush(self._due, (due + again * network.held_s, next(self._number), call))
            self._changed.notify()

    def pump(self, now_s: float) -> int:
        """Make the calls that are due; returns how many."""
        made = 0
        while True:
            with self._changed:
                if self._closed or not self._due or self._due[0][0] > now_s:
                    return made
                call = heapq.heappop(self._due)[2]
                self.counts["delivered"] += 1
            call()
            made += 1

    def close(self) -> None:
        """Nothing is delivered afterwards."""
        with self._changed:
            self._closed = True
            self._due.clear()
            self._changed.notify()
        if self._thread and self._thread is not threading.current_thread():
            self._thread.join(timeout=5.0)

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._closed:
                    return
                if not self._due or self._due[0][0] > self._clock():
                    self._changed.wait(self._due[0][0] - self._clock() if self._due else None)
                    continue
            self.pump(self._clock())


class LossyTransport:
    """A `Transport` behind a bad network; see the top of this file.

    Args:
        inner: The transport that is wrapped.
        channels: The network; `channels.pump` has to be called if it has no thread.
        clock: Steady clock [s] by which arrivals are stamped anew.
    """

    def __init__(self, inner: Transport, channels: Channels, clock: Callable[[], float] = time.monotonic):
        self.inner, self.channels, self._clock = inner, channels, clock

    def start(self, inbox: Inbox) -> None:
        """As `Transport.start`."""
        self.inner.start(_LossyInbox(inbox, self.channels, self._clock))

    def send_trajectory(self, trajectory: Trajectory) -> None:
        """As `Transport.send_trajectory`."""
        self.channels.send("trajectory", lambda: self.inner.send_trajectory(trajectory))

    def send_gripper(self, command: float) -> None:
        """As `Transport.send_gripper`."""
        self.channels.send("gripper", lambda: self.inner.send_gripper(command))

    def send_diagnostics(self, lines: Sequence[DiagnosticLine]) -> None:
        """As `Transport.send_diagnostics`."""
        self.channels.send("diagnostics", lambda: self.inner.send_diagnostics(lines))

    def send_state(self, state: State, event: Event | None) -> None:
        """As `Transport.send_state`."""
        self.channels.send("state", lambda: self.inner.send_state(state, event))

    def send_foresight(self, images: Mapping[str, np.ndarray], stamp_s: float) -> None:
        """As `Transport.send_foresight`."""
        self.channels.send("foresight", lambda: self.inner.send_foresight(images, stamp_s))

    def graph(self) -> Sequence[TopicReport]:
        """As `Transport.graph`."""
        return self.inner.graph()

    def close(self) -> None:
        """As `Transport.close`."""
        self.channels.close()
        self.inner.close()


class _LossyInbox:
    def __init__(self, inbox: Inbox, channels: Channels, clock: Callable[[], float]):
        self._inbox, self._channels, self._clock = inbox, channels, clock

    def frame(self, frame: CameraFrame) -> None:
        self._channels.send(
            f"camera {frame.camera}", lambda: self._inbox.frame(replace(frame, received_s=self._clock()))
        )

    def joints(self, sample: JointSample) -> None:
        self._channels.send("joints", lambda: self._inbox.joints(replace(sample, received_s=self._clock())))

    def mode(self, mode: RobotMode, received_s: float) -> None:
        self._channels.send("mode", lambda: self._inbox.mode(mode, self._clock()))

    def description(self, urdf: str) -> None:
        self._inbox.description(urdf)  # reliable and kept for those who come late: it arrives in the end

    def instruction(self, text: str, received_s: float) -> None:
        self._channels.send("instruction", lambda: self._inbox.instruction(text, self._clock()))

    def bad_message(self, role: str, message: str, received_s: float) -> None:
        self._channels.send(role, lambda: self._inbox.bad_message(role, message, self._clock()))

    def command(self, name: str, value: bool) -> tuple[bool, str]:
        return self._inbox.command(name, value)
