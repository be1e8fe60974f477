"""Which of the replies on a topic that everybody hears is the answer."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from foreact.robot_bridge import messages_out
from foreact.robot_bridge.config import load_robot
from foreact.robot_bridge.operator import NoBridge, Operator
from foreact.robot_bridge.ros_make import RosbagsMaker
from foreact.robot_bridge.ros_types import encode

MAKE = RosbagsMaker()


class Replies:
    """In a node's place: to whatever is published come these replies, the last one from a thread of its own."""

    def __init__(self, *replies: tuple[str, bool, str] | str):
        self.person = Operator(load_robot("desk_sim").topic_names())
        self.person._node = self  # type: ignore[assignment]
        self._replies = replies

    def publish(self, spec: Any, data: bytes) -> None:
        *first, last = self._replies
        for reply in first:
            self._hear(reply)
        threading.Timer(0.02, self._hear, [last]).start()

    def _hear(self, reply: tuple[str, bool, str] | str) -> None:
        spec = self.person._specs["reply"]
        made = messages_out.text(MAKE, reply) if isinstance(reply, str) else messages_out.reply(MAKE, *reply)
        self.person._heard(spec, encode(made, spec.type), 0.0)


@pytest.mark.parametrize(
    ("name", "value", "answered"),
    [("arm", True, "arm"), ("arm", False, "disarm"), ("stop", True, "stop"), ("takeover", False, "takeover")],
)
def test_only_the_reply_to_what_was_asked_is_the_answer(name: str, value: bool, answered: str) -> None:
    others = [(other, True, "somebody else's") for other in ("arm", "disarm", "stop", "takeover") if other != answered]
    person = Replies(*others, "[1]", (answered, False, "not now")).person
    assert person.command(name, value) == (False, "not now")


def test_a_bridge_that_answers_only_others_does_not_answer() -> None:
    person = Replies(("stop", True, "stopping"), ("arm", True, "armed")).person
    with pytest.raises(NoBridge, match="did not answer 'disarm' within 0.2 s"):
        person.command("arm", False, timeout_s=0.2)
