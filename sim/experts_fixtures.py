"""The experts of door, drawer, button and lever: feedback laws that remember at most where the hand began."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from foreact.sim.expert_law import DOWN, TRAVEL_Z, Law, MakeLaw, Measured, Style, Waypoint, over, point
from foreact.sim.scenes import DOOR_WIDTH, SceneSpec


def press_button(scene: SceneSpec, now: Measured) -> Waypoint:
    """Over the button, then straight down; it toggles the LED at half its travel."""
    x, y = scene.button_xy
    return Waypoint(over(now.tcp, point(x, y, 0.46), 0.015, TRAVEL_Z), DOWN)


def _in_handle_gap(scene: SceneSpec, now: Measured) -> tuple[bool, np.ndarray]:
    """Whether the fingertips are behind the drawer's handle bar, and the goal that brings them there."""
    gap_y = -0.21 - now.drawer
    x, y, z = now.tcp
    inside = abs(x - scene.drawer_x) < 0.09 and -0.034 < y - gap_y < 0.034 and z < 0.395
    goal = point(scene.drawer_x, gap_y, 0.365)
    return inside, over(now.tcp, goal, 0.018, 0.47 if y < gap_y + 0.03 else TRAVEL_Z)


def open_drawer(scene: SceneSpec, now: Measured) -> Waypoint:
    """Fingertips into the gap behind the handle, then pull towards the robot."""
    inside, goal = _in_handle_gap(scene, now)
    if inside:
        goal = point(scene.drawer_x, now.tcp[1] - 0.08, 0.365)
    return Waypoint(goal, DOWN)


def close_drawer(scene: SceneSpec, now: Measured) -> Waypoint:
    """Fingertips into the gap behind the handle, then push the drawer's front."""
    inside, goal = _in_handle_gap(scene, now)
    if inside:
        goal = point(scene.drawer_x, now.tcp[1] + 0.08, 0.365)
    return Waypoint(goal, DOWN)


HANDLE_Y, HANDLE_Z = 0.012, 0.575
"""Where closed fingertips meet the bar of the sliding door from the side [m]."""


def _push_handle(scene: SceneSpec, now: Measured, side: float) -> Waypoint:
    """Push the door's handle from its `side` (+1: from the right, so to the left) with closed fingers."""
    handle_x = scene.door_x + DOOR_WIDTH / 2 - now.slide
    x, y, z = now.tcp
    beside = (x - handle_x) * side
    ready = point(handle_x + side * 0.065, HANDLE_Y, HANDLE_Z)
    if beside > 0.02 and y > HANDLE_Y - 0.022 and abs(z - HANDLE_Z) < 0.03:
        return Waypoint(point(x - side * 0.08, HANDLE_Y, HANDLE_Z), DOWN)
    if beside < 0.045 and y > -0.06 and abs(x - handle_x) < 0.2:
        # On the wrong side of the bar or in front of it: step back before going around.
        return Waypoint(point(x if y > -0.05 else ready[0], -0.085, HANDLE_Z), DOWN)
    if abs(x - ready[0]) > 0.02 or abs(z - HANDLE_Z) > 0.025:
        return Waypoint(point(ready[0], min(y, -0.08) if y > -0.085 else -0.08, HANDLE_Z), DOWN)
    return Waypoint(ready, DOWN)


def move_slider_left(scene: SceneSpec, now: Measured) -> Waypoint:
    """Push the handle from its right."""
    return _push_handle(scene, now, +1.0)


def move_slider_right(scene: SceneSpec, now: Measured) -> Waypoint:
    """Push the handle from its left."""
    return _push_handle(scene, now, -1.0)


LEVER_PITCH = -0.7
"""Pitch that points the fingers under the lever's bar [rad]."""
LEVER_PITCH_DOWN = -0.9
_SLOPE = np.array([0.0, 0.5, math.sqrt(0.75)])
_OUT = np.array([0.0, -math.sqrt(0.75), 0.5])


