"""All chains of tasks that are possible from a symbolic state, counted and numbered.

CALVIN (mees/calvin, MIT) draws five distinct tasks at random and rejects until the preconditions hold in turn and the
categories differ, which makes every valid chain of a state equally likely. Counting them first gives the same
distribution without rejection: the chains are numbered in the order of the task ids, and chain number k is found by
walking down the counts. Here the rules are the corrected ones.
"""

from __future__ import annotations

from functools import cache

from foreact.sim.symbolic import CATEGORIES, CATEGORY, TASK_NAMES, SymbolicState, apply

CHAIN_LENGTH = 5
_BIT = {task: 1 << CATEGORIES.index(CATEGORY[task]) for task in TASK_NAMES}


Tasks = tuple[str, ...]


@cache
def _successors(state: SymbolicState, tasks: Tasks) -> tuple[tuple[str, int, SymbolicState], ...]:
    """Every one of `tasks` that is possible in `state`: its name, the bit of its category, the state after it."""
    pairs = ((task, apply(task, state, "corrected")) for task in TASK_NAMES if task in tasks)
    return tuple((task, _BIT[task], after) for task, after in pairs if after is not None)


@cache
def _count(state: SymbolicState, used: int, length: int, tasks: Tasks) -> int:
    """How many chains of `length` tasks begin in `state` and avoid the categories in the bit set `used`."""
    free = [(bit, after) for _, bit, after in _successors(state, tasks) if not used & bit]
    if length == 1:
        return len(free)
    return sum(_count(after, used | bit, length - 1, tasks) for bit, after in free)


def count_chains(state: SymbolicState, length: int = CHAIN_LENGTH, tasks: Tasks = TASK_NAMES) -> int:
    """How many chains of `length` of the `tasks`, of different categories, are possible from `state` under the
    corrected rules."""
    return _count(state, 0, length, tasks)


def nth_chain(
    state: SymbolicState, number: int, length: int = CHAIN_LENGTH, tasks: Tasks = TASK_NAMES
) -> tuple[str, ...]:
    """Chain `number` of those that `count_chains` counts, in lexicographic order of the task ids.

    Raises:
        IndexError: If `number` is negative or there are not that many.
    """
    if not 0 <= number < count_chains(state, length, tasks):
        raise IndexError(f"chain {number} of {count_chains(state, length, tasks)} from {state}")
    chain: list[str] = []
    used = 0
    for left in range(length - 1, -1, -1):
        for task, bit, after in _successors(state, tasks):
            if used & bit:
                continue
            below = _count(after, used | bit, left, tasks) if left else 1
            if number < below:
                chain.append(task)
                state, used = after, used | bit
                break
            number -= below
    return tuple(chain)
