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


@cache
def _successors(state: SymbolicState) -> tuple[tuple[str, int, SymbolicState], ...]:
    """Every task possible in `state`: its name, the bit of its category, the state after it."""
    pairs = ((task, apply(task, state, "corrected")) for task in TASK_NAMES)
    return tuple((task, _BIT[task], after) for task, after in pairs if after is not None)


@cache
def _count(state: SymbolicState, used: int, length: int) -> int:
    """How many chains of `length` tasks begin in `state` and avoid the categories in the bit set `used`."""
    free = [(bit, after) for _, bit, after in _successors(state) if not used & bit]
    if length == 1:
        return len(free)
    return sum(_count(after, used | bit, length - 1) for bit, after in free)


def count_chains(state: SymbolicState) -> int:
    """How many chains of five tasks of different categories are possible from `state` under the corrected rules."""
    return _count(state, 0, CHAIN_LENGTH)


def nth_chain(state: SymbolicState, number: int) -> tuple[str, ...]:
    """Chain `number` of those that `count_chains` counts, in lexicographic order of the task ids.

    Raises:
        IndexError: If `number` is negative or there are not that many.
    """
    if not 0 <= number < count_chains(state):
        raise IndexError(f"chain {number} of {count_chains(state)} from {state}")
    tasks: list[str] = []
    used = 0
    for length in range(CHAIN_LENGTH - 1, -1, -1):
        for task, bit, after in _successors(state):
            if used & bit:
                continue
            below = _count(after, used | bit, length) if length else 1
            if number < below:
                tasks.append(task)
                state, used = after, used | bit
                break
            number -= below
    return tuple(tasks)
