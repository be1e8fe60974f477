"""What people say: training instructions of our own, and CALVIN's validation sentence for each task.

Validation sentences are CALVIN's (mees/calvin, `conf/annotations/new_playtable_validation.yaml`, MIT); none of them is
a training instruction, so a policy is always judged on a sentence that it never read.
"""

from __future__ import annotations

from typing import TypeVar

from foreact.vla.errors import ConfigError, did_you_mean

_T = TypeVar("_T")

VALIDATION: dict[str, str] = {
    "move_slider_left": "push the sliding door to the left side",
    "move_slider_right": "push the sliding door to the right side",
    "open_drawer": "pull the handle to open the drawer",
    "close_drawer": "push the handle to close the drawer",
    "turn_on_lightbulb": "use the switch to turn on the light bulb",
    "turn_off_lightbulb": "use the switch to turn off the light bulb",
    "turn_on_led": "press the button to turn on the led light",
    "turn_off_led": "press the button to turn off the led light",
}

TRAINING: dict[str, tuple[str, ...]] = {
    "move_slider_left": (
        "move the sliding door left",
        "slide the door to the left",
        "push the door to the left",
        "grasp the door handle and move it left",
        "the cabinet door should go to the left",
        "drag the slider over to the left side",
        "sliding door: leftwards please",
        "take the handle of the sliding door and slide it left",
        "shift the cupboard door towards the left",
        "shove the slider left",
        "open up the right half by sliding the door to the left",
        "move the slider all the way to the left",
        "bring the door of the cabinet over to the left",
        "push the slider left",
        "send the sliding panel to the left",
        "get the door moved to the left",
        "grab the door and pull it leftwards",
        "left with the sliding door",
        "slide the handle left",
        "could you push the cabinet's door to the left side",
    ),
    "move_slider_right": (
        "move the sliding door right",
        "slide the door to the right",
        "push the door to the right",
        "grasp the door handle and move it right",
        "the cabinet door should go to the right",
        "drag the slider over to the right side",
        "sliding door: rightwards please",
        "take the handle of the sliding door and slide it right",
        "shift the cupboard door towards the right",
        "shove the slider right",
        "open up the left half by sliding the door to the right",
        "move the slider all the way to the right",
        "bring the door of the cabinet over to the right",
        "push the slider right",
        "send the sliding panel to the right",
        "get the door moved to the right",
        "grab the door and pull it rightwards",
        "right with the sliding door",
        "slide the handle right",
        "could you push the cabinet's door to the right side",
    ),
    "open_drawer": (
        "open the drawer",
        "pull the drawer open",
        "pull out the drawer",
        "grab the drawer handle and pull",
        "pull on the handle of the drawer",
        "slide the drawer out",
        "the drawer should be open",
        "draw the drawer towards you",
        "hook the handle and open the drawer",
        "please open up the drawer",
        "get the drawer open",
        "take the handle and pull the drawer out",
        "make the drawer come out",
        "pull the drawer towards the front",
        "open it: the drawer under the desk",
        "extend the drawer",
        "use the handle to pull the drawer open",
        "drawer open please",
        "open the desk drawer by its handle",
        "pull the handle so that the drawer opens",
    ),
    "close_drawer": (
        "close the drawer",
        "push the drawer shut",
        "push in the drawer",
        "shove the drawer closed",
        "push on the handle of the drawer",
        "slide the drawer back in",
        "the drawer should be closed",
        "shut the drawer",
        "push against the drawer until it is closed",
        "please close the drawer",
        "get the drawer closed",
        "push the handle and shut the drawer",
        "make the drawer go in",
        "push the drawer towards the desk",
        "close it: the drawer under the desk",
        "put the drawer back in",
        "use the handle to push the drawer closed",
        "drawer closed please",
        "shut the desk drawer by its handle",
        "push the handle so that the drawer closes",
    ),
    "turn_on_lightbulb": (
        "turn on the light bulb",
        "switch on the bulb",
        "switch the lightbulb on",
        "move the switch up to turn on the bulb",
        "flip the switch up",
        "push the lever up",
        "raise the lever so that the bulb lights up",
        "the yellow light should be on",
        "light up the light bulb",
        "turn the yellow lamp on with the lever",
        "slide the switch up",
        "lift the lever to switch on the light bulb",
        "use the lever to light the bulb",
        "please turn the bulb on",
        "make the bulb shine",
        "the switch goes up",
        "bulb on please",
        "turn on the yellow bulb using the switch",
        "toggle the switch to turn the light bulb on",
        "move the lever upwards and put the bulb on",
    ),
    "turn_off_lightbulb": (
        "turn off the light bulb",
        "switch off the bulb",
        "switch the lightbulb off",
        "move the switch down to turn off the bulb",
        "flip the switch down",
        "push the lever down",
        "lower the lever so that the bulb goes out",
        "the yellow light should be off",
        "put out the light bulb",
        "turn the yellow lamp off with the lever",
        "slide the switch down",
        "press the lever down to switch off the light bulb",
        "use the lever to darken the bulb",
        "please turn the bulb off",
        "make the bulb go dark",
        "the switch goes down",
        "bulb off please",
        "turn off the yellow bulb using the switch",
        "toggle the switch to turn the light bulb off",
        "move the lever downwards and put the bulb off",
    ),
    "turn_on_led": (
        "turn on the led",
        "switch on the led",
        "switch the led on",
        "press the button to turn on the green light",
        "push the button so that the led lights up",
        "push down the button to switch the led on",
        "the green light should be on",
        "light up the led",
        "turn the green lamp on with the button",
        "hit the button and put the led on",
        "press the black button to light the led",
        "use the button to light the green lamp",
        "please turn the led on",
        "make the led shine",
        "the led has to be on, press the button",
        "led on please",
        "turn on the green led using the button",
        "toggle the button to turn the led on",
        "press down on the button until the green light is on",
        "button: switch on the led light",
    ),
    "turn_off_led": (
        "turn off the led",
        "switch off the led",
        "switch the led off",
        "press the button to turn off the green light",
        "push the button so that the led goes out",
        "push down the button to switch the led off",
        "the green light should be off",
        "put out the led",
        "turn the green lamp off with the button",
        "hit the button and put the led off",
        "press the black button to darken the led",
        "use the button to darken the green lamp",
        "please turn the led off",
        "make the led go dark",
        "the led has to be off, press the button",
        "led off please",
        "turn off the green led using the button",
        "toggle the button to turn the led off",
        "press down on the button until the green light is off",
        "button: switch off the led light",
    ),
}


def _lookup(table: dict[str, _T], task: str) -> _T:
    if task not in table:
        raise ConfigError(f"no instruction for task {task!r}; {did_you_mean(task, table)}")
    return table[task]


def validation_instruction(task: str) -> str:
    """CALVIN's validation sentence of a task; never among its training instructions."""
    return _lookup(VALIDATION, task)


def training_instructions(task: str) -> tuple[str, ...]:
    """The sentences that demonstrations of a task are labelled with."""
    return _lookup(TRAINING, task)
