"""The rclpy side with stand-ins for ROS: who is activated again, when a graph is old, which goals are sent."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from foreact.robot_bridge import ros_node
from foreact.robot_bridge.comeback import SAME, Comeback, require_same
from foreact.robot_bridge.config import load_robot
from foreact.robot_bridge.ros_action import ActionOutput
from foreact.robot_bridge.ros_graph import RosGraph
from foreact.robot_bridge.ros_make import RosbagsMaker
from foreact.robot_bridge.types import TopicReport, Trajectory
from foreact.vla.errors import ForeActError

STATED = {"checkpoint": "c" * 64, "contract": "{}", "contract_hash": "h", "robot": "desk", "execute_steps": 3}


def until(what: Callable[[], object], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.002)


# ---- activation ------------------------------------------------------------------------------------------------------


class Policy:
    """A policy thread whose server states `metadata`."""

    def __init__(self, metadata: Mapping[str, Any]):
        self.metadata, self.alive, self.connected = metadata, False, 0

    def connect(self) -> Mapping[str, Any]:
        self.alive, self.connected = True, self.connected + 1
        return self.metadata

    def close(self) -> None:
        self.alive = False


class Node(ros_node.ForeActNode):
    """A configured, inactive node whose policy server has gone meanwhile."""

    def __init__(self, metadata: Mapping[str, Any]):
        self.said: list[str] = []
        self.policy = Policy(metadata)
        self.comeback = Comeback(self.policy, STATED, lambda: None)  # type: ignore[arg-type]
        self.warmed_up, self.started = 0, 0
        self.fails = False
        self.bridge = SimpleNamespace(  # type: ignore[assignment]
            policy=self.policy, conversation=SimpleNamespace(comeback=self.comeback), start=self._start, dry_run=False,
            loop=lambda until: None, gate=SimpleNamespace(),
        )  # fmt: skip
        self._ended, self._loop, self._crash = threading.Event(), None, ""

    def get_logger(self) -> Any:
        return SimpleNamespace(error=self.said.append, info=self.said.append, warning=self.said.append)

    def _start(self) -> None:
        self.started += 1

    def _warm_up(self, bridge: Any) -> list[float]:
        self.warmed_up += 1
        if self.fails:
            raise ForeActError("the policy is too slow")
        return [0.1]

    def activate(self) -> bool:
        done = self._activate() is None
        if self._loop is not None:
            self._loop.join(5.0)
        return done


@pytest.fixture
def codes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ros_node, "TransitionCallbackReturn", SimpleNamespace(SUCCESS="success", FAILURE="failure"))


@pytest.mark.parametrize("name", SAME)
def test_another_policy_than_was_configured_is_not_activated(name: str, codes: None) -> None:
    node = Node({**STATED, name: "another"})
    for connected in (1, 2):  # a second try does not take the connection for one that was compared
        assert not node.activate()
        assert f"(other {name})" in node.said[-1] and "cleanup, then configure" in node.said[-1]
        assert not node.policy.alive and node.policy.connected == connected
    assert not node.warmed_up and not node.started


def test_the_same_policy_is_warmed_up_and_activated(codes: None) -> None:
    node = Node(STATED)
    node.comeback._connecting = True  # what the loop had begun before it was deactivated
    assert node.activate() and node.warmed_up == 1 and node.started == 1
    assert not node.comeback._connecting and not node.comeback.warms_up
    assert node.activate() and node.warmed_up == 1, "one that is connected still is as it was"


def test_a_policy_that_was_not_warmed_up_is_asked_again(codes: None) -> None:
    node = Node(STATED)
    node.fails = True
    assert not node.activate() and not node.policy.alive and "too slow" in node.said[-1]
    node.fails = False
    assert node.activate() and node.warmed_up == 2


def test_all_that_differs_is_named() -> None:
    require_same({**STATED, "more": 1}, STATED)
    with pytest.raises(ForeActError, match=r"other checkpoint, foresight_steps"):
        require_same({**STATED, "checkpoint": "d", "foresight_steps": 2}, STATED)


# ---- the graph -------------------------------------------------------------------------------------------------------

SEEN = TopicReport(
    topic="/joint_states", role="joints", direction="in", expected_type="a/msg/B", found_types=("a/msg/B",),
    publishers=1, subscribers=1,
)  # fmt: skip


class Looks:
    """What a graph's thread finds, in its own time."""

    def __init__(self) -> None:
        self.now_s, self.count, self.warnings = 100.0, 0, []
        self.look: Callable[[], list[TopicReport]] = lambda: [SEEN]
        self.graph = RosGraph(self, self.more, clock=lambda: self.now_s)

    def more(self) -> list[TopicReport]:
        self.count += 1
        return self.look()

    def get_logger(self) -> Any:
        return SimpleNamespace(warning=self.warnings.append)

    def again(self) -> None:
        """One more look."""
        before = self.count
        self.graph._look.set()
        until(lambda: self.count > before)


