"""The symbolic rules against a second form of them, and the counting of chains against plain enumeration."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from foreact.sim.chain_sampling import count_chains, nth_chain
from foreact.sim.symbolic import (
    CATEGORIES,
    CATEGORY,
    INITIAL_STATES,
    PLACES,
    RULES,
    TASK_NAMES,
    Rules,
    SymbolicState,
    UnknownChainTask,
    apply,
    replay,
)
from foreact.sim.tasks import TASKS
from foreact.vla.errors import ConfigError

Alternatives = list[tuple[dict[str, Any], dict[str, Any]]]
BLOCK_FIELDS = ("red_block", "blue_block", "pink_block")


def rule_table(rules: Rules) -> dict[str, Alternatives]:
    """Per task the pairs (condition, effect), in the form of CALVIN's sampler; a list holds alternatives."""
    table: dict[str, Alternatives] = {}
    pairs = list(itertools.permutations(BLOCK_FIELDS, 2))
    for block in BLOCK_FIELDS:
        one, two = (other for other in BLOCK_FIELDS if other != block)
        for verb, side in itertools.product(("rotate", "push"), ("right", "left")):
            table[f"{verb}_{block}_{side}"] = [({block: "table", "grasped": 0}, {})]
        lifted = {block: "grasped", "grasped": 1}
        table[f"lift_{block}_table"] = [({block: "table", "grasped": 0}, lifted)]
        table[f"lift_{block}_slider"] = [
            ({block: "slider_left", "slider": "right", "grasped": 0}, lifted),
            ({block: "slider_right", "slider": "left", "grasped": 0}, lifted),
        ]
        table[f"lift_{block}_drawer"] = [({block: "drawer", "drawer": "open", "grasped": 0}, lifted)]
        for slider, opposite in (("left", "right"), ("right", "left")):
            half = f"slider_{slider if rules == 'official' else opposite}"
            held: dict[str, Any] = {block: "grasped", "slider": slider, "grasped": 1}
            if rules == "corrected":
                elsewhere = [place for place in PLACES if place != half]
                held |= {one: elsewhere, two: elsewhere}
            table.setdefault("place_in_slider", []).append((held, {block: half, "grasped": 0}))
        table.setdefault("place_in_drawer", []).append(
            ({block: "grasped", "drawer": "open", "grasped": 1}, {block: "drawer", "grasped": 0})
        )
        halves = ["slider_left", "slider_right"]
        table.setdefault("push_into_drawer", []).append(
            ({block: "table", one: halves, two: halves, "drawer": "open", "grasped": 0}, {block: "drawer"})
        )
    table["stack_block"] = [
        ({top: "grasped", below: "table", "grasped": 1}, {top: "stacked_top", below: "stacked_bottom", "grasped": 0})
        for top, below in pairs
    ]
    table["unstack_block"] = [
        ({top: "stacked_top", below: "stacked_bottom", "grasped": 0}, {top: "table", below: "table"})
        for top, below in pairs
    ]
    for name, field, before, after in (
        ("move_slider_left", "slider", "right", "left"),
        ("move_slider_right", "slider", "left", "right"),
        ("open_drawer", "drawer", "closed", "open"),
        ("close_drawer", "drawer", "open", "closed"),
        ("turn_on_lightbulb", "lightbulb", 0, 1),
        ("turn_off_lightbulb", "lightbulb", 1, 0),
        ("turn_on_led", "led", 0, 1),
        ("turn_off_led", "led", 1, 0),
    ):
        table[name] = [({field: before, "grasped": 0}, {field: after})]
    return table


def as_dict(state: SymbolicState) -> dict[str, Any]:
    return {**state._asdict(), "grasped": state.grasped}


def outcomes(table: dict[str, Alternatives], task: str, state: dict[str, Any]) -> list[dict[str, Any]]:
    """Every successor that the alternatives of `task` give; the sampler wants exactly one."""

    def holds(condition: dict[str, Any]) -> bool:
        return all(state[key] in (want if isinstance(want, list) else [want]) for key, want in condition.items())

    return [{**state, **effect} for condition, effect in table[task] if holds(condition)]


def reachable(rules: Rules) -> set[SymbolicState]:
    found, new = set(INITIAL_STATES), list(INITIAL_STATES)
    while new:
        state = new.pop()
        for after in (apply(task, state, rules) for task in TASK_NAMES):
            if after is not None and after not in found:
                found.add(after)
                new.append(after)
    return found


