"""The logic between button, lever and the two lamps.

Source: CALVIN, mees/calvin_env (MIT). The lever is a level: above half its travel the bulb is on. The button
is an edge: every press past half its travel toggles the LED. `rules` names the version whose memory is kept:

- "2022-12": a reset restores the button's memory from the LED, so each press changes the LED.
- "2022-04": a reset forgets it, so an LED that starts on needs two presses to go off.
"""

from __future__ import annotations

from dataclasses import dataclass

from foreact.sim.scenes import BUTTON_TRAVEL, SWITCH_TRAVEL
from foreact.vla.errors import ForeActError, did_you_mean

RULES = ("2022-12", "2022-04")
BUTTON_THRESHOLD_M = BUTTON_TRAVEL / 2.0
SWITCH_THRESHOLD_M = SWITCH_TRAVEL / 2.0


class UnknownRules(ForeActError):
    """The name of a rules version is not known."""

    exit_code = 2

    def __init__(self, name: str) -> None:
        super().__init__(f"no lamp rules {name!r}; {did_you_mean(name, RULES)}")


def is_pressed(button_m: float) -> bool:
    """Whether a button at this joint value [m] counts as pressed."""
    return button_m > BUTTON_THRESHOLD_M


@dataclass
class LightState:
    """Which lamps are on, and what the button remembers. Call `update` once per control step."""

    led: bool = False
    bulb: bool = False
    rules: str = "2022-12"
    pressed: bool = False
    """Whether the button was down at the last update."""

    def __post_init__(self) -> None:
        if self.rules not in RULES:
            raise UnknownRules(self.rules)
        self.memory = self.led if self.rules == "2022-12" else False

    def update(self, button_m: float, switch_m: float) -> None:
        """Take the joint values of button and lever [m] into account."""
        down = is_pressed(button_m)
        if down and not self.pressed:
            self.memory = not self.memory
            self.led = self.memory
        self.pressed = down
        self.bulb = switch_m > SWITCH_THRESHOLD_M
