"""The operator's end of the topics: says what to do, arms, stops, and hears what became of it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

from foreact.robot_bridge.dds_node import DdsNode
from foreact.robot_bridge.messages_out import text as text_message
from foreact.robot_bridge.network import NetworkScope
from foreact.robot_bridge.ros_make import RosbagsMaker
from foreact.robot_bridge.ros_types import decode, encode, warm
from foreact.robot_bridge.topic_names import TopicNames, TopicSpec
from foreact.vla.errors import ForeActError

_SAYS = ("instruction", "arm", "stop", "takeover")
_HEARS = ("state", "reply", "diagnostics")


class NoBridge(ForeActError):
    """No bridge answers on the topics."""


class Operator:
    """One person at the topics of one robot.

    Args:
        names: The robot's topics.
        scope: Domain and discovery range; default: of the environment.
        on_state: Called with each new state of the gate, from a thread of the transport: the JSON that it sent.
    """

    def __init__(
        self,
        names: TopicNames,
        scope: NetworkScope | None = None,
        on_state: Callable[[dict[str, Any]], None] | None = None,
    ):
        self._specs = {s.role: s.reversed() for s in names.specs() if s.role in (*_SAYS, *_HEARS)}
        self._node = DdsNode("foreact_operator", names.namespace, scope)
        self._make, self._on_state = RosbagsMaker(), on_state
        self._replies: list[dict[str, Any]] = []
        self._news = threading.Condition()
        self.state: dict[str, Any] = {}
        """What the gate said last."""
        self.diagnostics: Any = None
        """The last DiagnosticArray."""

    def open(self, timeout_s: float = 10.0) -> None:
        """Join, and wait until a bridge is heard.

        Raises:
            NoBridge: If none is.
        """
        for spec in self._specs.values():
            warm(spec.type)
        self._node.open(list(self._specs.values()), self._heard)
        if not self.wait(lambda: bool(self.state), timeout_s):
            topic = self._specs["state"].topic
            raise NoBridge(f"no bridge was heard on {topic} for {timeout_s:g} s; is `foreact robot run` running?")

    def say(self, instruction: str) -> None:
        """New words for the policy."""
        spec = self._specs["instruction"]
        self._node.publish(spec, encode(text_message(self._make, instruction), spec.type))

    def command(self, name: str, value: bool = True, timeout_s: float = 3.0) -> tuple[bool, str]:
        """ "arm", "stop" or "takeover"; arm with False disarms. Whether it was done, and the bridge's sentence, which
        may be to somebody else who asked for the same at the same time.

        Raises:
            NoBridge: If it does not answer.
        """
        spec, asked = self._specs[name], "disarm" if name == "arm" and not value else name

        def reply() -> dict[str, Any] | None:
            return next((found for found in self._replies if found.get("command") == asked), None)

        with self._news:
            self._replies.clear()
        self._node.publish(spec, encode(self._make.new("std_msgs/msg/Bool", data=value), spec.type))
        self.wait(lambda: reply() is not None, timeout_s)
        if (found := reply()) is None:
            raise NoBridge(f"the bridge did not answer {asked!r} within {timeout_s:g} s; does it still run?")
        return bool(found.get("done")), str(found.get("message", ""))

    def arm(self, patience_s: float) -> tuple[bool, str]:
        """Arm, and ask again for so long: what has to be seen first (fresh pictures, a policy that comes back) takes a
        moment. Whether it was done, and the last sentence."""
        end = time.monotonic() + patience_s
        while True:
            try:
                done, sentence = self.command("arm")
            except NoBridge as error:
                done, sentence = False, str(error)
            if done or time.monotonic() > end:
                return done, sentence
            time.sleep(0.3)

    def wait(self, until: Callable[[], bool], timeout_s: float) -> bool:
        """Wait for something to be so; False if it is not in time."""
        end = time.monotonic() + timeout_s
        with self._news:
            while not until():
                left = end - time.monotonic()
                if left <= 0.0:
                    return False
                self._news.wait(min(left, 0.2))
        return True

    def close(self) -> None:
        """Leave."""
        self._node.close()

    def _heard(self, spec: TopicSpec, data: bytes, received_s: float) -> None:
        message = decode(data, spec.type, f"a message on {spec.topic}")
        found = message if spec.role == "diagnostics" else json.loads(message.data)
        with self._news:
            if spec.role == "diagnostics":
                self.diagnostics = found
            elif spec.role == "reply":
                self._replies += [found] if isinstance(found, dict) else []
            else:
                self.state = found
            self._news.notify_all()
        if spec.role == "state" and self._on_state is not None:
            self._on_state(found)
