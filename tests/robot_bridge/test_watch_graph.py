"""Looks at the graph that show nothing, and a robot whose mode nobody publishes any more."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from gate_steps import PANDA, until, world

from foreact.robot_bridge.causes import Cause
from foreact.robot_bridge.config import load_robot
from foreact.robot_bridge.gate_settings import GateSettings
from foreact.robot_bridge.gate_world import World
from foreact.robot_bridge.transport_memory import MemoryLink
from foreact.robot_bridge.types import State, TopicReport
from foreact.robot_bridge.watch_graph import GraphWatch


def without(w: World, role: str) -> list[TopicReport]:
    return [replace(r, publishers=0, found_types=()) if r.role == role else r for r in w.reports]


def test_an_empty_look_is_no_look() -> None:
    w = World(PANDA)
    twice = [replace(r, publishers=2) if r.role == "joints" else r for r in w.reports]
    watch = GraphWatch(GateSettings())
    watch.on_graph((), 10.0)
    assert any("lately" in finding.message for finding in watch.missing(10.0))
    watch.on_graph(twice, 11.0)
    assert [f.cause for f in watch.findings(11.0)] == [Cause.DUPLICATE_PUBLISHER]
    assert not list(watch.missing(11.0))
    watch.on_graph((), 12.0)
    assert [f.cause for f in watch.findings(12.0)] == [Cause.DUPLICATE_PUBLISHER], "nothing was put right"
    watch.on_graph((), 14.0)
    assert any("lately" in finding.message for finding in watch.missing(14.0))


def test_a_graph_that_shows_nothing_keeps_from_arming() -> None:
    w = World(PANDA)
    w.prepare()
    w.reports = []
    w.run(3.0)
    assert any("lately" in reason for reason in w.gate.arm(w.now_s))


def test_it_is_not_armed_while_nobody_publishes_the_mode() -> None:
    w = World(PANDA)
    healthy, w.reports = w.reports, without(w, "mode")
    w.prepare()  # the last mode was OK, and is kept
    w.run(1.0)
    reasons = w.gate.arm(w.now_s)
    assert len(reasons) == 1 and "/mode" in reasons[0] and "nobody publishes" in reasons[0]
    w.reports = healthy
    w.run(1.0)
    assert w.gate.arm(w.now_s) == []


def test_a_mode_that_nobody_publishes_any_more_stops_the_arm() -> None:
    w = world()
    healthy, w.reports = w.reports, without(w, "mode")
    until(w, State.HOLD, 1.0)
    assert w.gate.cause is Cause.TOPIC_MISSING and "mode" in w.events("state")[-1].message
    w.reports = healthy
    until(w, State.RUNNING, 2.0)
    w.reports = without(w, "mode")
    until(w, State.FAULT, 1.0 + w.settings.hold_limit_s + 0.1)
    assert w.gate.cause is Cause.TOPIC_MISSING


@pytest.mark.parametrize("settings", [{"require_mode": False}])
def test_a_robot_that_says_no_mode_needs_no_publisher_of_it(settings: dict[str, Any]) -> None:
    w = World(PANDA, **settings)
    w.reports = without(w, "mode")
    w.running(2.0)


def test_a_link_in_memory_has_one_publisher_of_the_mode() -> None:
    link = MemoryLink(load_robot("desk_sim").topic_names())
    link.robot.start(lambda message: None, lambda command: None)
    assert [r.publishers for r in link.transport.graph() if r.role == "mode"] == [1]
    assert [r.publishers for r in World(PANDA).healthy_graph() if r.role == "mode"] == [1]
