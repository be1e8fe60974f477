"""The symbolic desk: what each of the 34 tasks needs and what it changes.

Tasks, their categories and the official rules: CALVIN, mees/calvin (MIT), the sampler of its evaluation chains.
One rule there is mirrored: `place_in_slider` with the door right books the block into the right half of the
niche, but the door covers that half and only the left one is open. So there are three sets of rules:

    official    as published
    geometric   the block goes into the half that is open
    corrected   as geometric, and only if no other block is in that half

Door right (joint at 0) leaves the left half open, door left the right half.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from foreact.vla.errors import ConfigError, ForeActError, did_you_mean

Rules = Literal["official", "geometric", "corrected"]
RULES: tuple[Rules, ...] = ("official", "geometric", "corrected")

COLOURS: tuple[str, ...] = ("red", "blue", "pink")
TABLE, SLIDER_LEFT, SLIDER_RIGHT, IN_DRAWER = "table", "slider_left", "slider_right", "drawer"
GRASPED, STACKED_TOP, STACKED_BOTTOM = "grasped", "stacked_top", "stacked_bottom"
HALVES: tuple[str, ...] = (SLIDER_LEFT, SLIDER_RIGHT)
PLACES: tuple[str, ...] = (TABLE, SLIDER_LEFT, SLIDER_RIGHT, IN_DRAWER, GRASPED, STACKED_TOP, STACKED_BOTTOM)
"""Where a block can be."""


class SymbolicState(NamedTuple):
    """The desk in words. Hashable; a change makes a new one."""

    led: int
    """1 if on."""
    lightbulb: int
    """1 if on."""
    slider: str
    """left or right: where the sliding door is."""
    drawer: str
    """open or closed."""
    red_block: str
    """One of PLACES, as are the next two."""
    blue_block: str
    pink_block: str

    @property
    def blocks(self) -> dict[str, str]:
        """Place of each block by colour, in the order red, blue, pink."""
        return dict(zip(COLOURS, self[4:], strict=True))

    @property
    def held(self) -> str | None:
        """Colour of the grasped block, if there is one."""
        return next((colour for colour, place in self.blocks.items() if place == GRASPED), None)

    @property
    def grasped(self) -> int:
        """1 if a block is grasped."""
        return int(GRASPED in self[4:])

    @property
    def open_half(self) -> str:
        """The half of the niche that the door does not cover: slider_left or slider_right."""
        return SLIDER_LEFT if self.slider == "right" else SLIDER_RIGHT

    def moved(self, **places: str) -> SymbolicState:
        """The state with blocks, named by colour, at other places."""
        return self._replace(**{f"{colour}_block": place for colour, place in places.items()})


_BY_CATEGORY: Mapping[str, tuple[str, ...]] = {
    "rotate or push": (
        *(f"rotate_{colour}_block_{side}" for colour in COLOURS for side in ("right", "left")),
        *(f"push_{colour}_block_{side}" for colour in COLOURS for side in ("right", "left")),
    ),
    "slider": ("move_slider_left", "move_slider_right"),
    "drawer": ("open_drawer", "close_drawer"),
    "lift from table": tuple(f"lift_{colour}_block_table" for colour in COLOURS),
    "lift from slider": tuple(f"lift_{colour}_block_slider" for colour in COLOURS),
    "lift from drawer": tuple(f"lift_{colour}_block_drawer" for colour in COLOURS),
    "place": ("place_in_slider", "place_in_drawer"),
    "lights": ("turn_on_lightbulb", "turn_off_lightbulb", "turn_on_led", "turn_off_led"),
    "push into drawer": ("push_into_drawer",),
    "stack": ("stack_block",),
    "unstack": ("unstack_block",),
}
CATEGORIES: tuple[str, ...] = tuple(_BY_CATEGORY)
"""The eleven categories; the tasks of one chain all belong to different ones."""
CATEGORY: Mapping[str, str] = {task: name for name, tasks in _BY_CATEGORY.items() for task in tasks}
"""Category of each task."""

TASK_NAMES: tuple[str, ...] = (
    *_BY_CATEGORY["rotate or push"],
    *_BY_CATEGORY["slider"],
    *_BY_CATEGORY["drawer"],
    *(f"lift_{colour}_block_{place}" for colour in COLOURS for place in ("table", "slider", "drawer")),
    *_BY_CATEGORY["place"],
    "stack_block",
    "unstack_block",
    *_BY_CATEGORY["lights"],
    "push_into_drawer",
)
"""The 34 tasks, in CALVIN's order; the position is the task's id in `chain_data`."""

INITIAL_STATES: tuple[SymbolicState, ...] = tuple(
    SymbolicState(led, bulb, slider, drawer, *places)
    for led, bulb, slider, drawer in itertools.product((0, 1), (0, 1), ("right", "left"), ("closed", "open"))
    for places in itertools.product((TABLE, SLIDER_RIGHT, SLIDER_LEFT), repeat=3)
    if places.count(TABLE) in (1, 2) and all(places.count(half) <= 1 for half in HALVES)
)
"""The 192 states in which chains begin, in CALVIN's order: one or two blocks on the table, never two in one half."""


