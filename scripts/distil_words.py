"""Requests that people might make of a robot, made from a small thesaurus (`distil_words.txt`), for `distil_text.py`.

The thesaurus was written by hand, from general knowledge of English. Phrases of one entry mean the same, phrases of two
entries do not.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

Meaning = dict[str, str]
"""Slot -> entry; a slot that a sentence does not use is absent."""
Table = dict[str, list[str]]
"""Entry -> phrases."""


def _read(path: Path) -> dict[str, Table]:
    tables: dict[str, Table] = {}
    table: Table = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            table = tables[line.strip("[]")] = {}
        elif line and not line.startswith("#"):
            entry, _, phrases = line.partition(": ")
            table[entry] = phrases.split(", ")
    return tables


THESAURUS = _read(Path(__file__).with_suffix(".txt"))
ACTIONS, COLOURS, THINGS, HOLDERS, DOORS, DEVICES, DIRECTIONS, TURNS, SURFACES = (
    THESAURUS[name]
    for name in (
        "actions", "colours", "things", "holders", "doors", "devices", "directions", "turns", "surfaces",
    )
)  # fmt: skip
# "-" is nothing: several of them make it frequent.
_FRAMES = {name: ["" if word == "-" else word for word in words] for name, words in THESAURUS["frames"].items()}
BEFORE = [f"{word} " if word else "" for word in _FRAMES["before"]]
AFTER = [f" {word}" if word else "" for word in _FRAMES["after"]]
NOT_A_COLOUR = [f"{word} " if word else "" for word in _FRAMES["not_a_colour"]]


def _thing(rng: random.Random, table: Table, slot: str, meaning: Meaning, words: Sequence[str]) -> str:
    """A noun phrase for an entry of a table, perhaps with a colour, or for a word of the language at large."""
    entry = rng.choice(list(table)) if rng.random() > 0.45 else next(iter(table))
    noun = rng.choice(table[entry])
    if slot == "x" and rng.random() < 0.1:
        entry, noun = "other", rng.choice(words)
    meaning[slot] = entry
    article = rng.choice(["the ", "the ", "the ", "the ", "that ", "a ", "", "my "])
    if slot != "x" or rng.random() < 0.3:
        return article + (rng.choice(NOT_A_COLOUR) if slot in "xk" else "") + noun
    # The three colours of the desk in most cases, so that they are told apart best.
    colour = rng.choice(list(COLOURS)[:3] if rng.random() < 0.6 else list(COLOURS))
    meaning["colour"] = colour
    said = rng.choice(COLOURS[colour])
    form = rng.random()
    if form < 0.08:
        return f"{article}{noun} that is {said}"
    if form < 0.16:
        return f"{article}{said} one"
    return f"{article}{said} {noun}"


def make_sentence(rng: random.Random, words: Sequence[str]) -> tuple[str, Meaning]:
    """One sentence and what it means.

    Args:
        rng: Decides everything.
        words: Words of the language at large, a few of which are things.
    """
    # Half of the sentences are about the first thirteen actions, which are the hardest to tell apart.
    action = rng.choice(list(ACTIONS)[:13] if rng.random() < 0.85 else list(ACTIONS))
    phrase = rng.choice(ACTIONS[action])
    meaning: Meaning = {"action": action}
    if "{x}" in phrase:
        phrase = phrase.replace("{x}", _thing(rng, THINGS, "x", meaning, words))
    if "{y}" in phrase:
        other = ["another one", "the other one", "another block", "the other", "a second one", "the lower one"]
        phrase = phrase.replace("{y}", rng.choice([*other, _thing(rng, THINGS, "y", {}, words)]))
    for mark, table in (("k", HOLDERS), ("g", DOORS), ("v", DEVICES), ("s", SURFACES)):
        if f"{{{mark}}}" in phrase:
            if mark == "k" and action != "take_out" and rng.random() < 0.3:
                table = {name: table[name] for name in ("cabinet", "drawer")}
            said = _thing(rng, table, "place" if mark in "ks" else mark, meaning, words)
            phrase = phrase.replace(f"{{{mark}}}", said)
    if "{d}" in phrase:
        table = TURNS if action == "rotate" else DIRECTIONS
        meaning["direction"] = rng.choice(("left", "right") if rng.random() < 0.8 else tuple(table))
        phrase = phrase.replace("{d}", rng.choice(table[meaning["direction"]]))
    return f"{rng.choice(BEFORE)}{phrase}{rng.choice(AFTER)}", meaning
