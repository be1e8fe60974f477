"""Commands as goals of control_msgs/action/FollowJointTrajectory, for controllers that offer nothing else.

The gate makes a command every 20 ms, each of which replaces the last and ends at rest. As goals they are sent at a
lower rate (`rate_hz`, 25 by default): each preempts the one before, which is how joint_trajectory_controller treats a
new goal, and a preempted goal is no failure. Between two goals the arm follows the last, so a command must hold more
motion than the time between two goals, or the arm would brake each time: `check_rate` sees to that. The first command
of a stop is never held back. Nothing is cancelled at the end: what was sent ends at rest by itself, more smoothly than
the controller would hold.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from foreact.robot_bridge import messages_out
from foreact.robot_bridge.gate_settings import GateSettings
from foreact.robot_bridge.ros_make import Maker
from foreact.robot_bridge.ros_output import stamp_s
from foreact.robot_bridge.ros_threads import Latest
from foreact.robot_bridge.topic_names import TopicNames, TopicSpec
from foreact.robot_bridge.transport import Inbox
from foreact.robot_bridge.types import JointSample, TopicReport, Trajectory
from foreact.vla.errors import ConfigError

KIND = "control_msgs/action/FollowJointTrajectory"
GATE = {"lead_ticks": 8}
"""Gate settings that a robot file with `output: action` gets where it has none of its own."""
_UNANSWERED = 10
"""So many goals without an answer, and the server is told no more until it answers."""
_SLACK_S = 0.005
_SUCCEEDED, _CANCELED = 4, 5
"""action_msgs/msg/GoalStatus."""
_SUCCESSFUL, _INVALID_GOAL = 0, -1
"""FollowJointTrajectory's error codes; joint_trajectory_controller gives a preempted goal INVALID_GOAL."""


def check_rate(rate_hz: float, gate: GateSettings) -> None:
    """Whether goals come before the arm begins to brake.

    Raises:
        ConfigError: If they do not.
    """
    lead_s = gate.lead_ticks * gate.tick_s
    if 1.0 / rate_hz >= lead_s:
        raise ConfigError(
            f"action_rate_hz is {rate_hz:g}, a goal every {1e3 / rate_hz:.0f} ms, but a command holds only "
            f"{1e3 * lead_s:.0f} ms of motion before it brakes; raise the rate, or gate.lead_ticks in the robot file"
        )


class ActionOutput:
    """Goals.

    Args:
        node: rclpy's; its executor must run callbacks of several groups.
        names: All topics.
        make: Of messages.
        rate_hz: At most so many goals a second.
        on_error: Gets what sending raised.
    """

    def __init__(
        self, node: Any, names: TopicNames, make: Maker, rate_hz: float, on_error: Callable[[Exception], None]
    ):
        self._node, self._names, self._make, self._on_error = node, names, make, on_error
        self._gap_s = 1.0 / rate_hz - _SLACK_S
        self._client: Any = None
        self._inbox: Inbox | None = None
        self._sender: Latest | None = None
        self._sent_s, self._stopping = -1e9, False
        self._lock = threading.Lock()
        self._unanswered = 0
        self.counts = {"sent": 0, "accepted": 0, "refused": 0, "preempted": 0, "succeeded": 0, "failed": 0}

    def spec(self) -> TopicSpec | None:
        """As `ArmOutput.spec`."""
        return None

    def open(self, publisher: Any, inbox: Inbox, now_s: Callable[[], float]) -> None:
        """As `ArmOutput.open`."""
        from control_msgs.action import FollowJointTrajectory  # type: ignore[import-not-found]
        from rclpy.action import ActionClient  # type: ignore[import-not-found]
        from rclpy.callback_groups import ReentrantCallbackGroup  # type: ignore[import-not-found]

        self._inbox, self._goal, self._now_s = inbox, FollowJointTrajectory.Goal, now_s
        self._unanswered = 0
        self._client = ActionClient(
            self._node, FollowJointTrajectory, self._names.full(self._names.action),
            callback_group=ReentrantCallbackGroup(),
        )  # fmt: skip
        self._sender = Latest("ros action", self._on_error)

    def send(self, trajectory: Trajectory) -> None:
        """As `ArmOutput.send`."""
        now, stopping = time.monotonic(), trajectory.observed_s is None
        first_of_stop = stopping and not self._stopping
        if self._sender is None or (now - self._sent_s < self._gap_s and not first_of_stop):
            return
        self._sent_s, self._stopping = now, stopping
        self._sender.put("goal", lambda: self._send(trajectory))

    def joints(self, sample: JointSample) -> None:
        """As `ArmOutput.joints`."""

    def reports(self) -> Sequence[TopicReport]:
        """The action as if it were a topic: its servers listen on it, its clients publish. Whoever publishes to the
        controller's topic while we send goals commands the arm as well, and counts."""
        topic = self._node.resolve_service_name(self._names.full(self._names.action))
        service = f"{topic}/_action/send_goal"
        rivals = self._node.count_publishers(self._names.full(self._names.trajectory))
        kinds = [name for name, _ in self._node.get_service_names_and_types() if name == service]
        return (
            TopicReport(
                topic=topic, role="action", direction="out", expected_type=KIND, found_types=(KIND,) if kinds else (),
                publishers=self._node.count_clients(service) + rivals, subscribers=self._node.count_services(service),
                notes=(f"{rivals} publish on {self._names.full(self._names.trajectory)}",) if rivals else (),
            ),
        )  # fmt: skip

    def close(self) -> None:
        """As `ArmOutput.close`."""
        if self._sender is not None:
            self._sender.close()
            self._sender = None
        if self._client is not None:
            self._client.destroy()
            self._client = None

    def _send(self, trajectory: Trajectory) -> None:
        if not self._client.server_is_ready():
            with self._lock:
                self._unanswered = 0  # one that comes, or comes back, is asked again
            self._say(f"nobody serves the action {self._names.full(self._names.action)}; is the controller active?")
            return
        with self._lock:
            told = self._unanswered < _UNANSWERED
            self._unanswered += told
        if not told:
            self._say(f"the action server did not answer {_UNANSWERED} goals; it is told no more until it does")
            return
        goal = self._goal()
        stamp = stamp_s(trajectory, self._now_s) if self._names.stamped else 0.0
        goal.trajectory = messages_out.joint_trajectory(self._make, self._names.arm_joints, trajectory, stamp)
        self.counts["sent"] += 1
        self._client.send_goal_async(goal).add_done_callback(self._answered)

    def _answered(self, future: Any) -> None:
        with self._lock:
            self._unanswered = 0
        handle = future.result()
        if handle is None or not handle.accepted:
            self.counts["refused"] += 1
            self._say("the controller refused a goal; is it active, and are the joints its own?")
            return
        self.counts["accepted"] += 1
        handle.get_result_async().add_done_callback(self._ended)

    def _ended(self, future: Any) -> None:
        answer = future.result()
        if answer is None:
            return
        error = answer.result.error_code
        if answer.status == _SUCCEEDED:
            self.counts["succeeded"] += 1
        elif answer.status == _CANCELED or error in (_SUCCESSFUL, _INVALID_GOAL):
            self.counts["preempted"] += 1
        else:
            self.counts["failed"] += 1
            self._say(f"the controller gave a goal up: error {error}, {answer.result.error_string}")

    def _say(self, text: str) -> None:
        if self._inbox is not None:
            self._inbox.bad_message("action", text[:300], time.monotonic())
