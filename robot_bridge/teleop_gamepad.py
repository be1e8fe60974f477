"""A gamepad commands the arm: Linux's joystick device, read without waiting.

Each event has eight bytes: time in milliseconds (uint32), value (int16), type (uint8: 1 button, 2 axis, with 0x80 for
the state at the start) and number (uint8), in the byte order of the machine
(https://docs.kernel.org/input/joydev/joystick-api.html).

Sticks move only while the dead-man button is held: a stick that is held still sends nothing, so time says nothing here.
A device that was unplugged stops.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from foreact.robot_bridge.teleop import STILL, Motion
from foreact.vla.errors import ForeActError

_EVENT = struct.Struct("=IhBB")
_BUTTON, _AXIS, _INITIAL = 0x01, 0x02, 0x80
_FULL = 32767.0


@dataclass(frozen=True, kw_only=True)
class PadLayout:
    """Which axis and button does what; by default as Linux numbers an Xbox pad's."""

    axes: Mapping[int, tuple[int, float]] = field(
        default_factory=lambda: {1: (0, -1.0), 0: (1, -1.0), 4: (2, -1.0), 3: (5, -1.0), 6: (3, 1.0), 7: (4, -1.0)}
    )
    """Axis -> which motion (x, y, z, then turns about them), and its sign. Sticks are positive down and right."""
    dead_man: int = 4
    """Held to move: the left shoulder."""
    gripper: int = 0
    """Toggles: A."""
    takeover: int = 3
    """Toggles: Y."""
    stop: int = 1
    """B."""
    dead_zone: float = 0.1
    """Deflections below it are none."""


class NoGamepad(ForeActError):
    """There is no such device."""


class Gamepad:
    """A `TeleopDevice` on a joystick device.

    Args:
        device: Such as /dev/input/js0.
        layout: Of its axes and buttons.

    Raises:
        NoGamepad: If it cannot be opened.
    """

    def __init__(self, device: Path | str = "/dev/input/js0", layout: PadLayout | None = None) -> None:
        self._layout = layout or PadLayout()
        try:
            self._fd = os.open(device, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            there = ", ".join(sorted(str(p) for p in Path("/dev/input").glob("js*"))) or "none"
            raise NoGamepad(
                f"the gamepad {device} cannot be opened: {error.strerror or error}; joysticks here: {there}. "
                "Plug it in, or join the group that may read it (often `input`)"
            ) from error
        self._rest = b""
        self._axes: dict[int, float] = {}
        self._held: set[int] = set()
        self._toggles = 0
        self._takes_over = False
        self._stopped = False
        self._seen = False
        """Something came: an empty read before that is a pipe whose writer is not there yet."""

    def __enter__(self) -> Gamepad:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def gripper_toggles(self) -> int:
        """How often the gripper's button was pressed."""
        return self._toggles

    @property
    def stopped(self) -> bool:
        """The stop button was pressed, or the device is gone."""
        return self._stopped

    @property
    def takes_over(self) -> bool:
        """Toggled by a button."""
        return self._takes_over and not self._stopped

    def poll(self, now_s: float) -> Motion:
        """Read the events that came; the sticks as they are now, if the dead-man button is held."""
        self._read()
        if self._stopped or self._layout.dead_man not in self._held:
            return STILL
        values = [0.0] * 6
        for axis, (motion, sign) in self._layout.axes.items():
            values[motion] = sign * self._deflection(axis)
        return Motion(linear=(values[0], values[1], values[2]), angular=(values[3], values[4], values[5]), alive=True)

    def close(self) -> None:
        """Close the device."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._stopped = True

    def _deflection(self, axis: int) -> float:
        value, zone = self._axes.get(axis, 0.0), self._layout.dead_zone
        if abs(value) <= zone:
            return 0.0
        return (abs(value) - zone) / (1 - zone) * (1 if value > 0 else -1)

    def _read(self) -> None:
        while not self._stopped:
            try:
                data = os.read(self._fd, 64 * _EVENT.size)
            except BlockingIOError:
                return
            except OSError:  # unplugged
                self._stopped = True
                return
            if not data:
                self._stopped = self._seen
                return
            self._seen = True
            data = self._rest + data
            whole = len(data) // _EVENT.size * _EVENT.size
            self._rest = data[whole:]
            for _, value, kind, number in _EVENT.iter_unpack(data[:whole]):
                self._event(value, kind, number)

    def _event(self, value: int, kind: int, number: int) -> None:
        if kind & ~_INITIAL == _AXIS:
            self._axes[number] = max(-1.0, min(1.0, value / _FULL))
        elif kind & ~_INITIAL == _BUTTON:
            pressed = value != 0 and not kind & _INITIAL  # what is held at the start must be pressed anew
            if pressed and number not in self._held:
                self._toggles += number == self._layout.gripper
                self._takes_over ^= number == self._layout.takeover
                self._stopped |= number == self._layout.stop
            (self._held.add if pressed else self._held.discard)(number)
