"""A keyboard commands the arm: a terminal in raw mode, read without waiting.

    w s   x forward, back      arrows up, down    y-turn       space  gripper opens, closes
    a d   y left, right        arrows left, right z-turn       tab    takes over, gives back to the policy
    r f   z up, down           q e                x-turn       esc    stops (so does Ctrl-C)

A terminal says nothing when a key is let go. It repeats a key that is held, after a first pause (often 0.25 to 0.5 s);
so a key counts for 0.2 s, and what is held moves, pauses once, and moves on.
"""

from __future__ import annotations

import os
import select
import sys
import termios
import tty
from typing import Any

from foreact.robot_bridge.teleop import DEAD_MAN_S, STILL, Motion
from foreact.vla.errors import ForeActError

_MOVES: dict[bytes, tuple[int, float]] = {
    b"w": (0, 1.0),
    b"s": (0, -1.0),
    b"a": (1, 1.0),
    b"d": (1, -1.0),
    b"r": (2, 1.0),
    b"f": (2, -1.0),
    b"q": (3, -1.0),
    b"e": (3, 1.0),
    b"\x1b[A": (4, 1.0),
    b"\x1b[B": (4, -1.0),
    b"\x1b[D": (5, 1.0),
    b"\x1b[C": (5, -1.0),
}
"""Key -> which of the six motions, and its sign."""
_ESCAPE, _CTRL_C = b"\x1b", b"\x03"
_ALONE_S = 0.05
"""An escape that nothing follows for so long is the key itself, not the beginning of an arrow."""


HELP = """\
    w s   x forward, back      arrows up, down    y-turn       space  gripper opens, closes
    a d   y left, right        arrows left, right z-turn       tab    takes over, gives back to the policy
    r f   z up, down           q e                x-turn       esc    stops (so does Ctrl-C)"""
"""The keys, for people."""


class NoTerminal(ForeActError):
    """Keys are to be read where there is no terminal."""


class Keyboard:
    """A `TeleopDevice` on a terminal.

    Args:
        fd: Of the terminal; by default standard input.
        dead_man_s: So long a key counts [s].

    Raises:
        NoTerminal: If `fd` is none.
    """

    def __init__(self, fd: int | None = None, dead_man_s: float = DEAD_MAN_S) -> None:
        self._fd = sys.stdin.fileno() if fd is None else fd
        if not os.isatty(self._fd):
            raise NoTerminal("teleoperation by keys needs a terminal; run it in one, or use a gamepad")
        self._before: list[Any] | None = termios.tcgetattr(self._fd)
        tty.setraw(self._fd, termios.TCSANOW)
        # Lines printed meanwhile should still begin on the left.
        now = termios.tcgetattr(self._fd)
        now[1] |= termios.OPOST
        termios.tcsetattr(self._fd, termios.TCSANOW, now)
        self._dead_man_s = dead_man_s
        self._pressed: dict[int, tuple[float, float]] = {}
        """Motion -> its sign, and when the key last came."""
        self._rest = b""
        self._rest_s = 0.0
        self._toggles = 0
        self._stopped = False
        self._takes_over = False

    def __enter__(self) -> Keyboard:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def gripper_toggles(self) -> int:
        """How often the space bar was pressed."""
        return self._toggles

    @property
    def stopped(self) -> bool:
        """Escape or Ctrl-C was pressed, or the terminal is gone."""
        return self._stopped

    @property
    def takes_over(self) -> bool:
        """Toggled by tab."""
        return self._takes_over and not self._stopped

    def poll(self, now_s: float) -> Motion:
        """Read the keys that came; those of the last 0.2 s move."""
        self._take(self._read(), now_s)
        if self._stopped:
            return STILL
        values = [0.0] * 6
        alive = False
        for motion, (sign, at_s) in self._pressed.items():
            if now_s - at_s <= self._dead_man_s:
                values[motion], alive = sign, True
        return Motion(linear=(values[0], values[1], values[2]), angular=(values[3], values[4], values[5]), alive=alive)

    def close(self) -> None:
        """Give the terminal back as it was."""
        before, self._before = self._before, None
        if before is not None:
            try:
                termios.tcsetattr(self._fd, termios.TCSADRAIN, before)
            except termios.error:  # the terminal is gone
                return

    def _read(self) -> bytes:
        found = b""
        try:
            while select.select([self._fd], [], [], 0)[0]:
                part = os.read(self._fd, 1024)
                if not part:
                    self._stopped = True
                    break
                found += part
        except OSError:  # the terminal was closed
            self._stopped = True
        return found

    def _take(self, data: bytes, now_s: float) -> None:
        if data:
            self._rest, self._rest_s = self._rest + data, now_s
        while self._rest:
            key = self._rest[:3] if self._rest.startswith(b"\x1b[") else self._rest[:1]
            if key in (_ESCAPE, b"\x1b[") and len(self._rest) < 3:
                if now_s - self._rest_s < _ALONE_S:
                    return  # the rest of an arrow may be on its way
                self._stopped = True
            self._rest = self._rest[len(key) :]
            self._press(key, now_s)

    def _press(self, key: bytes, now_s: float) -> None:
        if key in (_ESCAPE, _CTRL_C):
            self._stopped = True
        elif key == b" ":
            self._toggles += 1
        elif key == b"\t":
            self._takes_over = not self._takes_over
        elif key.lower() in _MOVES or key in _MOVES:
            motion, sign = _MOVES[key if key in _MOVES else key.lower()]
            self._pressed[motion] = (sign, now_s)
