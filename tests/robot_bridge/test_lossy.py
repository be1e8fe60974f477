"""The bad network does what it says: counts, delays and order are compared with the settings."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest

from foreact.robot_bridge.lossy import Channels, LossyTransport, Network
from foreact.robot_bridge.topic_names import make_topics
from foreact.robot_bridge.transport_memory import MemoryLink
from foreact.robot_bridge.types import RobotMode, Trajectory
from foreact.vla.errors import ConfigError


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def run(network: Network, n: int = 4000, seed: int = 1, every_s: float = 0.01) -> tuple[list[tuple[int, float]], Any]:
    """Send n numbered messages; what arrived (number, delay), and the counts."""
    clock = Clock()
    channels = Channels(network, seed, clock, threaded=False)
    got: list[tuple[int, float]] = []
    for i in range(n + 1000):
        clock.now = i * every_s
        if i < n:
            channels.send("joints", lambda i=i: got.append((i, clock.now - i * every_s)))
        channels.pump(clock.now)
    return got, channels.counts


def test_a_perfect_network_changes_nothing() -> None:
    got, counts = run(Network())
    assert got == [(i, 0.0) for i in range(4000)] and counts["lost"] == 0


@pytest.mark.fault("B27", n=4, event="network loss of 1, 5, 15 and 30 % (the proxy itself)")
@pytest.mark.parametrize("loss", [0.01, 0.05, 0.15, 0.30])
def test_loss_is_what_it_says(loss: float) -> None:
    got, counts = run(Network(loss=loss))
    assert len(got) == 4000 - counts["lost"]
    # Five standard deviations of a binomial count.
    assert abs(counts["lost"] - 4000 * loss) < 5 * (4000 * loss * (1 - loss)) ** 0.5
    assert [i for i, _ in got] == sorted(i for i, _ in got)


@pytest.mark.parametrize(("delay", "jitter"), [(0.05, 0.0), (0.5, 0.0), (0.1, 0.2)])
def test_delay_and_jitter_are_what_they_say_and_keep_the_order(delay: float, jitter: float) -> None:
    got, _ = run(Network(delay_s=delay, jitter_s=jitter))
    delays = np.array([d for _, d in got])
    assert len(got) == 4000 and [i for i, _ in got] == list(range(4000))
    assert delays.min() >= delay - 1e-9 and delays.max() <= delay + jitter + 0.01 + 1e-9
    if jitter:
        assert delays.std() > 0.1 * jitter


def test_reorder_and_duplicate_are_what_they_say() -> None:
    got, counts = run(Network(delay_s=0.05, reorder=0.1, held_s=0.1, duplicate=0.05))
    numbers = [i for i, _ in got]
    assert sorted(set(numbers)) == list(range(4000)) and len(numbers) == 4000 + counts["doubled"]
    assert abs(counts["held"] - 400) < 5 * 19 and abs(counts["doubled"] - 200) < 5 * 14
    overtaken = sum(b < a for a, b in zip(numbers, numbers[1:], strict=False))
    assert overtaken > 200


def test_the_same_seed_gives_the_same_run_and_channels_do_not_share_numbers() -> None:
    bad = Network(loss=0.2, delay_s=0.05, jitter_s=0.1, reorder=0.1, duplicate=0.1)
    assert run(bad, seed=3) == run(bad, seed=3) != run(bad, seed=4)
    clock, alone, beside = Clock(), [], []
    for got, noisy in ((alone, False), (beside, True)):
        channels = Channels(bad, 3, clock, threaded=False)
        for i in range(200):
            channels.send("joints", lambda i=i, got=got: got.append(i))
            if noisy:
                channels.send("camera", lambda: None)
        channels.pump(10.0)
    assert alone == beside


def test_a_transport_behind_it_loses_both_ways_and_stamps_arrivals_anew() -> None:
    names, clock = make_topics({}, [("front", 4, 4)], ("a1",)), Clock()
    link = MemoryLink(names, clock)
    channels = Channels(Network(delay_s=0.3), 0, clock, threaded=False)
    lossy = LossyTransport(link.transport, channels, clock)
    heard: list[tuple[str, float]] = []
    told: list[Any] = []

    class Inbox:
        def frame(self, frame: Any) -> None:
            heard.append(("frame", frame.received_s))

        def joints(self, sample: Any) -> None:
            heard.append(("joints", sample.received_s))

        def mode(self, mode: RobotMode, received_s: float) -> None:
            heard.append(("mode", received_s))

        def instruction(self, text: str, received_s: float) -> None:
            heard.append((text, received_s))

        def description(self, urdf: str) -> None:
            heard.append(("description", 0.0))

        def bad_message(self, role: str, message: str, received_s: float) -> None:
            heard.append((f"bad {role}", received_s))

        def command(self, name: str, value: bool) -> tuple[bool, str]:
            return True, name

    lossy.start(Inbox())
    link.robot.start(told.append, told.append)
    link.robot.publish_frame("front", np.zeros((4, 4, 3), np.uint8), 1.0)
    link.robot.publish_joints([0.0], [0.0], 0.0, 1.0)
    link.robot.publish_joints([np.nan], [0.0], 0.0, 1.0)
    link.robot.publish_mode(RobotMode.OK)
    link.say("push the slider")
    assert link.command("stop") == (True, "stop"), "an operator is never delayed"
    lossy.send_gripper(1.0)
    lossy.send_trajectory(
        Trajectory(
            start_s=0.0, time_from_start_s=np.array([0.1]), position=np.ones((1, 1)), velocity=np.zeros((1, 1)),
            acceleration=np.zeros((1, 1)),
        )
    )  # fmt: skip
    clock.now = 0.29
    channels.pump(clock.now)
    assert not heard and not told
    clock.now = 0.31
    channels.pump(clock.now)
    assert {name for name, _ in heard} == {"frame", "joints", "bad joints", "mode", "push the slider"}
    assert {when for _, when in heard} == {0.31} and len(told) == 2 and told[0] == 1.0
    assert lossy.graph() == link.transport.graph()
    channels.network = Network(loss=1.0)
    link.robot.publish_mode(RobotMode.OK)
    lossy.close()
    clock.now = 9.0
    channels.pump(clock.now)
    assert len(heard) == 5


def test_with_a_thread_messages_come_on_time_and_none_after_closing() -> None:
    channels = Channels(Network(delay_s=0.1))
    got: list[float] = []
    arrived = threading.Event()
    began = time.monotonic()

    def heard() -> None:
        got.append(time.monotonic() - began)
        arrived.set()

    channels.send("a", heard)
    assert arrived.wait(5.0) and 0.1 <= got[0] < 1.0
    channels.send("a", lambda: got.append(0.0))
    channels.close()
    channels.send("a", lambda: got.append(0.0))
    time.sleep(0.15)
    assert len(got) == 1


@pytest.mark.parametrize("wrong", [{"loss": 1.1}, {"delay_s": -1.0}, {"reorder": float("nan")}, {"held_s": 1e9}])
def test_nonsense_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Network(**wrong)