@pytest.mark.parametrize("rules", RULES)
def test_rules_agree_with_the_table_of_conditions_and_effects_in_every_reachable_state(rules: Rules) -> None:
    table = rule_table(rules)
    assert set(table) == set(TASK_NAMES)
    states = reachable(rules)
    assert len(states) > 1000
    for state, task in itertools.product(states, TASK_NAMES):
        expected = outcomes(table, task, as_dict(state))
        after = apply(task, state, rules)
        if len(expected) == 1:
            assert after is not None
            assert as_dict(after) == expected[0]
        else:
            assert after is None, (state, task)


def test_door_covers_the_half_it_stands_at() -> None:
    state = SymbolicState(0, 0, "right", "closed", "grasped", "table", "table")
    assert state.open_half == "slider_left"
    assert apply("place_in_slider", state, "official") == state.moved(red="slider_right")
    placed = apply("place_in_slider", state, "corrected")
    assert placed is not None
    assert placed.blocks["red"] == "slider_left"
    assert apply("lift_red_block_slider", placed, "corrected") == state
    closed = apply("move_slider_left", placed, "corrected")
    assert closed is not None
    assert apply("lift_red_block_slider", closed, "corrected") is None


def test_corrected_rules_keep_two_blocks_out_of_one_half() -> None:
    state = SymbolicState(0, 0, "left", "closed", "grasped", "slider_right", "table")
    assert apply("place_in_slider", state, "corrected") is None
    assert apply("place_in_slider", state, "geometric") == state.moved(red="slider_right")
    for reached in reachable("corrected"):
        places = list(reached.blocks.values())
        assert places.count("slider_left") <= 1
        assert places.count("slider_right") <= 1


def test_stack_needs_one_candidate() -> None:
    two = SymbolicState(0, 0, "left", "closed", "grasped", "table", "table")
    assert apply("stack_block", two) is None
    one = two.moved(pink="slider_left")
    stacked = apply("stack_block", one)
    assert stacked is not None
    assert stacked.blocks == {"red": "stacked_top", "blue": "stacked_bottom", "pink": "slider_left"}
    assert apply("unstack_block", stacked) == one.moved(red="table")


def test_replay_stops_at_the_first_impossible_task() -> None:
    start = SymbolicState(0, 0, "left", "closed", "table", "slider_left", "slider_right")
    states, impossible = replay(("open_drawer", "open_drawer", "turn_on_led"), start)
    assert impossible == "open_drawer"
    assert states == (start, start._replace(drawer="open"))
    assert start.held is None
    assert start.moved(pink="grasped").held == "pink"


def test_names_are_those_of_the_oracles() -> None:
    assert set(TASK_NAMES) == set(TASKS)
    assert len(TASK_NAMES) == len(set(TASK_NAMES)) == 34
    assert set(CATEGORY.values()) == set(CATEGORIES)
    assert len(CATEGORIES) == 11


def test_unknown_names_are_explained() -> None:
    with pytest.raises(UnknownChainTask, match="did you mean 'open_drawer'"):
        apply("open_draw", INITIAL_STATES[0])
    with pytest.raises(ConfigError, match="did you mean 'corrected'"):
        apply("open_drawer", INITIAL_STATES[0], "correct")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("state_id", [0, 75, 191])
def test_numbered_chains_are_exactly_the_valid_ones(state_id: int) -> None:
    """Plain enumeration with the table above; so every valid chain of a state is equally likely."""
    table, start = rule_table("corrected"), INITIAL_STATES[state_id]

    def extend(chain: tuple[str, ...], state: dict[str, Any]) -> list[tuple[str, ...]]:
        if len(chain) == 5:
            return [chain]
        found: list[tuple[str, ...]] = []
        for task in TASK_NAMES:
            if CATEGORY[task] in {CATEGORY[done] for done in chain}:
                continue
            after = outcomes(table, task, state)
            if len(after) == 1:
                found += extend((*chain, task), after[0])
        return found

    expected = extend((), as_dict(start))
    assert count_chains(start) == len(expected)
    assert [nth_chain(start, number) for number in range(len(expected))] == expected
    for number in (-1, len(expected)):
        with pytest.raises(IndexError):
            nth_chain(start, number)
