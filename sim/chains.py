"""Chains of five tasks: CALVIN's own thousand on scene D, and chains of ours for every scene.

Official: the list that everybody evaluates on (mees/calvin, evaluation code, MIT), unchanged and in its order, with
what is wrong with it said per chain. Its sampler books a block placed in the niche into the half that the door covers
(see `foreact.sim.symbolic`); so five chains cannot be done, and 141 place a block into a half that holds one already.

Ours: the same idea (the same 192 initial states, equally often up to one; five tasks of different categories whose
preconditions hold in turn; every such chain of a state equally likely) with the corrected rules, so that neither of
the two happens. Other differences: chains are counted and numbered instead of drawn and rejected, each state comes
once per 192 chains instead of all chains being shuffled, and the list for n chains begins the list for more. The
chains of a seed are the same in all scenes, so that scenes can be compared chain by chain.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from foreact.sim.chain_sampling import CHAIN_LENGTH, count_chains, nth_chain
from foreact.sim.scenes import get_scene
from foreact.sim.symbolic import INITIAL_STATES, SLIDER_LEFT, TASK_NAMES, SymbolicState, replay
from foreact.vla.errors import ConfigError

DATA = Path(__file__).parent / "chain_data"


@dataclass(frozen=True)
class Chain:
    """Five tasks to be done one after the other, without a reset between them."""

    index: int
    """Position in its list, from 0."""
    scene: str
    """A, B, C or D."""
    initial_state: SymbolicState
    """One of `INITIAL_STATES`; `chain_states.initial_scene_obs` has the numbers."""
    tasks: tuple[str, ...]
    seed: int
    """For everything random in this chain, in [0, 2**32): the same however chains are spread over processes."""
    defects: tuple[str, ...] = ()
    """Why the chain cannot be done; empty if it can."""
    notes: tuple[str, ...] = ()
    """What makes it harder than its sampler meant; empty if nothing does."""


def stable_hash(*parts: int | str) -> int:
    """A 256-bit number that depends on `parts` alone, on every platform and in every Python."""
    text = "/".join(str(part) for part in ("foreact-chain", *parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest(), "big")


def chain_seed(seed: int, index: int) -> int:
    """The seed of chain `index` in a benchmark run with seed `seed`, in [0, 2**32)."""
    return stable_hash("seed", seed, index) % 2**32


@cache
def official_chains(seed: int = 0) -> tuple[Chain, ...]:
    """CALVIN's 1000 evaluation chains of scene D, in the official order.

    Args:
        seed: Of the benchmark run; it changes nothing but the seeds of the chains.
    """
    lines = (DATA / "official_chains.tsv").read_text(encoding="utf-8").splitlines()[3:]
    chains: list[Chain] = []
    for index, line in enumerate(lines):
        state_id, *task_ids = map(int, line.split("\t"))
        state, tasks = INITIAL_STATES[state_id], tuple(TASK_NAMES[i] for i in task_ids)
        defects, notes = _flaws(tasks, state)
        chains.append(Chain(index, "D", state, tasks, chain_seed(seed, index), defects, notes))
    return tuple(chains)


def _flaws(tasks: tuple[str, ...], state: SymbolicState) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Defects and notes of a chain, from replaying it with blocks booked where they really go."""
    states, impossible = replay(tasks, state, "geometric")
    notes: list[str] = []
    for number, (task, before) in enumerate(zip(tasks, states, strict=False), start=1):
        there = [colour for colour, place in before.blocks.items() if place == before.open_half]
        if task == "place_in_slider" and there:
            half = "left" if before.open_half == SLIDER_LEFT else "right"
            notes.append(
                f"task {number}, place_in_slider: the {half} half of the niche, the open one, already holds the "
                f"{' and the '.join(there)} block"
            )
    if impossible is None:
        return (), tuple(notes)
    last, number = states[-1], len(states)
    defect = f"task {number}, {impossible}: not possible after the tasks before it"
    if impossible.startswith("lift_") and impossible.endswith("_slider"):
        colour = impossible.split("_")[1]
        half = last.blocks[colour].removeprefix("slider_")
        defect = (
            f"task {number}, {impossible}: place_in_slider put the {colour} block into the {half} half of the niche, "
            f"which the door covers since move_slider_{last.slider}"
        )
    return (defect,), tuple(notes)


def generate_chains(
    scene: str, n: int, seed: int, length: int = CHAIN_LENGTH, tasks: tuple[str, ...] = TASK_NAMES
) -> tuple[Chain, ...]:
    """`n` chains of ours, all different and all possible under the corrected rules.

    A pure function of its arguments. The first m of n chains are the m chains that `n = m` gives. Every run of 192
    chains, counted from the first, has each initial state once, in an order of its own.

    Args:
        scene: A, B, C or D; it is written into the chains and changes nothing else about them.
        n: How many, from 0 on.
        seed: Of the benchmark run.
        length: Tasks in a chain.
        tasks: Those that may occur, in the order of `TASK_NAMES`.

    Raises:
        UnknownScene: If there is no such scene.
        ConfigError: If `n` is negative or there are not so many different chains.
    """
    name = get_scene(scene).name
    if n < 0:
        raise ConfigError(f"the number of chains must be 0 or more, found {n}")
    seen: set[tuple[int, int]] = set()
    chains: list[Chain] = []
    order: list[int] = []
    for index in range(n):
        round_, place = divmod(index, len(INITIAL_STATES))
        if place == 0:
            order = sorted(range(len(INITIAL_STATES)), key=lambda i, r=round_: stable_hash("state", seed, r, i))
        state_id = order[place]
        state = INITIAL_STATES[state_id]
        count = count_chains(state, length, tasks)
        if round_ >= count:
            raise ConfigError(
                f"{n} chains of {length} tasks are too many: only {count} are possible from {state}; ask for {index}"
                if index
                else f"no chain of {length} of these tasks is possible, since tasks of a chain differ in their "
                f"category: {', '.join(tasks)}"
            )
        attempt = 0  # ends: this state has had `round_` chains so far, and there are more
        while (state_id, number := stable_hash("tasks", seed, index, attempt) % count) in seen:
            attempt += 1
        seen.add((state_id, number))
        chains.append(Chain(index, name, state, nth_chain(state, number, length, tasks), chain_seed(seed, index)))
    return tuple(chains)