def test_a_graph_that_nobody_looks_at_any_more_is_not_told() -> None:
    looks, hangs = Looks(), threading.Event()
    looks.graph.open((), {})
    try:
        until(lambda: looks.graph.reports() == (SEEN,))
        looks.look = lambda: [SEEN] * (1 + hangs.wait(20.0))
        looks.again()
        looks.now_s += 1.9
        assert looks.graph.reports() == (SEEN,)
        looks.now_s += 0.2
        assert looks.graph.reports() == (), "the thread hangs, and what it saw is old"
        looks.look = lambda: [SEEN]
        hangs.set()
        until(lambda: looks.graph.reports() == (SEEN,))
    finally:
        hangs.set()
        looks.graph.close()
    assert looks.graph.reports() == ()


def test_a_look_that_fails_is_said_once_and_leaves_nothing() -> None:
    looks = Looks()
    looks.graph.open((), {})
    try:
        until(lambda: looks.graph.reports())
        looks.look = lambda: [SEEN][1:][0:1] or [][0]
        for _ in range(3):
            looks.again()
        until(lambda: looks.graph.failed)
        assert looks.graph.reports() == () and "IndexError" in looks.graph.failed
        assert len(looks.warnings) == 1 and "nothing is armed" in looks.warnings[0]
        looks.look = lambda: [SEEN]
        looks.again()
        until(lambda: looks.graph.reports() == (SEEN,))
        assert not looks.graph.failed
    finally:
        looks.graph.close()


# ---- goals -----------------------------------------------------------------------------------------------------------


class Server:
    """An action client whose server is there or not, and answers or does not."""

    def __init__(self) -> None:
        self.there, self.answers, self.goals = False, True, 0

    def server_is_ready(self) -> bool:
        return self.there

    def send_goal_async(self, goal: Any) -> Any:
        self.goals += 1
        answer = SimpleNamespace(result=lambda: SimpleNamespace(accepted=False))
        return SimpleNamespace(add_done_callback=lambda told: told(answer) if self.answers else None)


@pytest.fixture
def output() -> tuple[ActionOutput, Server, list[str]]:
    robot, said, server = load_robot("desk_sim"), [], Server()
    made = ActionOutput(None, robot.topic_names(), RosbagsMaker(), 25.0, lambda error: None)
    made._client, made._now_s, made._goal = server, time.time, SimpleNamespace
    made._inbox = SimpleNamespace(bad_message=lambda role, text, now_s: said.append(text))  # type: ignore[assignment]
    return made, server, said


def trajectory() -> Trajectory:
    still = np.zeros((3, 7))
    return Trajectory(
        start_s=0.0, time_from_start_s=0.01 * np.arange(1, 4), position=still, velocity=still, acceleration=still
    )


def goal() -> Any:
    return SimpleNamespace(trajectory=None)


def test_a_server_that_comes_late_gets_its_goals(output: tuple[ActionOutput, Server, list[str]]) -> None:
    made, server, said = output
    made._goal = goal
    for _ in range(30):
        made._send(trajectory())
    assert server.goals == 0 and len(said) == 30 and "nobody serves the action /joint_traj" in said[-1]
    server.there = True
    made._send(trajectory())
    assert server.goals == 1 and made.counts["sent"] == 1


def test_only_goals_that_were_sent_count_as_unanswered(output: tuple[ActionOutput, Server, list[str]]) -> None:
    made, server, said = output
    made._goal = goal
    server.there, server.answers = True, False
    for _ in range(15):
        made._send(trajectory())
    assert server.goals == 10 and "did not answer 10 goals" in said[-1]
    server.there = False
    made._send(trajectory())
    server.there, server.answers = True, True
    for _ in range(15):
        made._send(trajectory())
    assert server.goals == 25, "a server that was away and is back is asked again"
