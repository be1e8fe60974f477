"""A simulated robot in real time: paced on the steady clock, pictures drawn in a thread of their own.

Where the machine cannot keep up, ticks are late; they are counted, and made up for as soon as possible. What lies more
than `GIVE_UP_S` behind is given up: simulated time then stands still for a while, as if the robot's computer had hung.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from foreact.robot_bridge.real_time import no_long_pauses
from foreact.robot_bridge.sim_robot import SimRobot
from foreact.vla.errors import ConfigError

GIVE_UP_S = 0.25


@dataclass
class Pace:
    """How well the steady clock was kept."""

    ticks: int = 0
    late_ticks: int = 0
    """Physics steps that began more than one period late."""
    max_late_s: float = 0.0
    given_up_s: float = 0.0
    pictures_skipped: int = 0
    """Moments at which the drawing thread was still busy."""


class PictureThread:
    """Draws views of the body, one at a time; what comes while it is busy is skipped and counted."""

    def __init__(self, robot: SimRobot, pace: Pace) -> None:
        self._robot, self._pace = robot, pace
        self._views: queue.Queue[tuple[Any, float, float] | None] = queue.Queue(maxsize=1)
        self._thread = threading.Thread(target=self._run, name="sim-robot-pictures", daemon=True)
        self._failed: Exception | None = None
        self._warm = threading.Event()

    def __enter__(self) -> PictureThread:
        """Opens the GL context, which takes a second or two, before anything moves."""
        self._robot.body.close()  # a context of this thread's would be of no use there
        self._thread.start()
        self._warm.wait()
        if self._failed is not None:
            self._thread.join()
            raise self._failed
        return self

    def __exit__(self, *_: object) -> None:
        self._views.put(None)
        self._thread.join(timeout=10.0)

    def take(self, view: Any, stamp_s: float, now_s: float) -> None:
        """Have a view drawn.

        Raises:
            ForeActError: If an earlier one could not be, because nothing on this machine draws.
        """
        if self._failed is not None:
            raise self._failed
        try:
            self._views.put_nowait((view, stamp_s, now_s))
        except queue.Full:
            self._pace.pictures_skipped += 1

    def _run(self) -> None:
        robot = self._robot
        try:
            if robot.camera_lines:
                robot.body.draw(robot.body.view())
            self._warm.set()
            while (item := self._views.get()) is not None:
                view, stamp_s, now_s = item
                for camera, image in robot.body.draw(view).items():
                    robot.post(lambda c=camera, i=image, s=stamp_s, n=now_s: robot.offer_picture(c, i, s, n))
        except Exception as error:  # raised again where the robot is stepped
            self._failed = error
            if self._warm.is_set():
                while self._views.get() is not None:
                    pass
            self._warm.set()
        finally:
            robot.body.close()


def run_in_real_time(
    robot: SimRobot,
    stop: threading.Event,
    *,
    factor: float = 1.0,
    each_second: Callable[[Pace], None] | None = None,
    each_picture: Callable[[], None] | None = None,
    steady: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    system: Callable[[], float] = time.time,
) -> Pace:
    """Step `robot` until `stop` is set. Header times begin at the system clock and advance with simulated time.

    Args:
        robot: Started already.
        stop: Set from a signal handler or another thread.
        factor: Simulated seconds per second. Other than 1.0, timeouts on the other side see a faster or slower robot.
        each_second: Called once per second of the steady clock.
        each_picture: Called in between steps, about 30 times per simulated second.
        steady: Seconds of a clock that nobody sets.
        sleep: Waits so many seconds.
        system: Seconds of the clock of header stamps.

    Raises:
        ConfigError: If `factor` is not above 0.
        NoGlBackend: If there are cameras and nothing draws here.
    """
    if not 0.0 < factor < float("inf"):
        raise ConfigError(f"the real-time factor must be above 0, found {factor}")
    pace, period_s = Pace(), robot.body.period_s / factor
    with PictureThread(robot, pace) as pictures, no_long_pauses():
        if robot.camera_lines:
            robot.picture_taker = pictures.take
        due_s = steady()
        second_s = due_s + 1.0
        robot.epoch_s = system() - robot.now_s
        try:
            while not stop.is_set():
                now_s = steady()
                if now_s < due_s:
                    sleep(due_s - now_s)
                elif (late_s := now_s - due_s) > period_s:
                    pace.late_ticks += 1
                    pace.max_late_s = max(pace.max_late_s, late_s)
                    if late_s > GIVE_UP_S:
                        pace.given_up_s += late_s
                        due_s += late_s
                        robot.epoch_s += late_s
                robot.step(robot.body.period_s)
                pace.ticks += 1
                due_s += period_s
                if each_picture is not None and robot.ticks % robot.settings.pictures_every == 0:
                    each_picture()
                if each_second is not None and due_s >= second_s:
                    second_s += 1.0
                    each_second(pace)
        finally:
            robot.picture_taker = None
            robot.serve()
    return pace
