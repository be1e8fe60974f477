"""The action of a trajectory controller, for a simulated robot: control_msgs/action/FollowJointTrajectory.

As ros2_controllers' JointTrajectoryController treats goals (`joint_trajectory_controller.cpp`, Apache-2.0): a new goal
preempts the one before, which ends with INVALID_GOAL; a goal of other joints is refused; a goal succeeds when its last
point is due.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

from foreact.robot_bridge import messages_in
from foreact.robot_bridge.robot_side import ReceivedTrajectory
from foreact.robot_bridge.topic_names import TopicNames
from foreact.robot_bridge.transport_errors import BadMessage


class RobotAction:
    """Offered from the start to `close`.

    Args:
        node: rclpy's, in an executor with several threads: a goal under way holds one.
        names: The bridge's topics.
        on_trajectory: Gets each goal that was accepted.
    """

    def __init__(self, node: Any, names: TopicNames, on_trajectory: Callable[[ReceivedTrajectory], None]):
        from control_msgs.action import FollowJointTrajectory  # type: ignore[import-not-found]
        from rclpy.action import ActionServer  # type: ignore[import-not-found]
        from rclpy.callback_groups import ReentrantCallbackGroup  # type: ignore[import-not-found]

        self._names, self._on_trajectory, self._kind = names, on_trajectory, FollowJointTrajectory
        self._newest: Any = None
        self._news = threading.Condition()
        self._closing, self._under_way = False, 0
        self.counts = {"accepted": 0, "refused": 0, "preempted": 0, "succeeded": 0}
        self._server = ActionServer(
            node, FollowJointTrajectory, names.full(names.action), self._execute, goal_callback=self._judge,
            handle_accepted_callback=self._accepted, callback_group=ReentrantCallbackGroup(),
        )  # fmt: skip

    def close(self) -> None:
        """Give up what is under way; the executor must still run."""
        with self._news:
            self._closing = True
            self._news.notify_all()
            self._news.wait_for(lambda: self._under_way == 0, timeout=1.0)
        self._server.destroy()

    def _judge(self, goal: Any) -> Any:
        from rclpy.action import GoalResponse  # type: ignore[import-not-found]

        fits = sorted(goal.trajectory.joint_names) == sorted(self._names.arm_joints) and goal.trajectory.points
        self.counts["accepted" if fits else "refused"] += 1
        return GoalResponse.ACCEPT if fits else GoalResponse.REJECT

    def _accepted(self, handle: Any) -> None:
        with self._news:
            self._newest = handle
            self._under_way += 1
            self._news.notify_all()
        with contextlib.suppress(BadMessage):  # nothing is obeyed; the goal ends when it would have ended
            self._on_trajectory(messages_in.trajectory(handle.request.trajectory, time.monotonic()))
        handle.execute()

    def _execute(self, handle: Any) -> Any:
        try:
            return self._follow(handle)
        finally:
            with self._news:
                self._under_way -= 1
                self._news.notify_all()

    def _follow(self, handle: Any) -> Any:
        after = handle.request.trajectory.points[-1].time_from_start
        end = time.monotonic() + after.sec + 1e-9 * after.nanosec  # a stamp is that of a moment ago
        result = self._kind.Result()
        with self._news:
            while self._newest is handle and not self._closing and (left := end - time.monotonic()) > 0.0:
                self._news.wait(left)
            done = self._newest is handle and not self._closing
        if done:
            self.counts["succeeded"] += 1
            handle.succeed()
        else:
            self.counts["preempted"] += 1
            result.error_code = self._kind.Result.INVALID_GOAL
            result.error_string = "Current goal cancelled due to new incoming action."
            # Without a request to cancel, rclpy's goal can only be aborted; the code says the same.
            handle.abort()
        return result
