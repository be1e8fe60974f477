"""Who else is on the topics: one publisher of each input, nobody else on the command topic, policies that fit."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from foreact.robot_bridge.causes import Cause, Finding
from foreact.robot_bridge.gate_settings import GateSettings
from foreact.robot_bridge.types import TopicReport

_SENSORS = ("camera", "joints")
"""Inputs that have one publisher."""
_SINGLE = (*_SENSORS, "mode", "description", "instruction")
"""Inputs that have one at most; the operator's own, such as "stop", may have any number."""
_COMMANDS = ("trajectory", "gripper", "twist", "action")
"""Outputs that move something: nobody else may publish on them."""


class GraphWatch:
    """Of all topics in use."""

    def __init__(self, settings: GateSettings):
        self._settings = settings
        self._seen_s = -math.inf
        self._problems: list[Finding] = []
        self._absent: list[Finding] = []

    def on_graph(self, reports: Sequence[TopicReport], now_s: float) -> None:
        """A look at the graph; an empty one is none: whoever looks sees at least the topics of this bridge."""
        if not reports:
            return
        self._seen_s = now_s
        self._problems, self._absent = [], []
        for report in reports:
            self._problems.extend(_problems(report))
            if self._settings.require_mode:
                self._problems.extend(_unheard(report))
            self._absent.extend(_absent(report))

    def findings(self, now_s: float) -> Sequence[Finding]:
        """See `Watch`."""
        return self._problems

    def missing(self, now_s: float) -> Iterable[Finding]:
        """See `Watch`."""
        if self._settings.require_graph and now_s - self._seen_s > self._settings.graph_age_s:
            yield Finding(Cause.TOPIC_MISSING, "nobody has looked at the topics lately")
        yield from self._absent


def _problems(report: TopicReport) -> Iterable[Finding]:
    where = f"topic {report.topic} ({report.role})"
    role = report.role.split()[0] if report.role else ""
    if report.direction == "out" and role not in _COMMANDS:
        return  # whoever looks on with other policies sees nothing, and that stops no arm
    if report.publishers > 1 and role in (_SINGLE if report.direction == "in" else _COMMANDS):
        message = f"{where} has {report.publishers} publishers, there must be one"
        yield Finding(Cause.DUPLICATE_PUBLISHER, message, fault=True)
    if report.qos_problem:
        yield Finding(Cause.QOS_MISMATCH, f"{where}: {report.qos_problem}", fault=True)
    wrong = [found for found in report.found_types if found != report.expected_type]
    if wrong:
        yield Finding(Cause.TOPIC_TYPE, f"{where} has type {wrong[0]}, expected {report.expected_type}", fault=True)


def _unheard(report: TopicReport) -> Iterable[Finding]:
    """The robot's mode keeps its last value when nobody publishes it any more: an emergency stop would not be heard."""
    if report.direction == "in" and report.role == "mode" and report.publishers < 1:
        message = f"nobody publishes on topic {report.topic} ({report.role}), so no stop of the robot would be heard"
        yield Finding(Cause.TOPIC_MISSING, message)


def _absent(report: TopicReport) -> Iterable[Finding]:
    role = report.role.split()[0] if report.role else ""
    if report.direction == "in" and report.publishers < 1 and role in _SENSORS:
        yield Finding(Cause.TOPIC_MISSING, f"nobody publishes on topic {report.topic} ({report.role})")
    if report.direction == "out" and role in _COMMANDS and report.subscribers < 1:
        yield Finding(Cause.TOPIC_MISSING, f"nobody listens on topic {report.topic} ({report.role})")
