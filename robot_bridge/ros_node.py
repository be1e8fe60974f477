"""The gate process as a ROS 2 lifecycle node, for Jazzy and later. Torch and MuJoCo stay in the policy's process.

| transition | what it does |
|---|---|
| configure | reads the robot file, connects the policy server, compares contracts, times it with made-up pictures |
| activate | subscribes and publishes; a thread ticks the bridge at 100 Hz; it is DISARMED |
| deactivate | stops the arm smoothly, disarms, leaves the topics |
| cleanup, shutdown, error | the same, and hangs up |

`python -m foreact.robot_bridge.ros_node`, or `ros2 run foreact_ros bridge`. This module can be imported without ROS.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from foreact.robot_bridge import ros_parameters
from foreact.robot_bridge.comeback import require_same
from foreact.robot_bridge.config import Robot, load_robot
from foreact.robot_bridge.made_up import made_up
from foreact.robot_bridge.network import Range, need_keys, read_network
from foreact.robot_bridge.types import State
from foreact.vla.errors import ForeActError

if TYPE_CHECKING:
    from foreact.robot_bridge.bridge import Bridge
    from foreact.robot_bridge.ros_transport import RosTransport

try:
    from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn  # type: ignore[import-not-found]
except ImportError as _error:
    LifecycleNode, TransitionCallbackReturn, _missing = object, cast(Any, None), repr(_error)
else:
    _missing = ""

_STOP_S = 1.0
_MOVING = (State.RUNNING, State.HOLD)


class RosMissing(ForeActError):
    """rclpy cannot be imported."""


def need_ros() -> None:
    """Say what to do where there is no rclpy.

    Raises:
        RosMissing: If there is none.
    """
    if _missing:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise RosMissing(
            f"this needs ROS 2's Python library rclpy, and Python {version} at {sys.executable} has none ({_missing}). "
            "Install ROS 2 Jazzy (https://docs.ros.org/en/jazzy/Installation.html), then: "
            "`source /opt/ros/jazzy/setup.bash`, `python3 -m venv --system-site-packages venv`, "
            "`venv/bin/pip install '.[robot]' 'numpy<2'`, and run it with that Python; see docs/ros2.md. "
            "Without ROS, `foreact robot run` speaks to the same topics"
        )


class ForeActNode(LifecycleNode):  # type: ignore[misc, valid-type]
    """One bridge as a node; add it to an executor with several threads.

    Args:
        name: Of the node.
        options: As for rclpy's `LifecycleNode`.

    Raises:
        RosMissing: If there is no rclpy.
        ConfigError: If a parameter given from outside is not valid.
    """

    def __init__(self, name: str = "foreact", **options: Any):
        need_ros()
        from rclpy.callback_groups import MutuallyExclusiveCallbackGroup  # type: ignore[import-not-found]

        super().__init__(name, **options)
        self.bridge: Bridge | None = None
        self._way: RosTransport | None = None
        self._configured = False
        self._lock = threading.RLock()
        """Transitions come from the executor, the end of the program from the main thread."""
        self._ended = threading.Event()
        self._loop: threading.Thread | None = None
        self._crash = ""
        self._shown = 0
        _answer_always(self)
        ros_parameters.declare(self)
        self.add_on_set_parameters_callback(self._on_set)
        self._offer_services()
        # It also wakes an idle executor, which would otherwise sleep through a signal.
        self.create_timer(0.5, self._each_half_second, callback_group=MutuallyExclusiveCallbackGroup())

    # --- transitions --------------------------------------------------------------------------------------------------

    def on_configure(self, state: Any) -> Any:
        """Everything that can fail before a robot is there."""
        self._configured = True
        try:
            self._configure()
        except ForeActError as error:
            return self._refuse("configure", error)
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: Any) -> Any:
        """Join the topics, DISARMED."""
        with self._lock:
            return self._activate() or super().on_activate(state)

    def _activate(self) -> Any:
        """None if it is active now."""
        if (bridge := self.bridge) is None:
            return TransitionCallbackReturn.FAILURE
        try:
            if not bridge.policy.alive:
                self._connect_again(bridge)
            bridge.start()
        except ForeActError as error:
            self.get_logger().error(f"not activated: {error}")
            return TransitionCallbackReturn.FAILURE
        self._ended.clear()
        self._crash = ""
        self._loop = threading.Thread(target=self._run, args=(bridge,), name="foreact gate", daemon=True)
        self._loop.start()
        self.get_logger().info("active and disarmed" + ("; dry run: nothing is sent" if bridge.dry_run else ""))
        return None

    def on_deactivate(self, state: Any) -> Any:
        """Stop, disarm, leave the topics."""
        self._stand_down()
        return super().on_deactivate(state)

    def on_cleanup(self, state: Any) -> Any:
        """Hang up."""
        self._hang_up()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: Any) -> Any:
        """From any state."""
        self._hang_up()
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: Any) -> Any:
        """To unconfigured."""
        self.get_logger().error("an error in a transition: the arm is stopped and the node unconfigured")
        self._hang_up()
        return TransitionCallbackReturn.SUCCESS

    # --- inside -------------------------------------------------------------------------------------------------------

    def _configure(self) -> None:
        from foreact.robot_bridge.assemble import assemble, gate_settings
        from foreact.robot_bridge.ros_action import GATE, check_rate
        from foreact.robot_bridge.ros_transport import RosTransport
        from foreact.vla.serving.access import read_token

        values = {s.name: self.get_parameter(s.name).value for s in ros_parameters.SETTINGS}
        robot = ros_parameters.apply(load_robot(values["robot"]), values)
        if robot.output == "action":
            robot = robot.model_copy(update={"gate": {**GATE, **robot.gate}})
            check_rate(values["action_rate_hz"], gate_settings(robot))
        scope = read_network(unset=Range.SUBNET, arguments=sys.argv)
        refusals = scope.refusals(allow_network=values["allow_network"], transport_has_security=True)
        for refused in refusals:
            self.get_logger().warning(f"will not be armed: {refused}")
        names = robot.topic_names().model_copy(update={"node": self.get_name(), "namespace": self.get_namespace()})
        self._way = RosTransport(
            self, names, robot.arm(), output=robot.output, hardware_id=robot.name,
            action_rate_hz=values["action_rate_hz"], log=self.get_logger().warning,
        )  # fmt: skip
        self._way.foresight_quality = values["foresight_quality"]
        self.bridge = assemble(
            robot, self._way, token=read_token(robot.policy.token_file),
            events=Path(values["events"]) if values["events"] else None, recorder=_recorder(robot, values["store"]),
            dry_run=values["dry_run"], refusals=tuple(refusals), stamps=self._way.now_s,
        )  # fmt: skip
        took = self._warm_up(self.bridge)
        self.get_logger().info(
            f"robot {robot.name}, policy {robot.policy.url}: {len(took)} plans, "
            f"median {1e3 * sorted(took)[len(took) // 2]:.0f} ms"
        )

    def _connect_again(self, bridge: Bridge) -> None:
        """A policy that was lost while nobody asked it anything.

        Raises:
            ForeActError: If it is not there, not the one that was configured, or fails; it is hung up on then.
        """
        comeback = bridge.conversation.comeback
        try:
            require_same(bridge.policy.connect(), comeback.known)
            comeback.forget()
            self._warm_up(bridge)
        except ForeActError:
            bridge.policy.close()  # or the next activation would take it for one that was compared and warmed up
            raise

    def _warm_up(self, bridge: Bridge) -> list[float]:
        return bridge.warm_up(self.get_parameter("warm_up").value, shown=made_up(bridge.robot))

    def _run(self, bridge: Bridge) -> None:
        try:
            bridge.loop(self._ended.is_set)
        except Exception as error:  # what was sent ends at rest by itself; nothing is sent any more
            self._crash = f"the gate's loop failed: {error!r}"
            bridge.gate.disarm(time.monotonic())

    def _stand_down(self) -> None:
        """Stop smoothly, then end the loop and leave the topics."""
        with self._lock:
            self._stop()

    def _stop(self) -> None:
        bridge, loop = self.bridge, self._loop
        if bridge is None or loop is None:
            return
        if loop.is_alive() and bridge.gate.state in _MOVING:
            bridge.mailbox.command("stop", True)
            end = time.monotonic() + _STOP_S
            while bridge.gate.state in _MOVING and time.monotonic() < end:
                time.sleep(0.01)
        if loop.is_alive():
            bridge.mailbox.command("disarm", True)
        self._ended.set()
        loop.join(timeout=5.0)
        self._loop = None
        self._log_events()
        bridge.stand_down()

    def _hang_up(self) -> None:
        with self._lock:
            self._stop()
            bridge, self.bridge, self._way = self.bridge, None, None
            if bridge is not None:
                bridge.close()
            self._configured = False
            self._shown = 0

    def _refuse(self, what: str, error: ForeActError) -> Any:
        self.get_logger().error(f"not {what}d: {error}")
        self._hang_up()
        return TransitionCallbackReturn.FAILURE

    # --- parameters, services, time -----------------------------------------------------------------------------------

    def _on_set(self, parameters: Any) -> Any:
        from rcl_interfaces.msg import SetParametersResult  # type: ignore[import-not-found]

        reason = ros_parameters.refusal(parameters, self._configured)
        if not reason and self._way is not None:
            for parameter in parameters:
                if parameter.name == "foresight_quality":
                    self._way.foresight_quality = parameter.value
        return SetParametersResult(successful=not reason, reason=reason)

    def _offer_services(self) -> None:
        from rclpy.callback_groups import MutuallyExclusiveCallbackGroup  # type: ignore[import-not-found]
        from std_srvs.srv import SetBool, Trigger  # type: ignore[import-not-found]

        def on(name: str, kind: Any) -> None:
            def answer(request: Any, response: Any) -> Any:
                response.success, response.message = self._command(name, getattr(request, "data", True))
                return response

            # Each in a group of its own: a stop never waits behind an "arm" that is still being judged.
            self.create_service(kind, f"~/{name}", answer, callback_group=MutuallyExclusiveCallbackGroup())

        for name in ("arm", "disarm", "stop"):
            on(name, Trigger)
        on("takeover", SetBool)

    def _command(self, name: str, value: bool) -> tuple[bool, str]:
        bridge = self.bridge
        if bridge is None or self._loop is None:
            return False, f"the node is not active, so it cannot {name}; `ros2 lifecycle set ... activate` first"
        return bridge.mailbox.command(name, value)

    def _each_half_second(self) -> None:
        self._log_events()
        if self._crash and self._loop is not None:
            self.get_logger().fatal(self._crash)
            self._crash = ""
            self.trigger_deactivate()

    def _log_events(self) -> None:
        bridge, logger = self.bridge, self.get_logger()
        if bridge is None:
            return
        total = bridge.gate.log.kinds.total()
        for event in bridge.gate.log.last(min(total - self._shown, 20)):
            sentence = f"{event.state}: {event.message}"
            if event.kind != "state" or event.state in (State.FAULT, State.HOLD):
                logger.warning(sentence)
            else:
                logger.info(sentence)
        self._shown = total

    def destroy_node(self) -> None:
        """Stop, hang up, destroy."""
        self._hang_up()
        super().destroy_node()


def _answer_always(node: Any) -> None:
    """Of a transition that its state does not have, rclpy 7 raises out of the service and never answers the caller."""
    from rclpy._rclpy_pybind11 import RCLError  # type: ignore[import-not-found]

    service = node._service_change_state
    change = service.callback

    def answer(request: Any, response: Any) -> Any:
        try:
            return change(request, response)
        except RCLError as error:
            node.get_logger().warning(f"refused: {error!s:.200}")
            response.success = False
            return response

    service.callback = answer


def main(arguments: list[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM; the arm is stopped and disarmed then.

    Args:
        arguments: Command line without the program's name; None: this process's.
    """
    try:
        need_ros()
        return _main(arguments)
    except ForeActError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _main(arguments: list[str] | None) -> int:
    import rclpy  # type: ignore[import-not-found]
    from rclpy.executors import MultiThreadedExecutor  # type: ignore[import-not-found]
    from rclpy.signals import SignalHandlerOptions  # type: ignore[import-not-found]

    given = [sys.argv[0], *(sys.argv[1:] if arguments is None else arguments)]
    need_keys(given)
    told = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: told.set())
    # rclpy's own handlers would take the topics away before the arm is told to stop.
    rclpy.init(args=given, signal_handler_options=SignalHandlerOptions.NO)
    node = ForeActNode()
    executor = MultiThreadedExecutor(num_threads=4)
    executor.add_node(node)
    spinning = threading.Thread(target=_spin, args=(executor, node, told), name="ros executor", daemon=True)
    spinning.start()
    with contextlib.suppress(KeyboardInterrupt):
        while not told.wait(0.2):  # a signal that another thread got is only handled when this one looks
            pass
    node._hang_up()
    executor.shutdown(timeout_sec=2.0)
    spinning.join(timeout=2.0)
    node.destroy_node()
    rclpy.try_shutdown()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # all is done; a second one must not make it look like a crash
    return 0


def _spin(executor: Any, node: ForeActNode, told: threading.Event) -> None:
    from rclpy.executors import ExternalShutdownException, ShutdownException  # type: ignore[import-not-found]

    while not told.is_set():
        try:
            executor.spin()
            return
        except (ExternalShutdownException, ShutdownException, KeyboardInterrupt):
            told.set()
        except Exception as error:  # such as a transition that its state machine does not know
            node.get_logger().error(f"a callback failed: {error!s:.300}")


def _recorder(robot: Robot, store: str) -> Any:
    if not store:
        return None
    from foreact.robot_bridge.record_bridge import BridgeRecorder

    return BridgeRecorder(robot, Path(store))


if __name__ == "__main__":
    sys.exit(main())
