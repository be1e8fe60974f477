"""Before a policy may drive: plans that nobody executes, timed; the same again when one that was lost is back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from foreact.robot_bridge.policy_thread import PolicyThread, Question
from foreact.vla.errors import ForeActError

AGAIN_S = 1.0
"""Between two tries to connect."""
SAME = ("checkpoint", "contract", "contract_hash", "robot", "execute_steps", "foresight_steps")
"""What a policy that comes back states as before; all else was compared with the robot when the first one connected."""


def require_same(found: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Whether a policy that was connected again is the one that was compared with the robot.

    Raises:
        ForeActError: If it states something else; it is named.
    """
    other = [name for name in SAME if found.get(name) != known.get(name)]
    if other:
        raise ForeActError(
            f"another policy is there now (other {', '.join(other)}): start the gate anew for it (the ROS 2 node: "
            "cleanup, then configure), or start the policy that was there before"
        )


class WarmUp:
    """So many plans, one at a time.

    Args:
        policy: Connected.
        question: Makes what is asked.
        count: Of plans.
    """

    def __init__(self, policy: PolicyThread, question: Callable[[], Question], count: int):
        self.took: list[float] = []
        """How long each plan took [s]."""
        self._policy, self._question, self._count = policy, question, count

    def tick(self) -> bool:
        """Whether all were made; never waits.

        Raises:
            ForeActError: If the policy failed.
        """
        for answer in self._policy.answers():
            if answer.error:
                raise ForeActError(f"the policy failed while it warmed up: {answer.error}")
            if answer.question.kind == "plan":
                self.took.append(answer.took_s)
        if len(self.took) >= self._count:
            return True
        if not self._policy.busy:
            self._policy.ask(self._question())
        return False


class Comeback:
    """Connects a lost policy again and warms it up, for a gate that is disarmed meanwhile.

    Args:
        policy: Its thread.
        metadata: What the policy stated when it was connected first.
        question: Makes what it is asked to warm up.
        count: Of plans.
    """

    def __init__(
        self, policy: PolicyThread, metadata: Mapping[str, Any], question: Callable[[], Question], count: int = 20
    ):
        self.problem = ""
        """Why the last try failed."""
        self.known = metadata
        """What the policy stated that was compared with the robot."""
        self._policy, self._question, self._count = policy, question, count
        self._connecting = False
        self._warm_up: WarmUp | None = None
        self._tried_s = -1e9

    @property
    def warms_up(self) -> bool:
        """Whether the policy's answers are to its warm-up."""
        return self._warm_up is not None

    def forget(self) -> None:
        """Somebody else connected the policy meanwhile: what was begun here is of another connection."""
        self.problem, self._warm_up, self._connecting = "", None, False

    def tick(self, now_s: float) -> list[float]:
        """What the plans of the warm-up took [s], once it is back; empty until then. Never waits."""
        try:
            if self._warm_up is not None:
                if self._warm_up.tick():
                    warm, self._warm_up, self.problem = self._warm_up, None, ""
                    return warm.took
                if not self._policy.alive:
                    raise ForeActError("the policy was lost again while it warmed up")
            elif self._connecting:
                self._connected()
            elif now_s - self._tried_s >= AGAIN_S:
                self._tried_s, self._connecting = now_s, True
                self._policy.connect_later()
        except ForeActError as error:
            self.problem, self._warm_up, self._connecting = str(error), None, False
        return []

    def _connected(self) -> None:
        metadata = self._policy.connected()
        if metadata is None:
            return
        self._connecting = False
        require_same(metadata, self.known)
        self._warm_up = WarmUp(self._policy, self._question, self._count)