class UnknownChainTask(ForeActError):
    """A task name is not one of the 34."""

    exit_code = 2

    def __init__(self, name: str) -> None:
        super().__init__(f"no task {name!r}; {did_you_mean(name, TASK_NAMES)}")


def apply(task: str, state: SymbolicState, rules: Rules = "official") -> SymbolicState | None:
    """The state after `task`, or None where its precondition does not hold in `state`.

    Raises:
        UnknownChainTask: If the task is not one of the 34.
        ConfigError: If `rules` is not one of RULES.
    """
    if task not in CATEGORY:
        raise UnknownChainTask(task)
    if rules not in RULES:
        raise ConfigError(f"no symbolic rules {rules!r}; {did_you_mean(rules, RULES)}")
    if task.startswith(("place_", "stack_")):
        held = state.held
        return None if held is None else _release(task, state, held, rules)
    if state.grasped:  # every other task needs an empty hand
        return None
    if task.startswith(("rotate_", "push_red", "push_blue", "push_pink")):
        return state if state.blocks[task.split("_")[1]] == TABLE else None
    if task.startswith("lift_"):
        return _lift(task, state)
    if task.startswith("turn_"):
        _, way, lamp = task.split("_")
        on = int(way == "on")
        return None if getattr(state, lamp) == on else state._replace(**{lamp: on})
    if task.startswith("move_slider_"):
        side = task.removeprefix("move_slider_")
        return None if state.slider == side else state._replace(slider=side)
    if task in ("open_drawer", "close_drawer"):
        wanted = "open" if task == "open_drawer" else "closed"
        return None if state.drawer == wanted else state._replace(drawer=wanted)
    return _unstack(state) if task == "unstack_block" else _push_into_drawer(state)


def _lift(task: str, state: SymbolicState) -> SymbolicState | None:
    _, colour, _, support = task.split("_")
    place = state.blocks[colour]
    can = {
        "table": place == TABLE,
        "slider": place == state.open_half,
        "drawer": place == IN_DRAWER and state.drawer == "open",
    }
    return state.moved(**{colour: GRASPED}) if can[support] else None


def _release(task: str, state: SymbolicState, held: str, rules: Rules) -> SymbolicState | None:
    if task == "place_in_drawer":
        return state.moved(**{held: IN_DRAWER}) if state.drawer == "open" else None
    if task == "place_in_slider":
        if rules == "official":
            return state.moved(**{held: f"slider_{state.slider}"})
        if rules == "corrected" and state.open_half in state.blocks.values():
            return None
        return state.moved(**{held: state.open_half})
    below = [colour for colour, place in state.blocks.items() if place == TABLE]
    if len(below) != 1:  # with two the outcome is not unique, so the sampler refuses
        return None
    return state.moved(**{held: STACKED_TOP, below[0]: STACKED_BOTTOM})


def _unstack(state: SymbolicState) -> SymbolicState | None:
    stacked = [colour for colour, place in state.blocks.items() if place in (STACKED_TOP, STACKED_BOTTOM)]
    return state.moved(**dict.fromkeys(stacked, TABLE)) if stacked else None


def _push_into_drawer(state: SymbolicState) -> SymbolicState | None:
    on_table = [colour for colour, place in state.blocks.items() if place == TABLE]
    in_slider = [colour for colour, place in state.blocks.items() if place in HALVES]
    if state.drawer != "open" or len(on_table) != 1 or len(in_slider) != 2:
        return None
    return state.moved(**{on_table[0]: IN_DRAWER})


def replay(
    tasks: Sequence[str], state: SymbolicState, rules: Rules = "official"
) -> tuple[tuple[SymbolicState, ...], str | None]:
    """Do the tasks in turn. Returns the states, the first being `state`, and the task that was not possible, if any.

    Raises:
        UnknownChainTask: If a task is not one of the 34.
        ConfigError: If `rules` is not one of RULES.
    """
    states = [state]
    for task in tasks:
        after = apply(task, states[-1], rules)
        if after is None:
            return tuple(states), task
        states.append(after)
    return tuple(states), None