def _on_slope(x: float, s: float, n: float) -> np.ndarray:
    """The world point `s` up the cabinet's sloped face from its lower edge and `n` off it [m]."""
    return point(x, 0.02, 0.44) + s * _SLOPE + n * _OUT


def switch_up(scene: SceneSpec, now: Measured) -> Waypoint:
    """Tilt, bring the fingertips under the lever's bar and push it up along the slope."""
    euler = DOWN + np.array([0.0, LEVER_PITCH, 0.0])
    fingers = np.array([0.0, -math.sin(LEVER_PITCH), -math.cos(LEVER_PITCH)])
    x = scene.switch_x
    bar_s = 0.068 + now.switch
    under = _on_slope(x, bar_s - 0.044, 0.022) - 0.015 * fingers
    rel = now.tcp - under
    along, off = float(rel @ _SLOPE), float(rel @ _OUT)
    if abs(rel[0]) < 0.03 and off < 0.02 and along > -0.035 and abs(now.euler[1] - LEVER_PITCH) < 0.25:
        return Waypoint(under + (along + 0.06) * _SLOPE, euler)
    before = under + point(0.0, -0.07, 0.012)
    if abs(rel[0]) < 0.03 and abs(now.tcp[2] - before[2]) < 0.02 and now.tcp[1] > before[1] - 0.03:
        return Waypoint(under, euler)
    return Waypoint(over(now.tcp, before, 0.025, TRAVEL_Z + 0.02), euler)


def switch_down(scene: SceneSpec, now: Measured) -> Waypoint:
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
        return Waypoint(above + (along - 0.06) * _SLOPE, euler)
    if aligned and abs(along) < 0.025 and off < 0.12:
        return Waypoint(above, euler)
    return Waypoint(above + 0.08 * _OUT, euler)


CLEAR_M = 0.13
"""So far in front of the cabinet's sloped face nothing sticks out that the hand could hang on [m]."""


def _in_front(tcp: np.ndarray) -> float:
    """How far the TCP (3,) is in front of the cabinet's sloped face [m]."""
    return float((tcp - point(tcp[0], 0.02, 0.44)) @ _OUT)


def _from_anywhere(law: Callable[[SceneSpec, Measured], Waypoint]) -> MakeLaw:
    """First leave lever, handle or niche, where an earlier task may have left the hand, straight away from the face."""

    def make(scene: SceneSpec, first: Measured, style: Style) -> Law:
        del style
        leaving = _in_front(first.tcp) < CLEAR_M

        def act(now: Measured) -> Waypoint:
            nonlocal leaving
            leaving = leaving and _in_front(now.tcp) < CLEAR_M
            if leaving:
                return Waypoint(now.tcp + 0.06 * _OUT, now.euler, now.command)
            return law(scene, now)

        return act

    return make


RELEASED_Z = 0.52
"""From here on the fingertips are off the button [m]."""


def _press_again(scene: SceneSpec, first: Measured, style: Style) -> Law:
    """A button that may be held down is let go first: only the next press counts."""
    press = _from_anywhere(press_button)(scene, first, style)
    pressed = first.tcp[2] < RELEASED_Z and math.hypot(*(first.tcp[:2] - scene.button_xy)) < 0.06

    def act(now: Measured) -> Waypoint:
        nonlocal pressed
        pressed = pressed and now.tcp[2] < RELEASED_Z
        if pressed:
            return Waypoint(point(now.tcp[0], now.tcp[1], TRAVEL_Z + 0.02), DOWN)
        return press(now)

    return act


FIXTURE_LAWS: Mapping[str, MakeLaw] = {
    "move_slider_left": _from_anywhere(move_slider_left),
    "move_slider_right": _from_anywhere(move_slider_right),
    "open_drawer": _from_anywhere(open_drawer),
    "close_drawer": _from_anywhere(close_drawer),
    "turn_on_lightbulb": _from_anywhere(switch_up),
    "turn_off_lightbulb": _from_anywhere(switch_down),
    "turn_on_led": _press_again,
    "turn_off_led": _press_again,
}
"""Task name -> law."""
