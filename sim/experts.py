"""Scripted experts for the fixture tasks: feedback laws that act only through `DeskEnv.step`.

An expert is a function of what is measured now (TCP pose and fixture positions), not of time: after a slip or a push it
finds its way back, and a policy can imitate it from a short history. Every law names the next goal pose; `Expert`
turns the goal into a relative action.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from foreact.sim.scenes import DOOR_WIDTH, SceneSpec
from foreact.vla.errors import ConfigError, did_you_mean

DOWN = np.array([math.pi, 0.0, math.pi / 2])
"""TCP Euler angles (extrinsic xyz) with the fingers pointing down and closing along world x."""
OPEN, CLOSE = 1.0, -1.0
TRAVEL_Z = 0.53
"""TCP height that clears the blocks on the desk (top 0.48) with closed fingers (0.015 below the TCP) [m]."""
POSITION_UNIT_M, ROTATION_UNIT_RAD = 0.02, 0.05
"""What an action component of 1.0 stands for (CALVIN, mees/calvin_env)."""


@dataclass(frozen=True)
class Measured:
    """What an expert looks at."""

    tcp: np.ndarray
    """(3,) TCP position, world [m]."""
    euler: np.ndarray
    """(3,) TCP Euler angles, extrinsic xyz [rad]."""
    slide: float
    drawer: float
    switch: float
    """Joint values [m] as in scene_obs."""

    @classmethod
    def of(cls, robot_obs: np.ndarray, scene_obs: np.ndarray) -> Measured:
        """From robot_obs (15,) and scene_obs (24,)."""
        slide, drawer, _, switch = (float(v) for v in scene_obs[:4])
        return cls(robot_obs[:3].copy(), robot_obs[3:6].copy(), slide, drawer, switch)


@dataclass(frozen=True)
class Goal:
    """Where the TCP should go next."""

    pos: np.ndarray
    """(3,) world [m]."""
    euler: np.ndarray
    """(3,) extrinsic xyz [rad]."""
    gripper: float = CLOSE


Law = Callable[[SceneSpec, Measured], Goal]


def _at(x: float, y: float, z: float) -> np.ndarray:
    return np.array([x, y, z])


def _over(tcp: np.ndarray, goal: np.ndarray, radius: float, travel_z: float) -> np.ndarray:
    """Go to `goal` from above: rise to `travel_z` first, cross over, and descend within `radius` of its axis."""
    away = math.hypot(goal[0] - tcp[0], goal[1] - tcp[1])
    if away < radius:
        return goal
    if tcp[2] < travel_z - 0.03 and away > 2 * radius:
        return _at(tcp[0], tcp[1], travel_z + 0.02)
    return _at(goal[0], goal[1], travel_z)


def press_button(scene: SceneSpec, now: Measured) -> Goal:
    """Over the button, then straight down; it toggles the LED at half its travel."""
    x, y = scene.button_xy
    return Goal(_over(now.tcp, _at(x, y, 0.46), 0.015, TRAVEL_Z), DOWN)


def _in_handle_gap(scene: SceneSpec, now: Measured) -> tuple[bool, np.ndarray]:
    """Whether the fingertips are behind the drawer's handle bar, and the goal that brings them there."""
    gap_y = -0.21 - now.drawer
    x, y, z = now.tcp
    inside = abs(x - scene.drawer_x) < 0.09 and -0.034 < y - gap_y < 0.034 and z < 0.395
    goal = _at(scene.drawer_x, gap_y, 0.365)
    return inside, _over(now.tcp, goal, 0.018, 0.47 if y < gap_y + 0.03 else TRAVEL_Z)


def open_drawer(scene: SceneSpec, now: Measured) -> Goal:
    """Fingertips into the gap behind the handle, then pull towards the robot."""
    inside, goal = _in_handle_gap(scene, now)
    if inside:
        goal = _at(scene.drawer_x, now.tcp[1] - 0.08, 0.365)
    return Goal(goal, DOWN)


def close_drawer(scene: SceneSpec, now: Measured) -> Goal:
    """Fingertips into the gap behind the handle, then push the drawer's front."""
    inside, goal = _in_handle_gap(scene, now)
    if inside:
        goal = _at(scene.drawer_x, now.tcp[1] + 0.08, 0.365)
    return Goal(goal, DOWN)


HANDLE_Y, HANDLE_Z = 0.012, 0.575
"""Where closed fingertips meet the bar of the sliding door from the side [m]."""


def _push_handle(scene: SceneSpec, now: Measured, side: float) -> Goal:
    """Push the door's handle from its `side` (+1: from the right, so to the left) with closed fingers."""
    handle_x = scene.door_x + DOOR_WIDTH / 2 - now.slide
    x, y, z = now.tcp
    beside = (x - handle_x) * side
    ready = _at(handle_x + side * 0.065, HANDLE_Y, HANDLE_Z)
    if beside > 0.02 and y > HANDLE_Y - 0.022 and abs(z - HANDLE_Z) < 0.03:
        return Goal(_at(x - side * 0.08, HANDLE_Y, HANDLE_Z), DOWN)
    if beside < 0.045 and y > -0.06 and abs(x - handle_x) < 0.2:
        # On the wrong side of the bar or in front of it: step back before going around.
        return Goal(_at(x if y > -0.05 else ready[0], -0.085, HANDLE_Z), DOWN)
    if abs(x - ready[0]) > 0.02 or abs(z - HANDLE_Z) > 0.025:
        return Goal(_at(ready[0], min(y, -0.08) if y > -0.085 else -0.08, HANDLE_Z), DOWN)
    return Goal(ready, DOWN)


def move_slider_left(scene: SceneSpec, now: Measured) -> Goal:
    """Push the handle from its right."""
    return _push_handle(scene, now, +1.0)


def move_slider_right(scene: SceneSpec, now: Measured) -> Goal:
    """Push the handle from its left."""
    return _push_handle(scene, now, -1.0)


LEVER_PITCH = -0.7
"""Pitch that points the fingers under the lever's bar [rad]."""
LEVER_PITCH_DOWN = -0.9
_SLOPE = np.array([0.0, 0.5, math.sqrt(0.75)])
_OUT = np.array([0.0, -math.sqrt(0.75), 0.5])


def _on_slope(x: float, s: float, n: float) -> np.ndarray:
    """The world point `s` up the cabinet's sloped face from its lower edge and `n` off it [m]."""
    return _at(x, 0.02, 0.44) + s * _SLOPE + n * _OUT


def switch_up(scene: SceneSpec, now: Measured) -> Goal:
    """Tilt, bring the fingertips under the lever's bar and push it up along the slope."""
    euler = DOWN + np.array([0.0, LEVER_PITCH, 0.0])
    fingers = np.array([0.0, -math.sin(LEVER_PITCH), -math.cos(LEVER_PITCH)])
    x = scene.switch_x
    bar_s = 0.068 + now.switch
    under = _on_slope(x, bar_s - 0.044, 0.022) - 0.015 * fingers
    rel = now.tcp - under
    along, off = float(rel @ _SLOPE), float(rel @ _OUT)
    if abs(rel[0]) < 0.03 and off < 0.02 and along > -0.035 and abs(now.euler[1] - LEVER_PITCH) < 0.25:
        return Goal(under + (along + 0.06) * _SLOPE, euler)
    before = under + _at(0.0, -0.07, 0.012)
    if abs(rel[0]) < 0.03 and abs(now.tcp[2] - before[2]) < 0.02 and now.tcp[1] > before[1] - 0.03:
        return Goal(under, euler)
    return Goal(_over(now.tcp, before, 0.025, TRAVEL_Z + 0.02), euler)


def switch_down(scene: SceneSpec, now: Measured) -> Goal:
    """Tilt, bring the fingertips over the lever's bar and push it down along the slope.

    The tilt is for reach: with the fingers pointing straight down the wrist would have to be 0.9 m from the shoulder.
    """
    euler = DOWN + np.array([0.0, LEVER_PITCH_DOWN, 0.0])
    fingers = np.array([0.0, -math.sin(LEVER_PITCH_DOWN), -math.cos(LEVER_PITCH_DOWN)])
    above = _on_slope(scene.switch_x, 0.068 + now.switch + 0.044, 0.020) - 0.015 * fingers
    rel = now.tcp - above
    along, off = float(rel @ _SLOPE), float(rel @ _OUT)
    aligned = abs(rel[0]) < 0.03 and abs(now.euler[1] - LEVER_PITCH_DOWN) < 0.3
    if aligned and off < 0.02 and along < 0.04:
        return Goal(above + (along - 0.06) * _SLOPE, euler)
    if aligned and abs(along) < 0.025 and off < 0.12:
        return Goal(above, euler)
    return Goal(above + 0.08 * _OUT, euler)


LAWS: dict[str, Law] = {
    "move_slider_left": move_slider_left,
    "move_slider_right": move_slider_right,
    "open_drawer": open_drawer,
    "close_drawer": close_drawer,
    "turn_on_lightbulb": switch_up,
    "turn_off_lightbulb": switch_down,
    "turn_on_led": press_button,
    "turn_off_led": press_button,
}
"""Task name -> feedback law."""


class Expert:
    """Acts by the feedback law of one task.

    The action is proportional to the distance that is left, saturated at `speed`: with a target pose that integrates
    actions and a servo that lags by about one step, gains above 0.5 overshoot.
    """

    def __init__(self, task: str, scene: SceneSpec, *, speed: float = 0.9, gain: float = 0.3) -> None:
        """Choose the law.

        Args:
            task: Task name.
            scene: The scene it acts in.
            speed: Largest action component, at most 1.
            gain: Share of the remaining distance that one step commands.

        Raises:
            ConfigError: If there is no expert for the task.
        """
        if task not in LAWS:
            raise ConfigError(f"no scripted expert for task {task!r}; {did_you_mean(task, LAWS)}")
        self.law = LAWS[task]
        self.scene = scene
        self.speed = speed
        self.gain = gain

    def act(self, robot_obs: np.ndarray, scene_obs: np.ndarray) -> np.ndarray:
        """The relative Cartesian action (7,) in [-1, 1] for what is measured now."""
        now = Measured.of(robot_obs, scene_obs)
        goal = self.law(self.scene, now)
        turn = goal.euler - now.euler
        turn = (turn + math.pi) % (2 * math.pi) - math.pi
        step = self.gain * np.concatenate([(goal.pos - now.tcp) / POSITION_UNIT_M, turn / ROTATION_UNIT_RAD])
        move, spin = step[:3], step[3:]
        # Scale the whole vector, not each component: the path stays straight.
        move = move * min(1.0, self.speed / max(float(np.abs(move).max()), 1e-9))
        spin = spin * min(1.0, self.speed / max(float(np.abs(spin).max()), 1e-9))
        return np.concatenate([move, spin, [goal.gripper]])
