"""What people say: sentences for each of CALVIN's 34 tasks, to train with, to validate with, and never read before.

Training and unseen sentences are our own. Validation sentences are CALVIN's (mees/calvin,
`conf/annotations/new_playtable_validation.yaml`, MIT). The three sets share no sentence, so a policy is judged on words
that it was not trained on; at least 30 % of the unseen sentences of each task even use a verb or a noun that neither of
the other sets has. Tables: `sim/instructions/`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TypeVar

from foreact.vla.errors import ConfigError, did_you_mean

_T = TypeVar("_T")
_TABLES = Path(__file__).with_name("instructions")

LANGUAGES: tuple[str, ...] = ("validation", "training", "unseen")
"""Where a sentence may come from: CALVIN's, those of the demonstrations, or paraphrases for tests only."""


def _read(language: str) -> dict[str, tuple[str, ...]]:
    _, *rows = (_TABLES / f"{language}.tsv").read_text(encoding="utf-8").splitlines()
    sentences: dict[str, list[str]] = {}
    for row in rows:
        task, sentence = row.split("\t")
        sentences.setdefault(task, []).append(sentence)
    return {task: tuple(of_task) for task, of_task in sentences.items()}


VALIDATION: dict[str, str] = {task: sentence for task, (sentence,) in _read("validation").items()}
TRAINING: dict[str, tuple[str, ...]] = _read("training")
UNSEEN: dict[str, tuple[str, ...]] = _read("unseen")


def _lookup(table: Mapping[str, _T], task: str) -> _T:
    if task not in table:
        raise ConfigError(f"no instruction for task {task!r}; {did_you_mean(task, table)}")
    return table[task]


def validation_instruction(task: str) -> str:
    """CALVIN's validation sentence of a task; never among its training instructions."""
    return _lookup(VALIDATION, task)


def training_instructions(task: str) -> tuple[str, ...]:
    """The sentences that demonstrations of a task are labelled with."""
    return _lookup(TRAINING, task)


def unseen_instructions(task: str) -> tuple[str, ...]:
    """Fifty paraphrases of a task that no demonstration is labelled with."""
    return _lookup(UNSEEN, task)


def instruction_for(task: str, language: str, index: int) -> str:
    """Sentence `index` of a task, counted round and round through those of one of `LANGUAGES`.

    Raises:
        ConfigError: If the task or the language is not known.
    """
    if language == "validation":
        return validation_instruction(task)
    if language not in LANGUAGES:
        raise ConfigError(f"no language {language!r}; {did_you_mean(language, LANGUAGES)}")
    sentences = training_instructions(task) if language == "training" else unseen_instructions(task)
    return sentences[index % len(sentences)]


def normalise(instruction: str) -> str:
    """A sentence in lower case, words apart by one space, without punctuation: "Don't, please!" -> "dont please"."""
    return " ".join(re.findall(r"[a-z0-9]+", instruction.lower().replace("'", "")))


@cache
def _tasks_by_sentence() -> dict[str, str]:
    known = {normalise(sentence): task for task, sentence in VALIDATION.items()}
    for table in (TRAINING, UNSEEN):
        known |= {normalise(sentence): task for task, sentences in table.items() for sentence in sentences}
    return known


def task_of(instruction: str) -> str:
    """The task that a sentence of any language asks for; case and punctuation do not matter.

    Raises:
        ConfigError: If the sentence is none of ours; the message quotes the nearest one.
    """
    known = _tasks_by_sentence()
    said = normalise(instruction)
    if said not in known:
        near = difflib.get_close_matches(said, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r} ({known[near[0]]})?" if near else "see sim/instructions/ for those that are"
        raise ConfigError(f"the instruction {instruction!r} is none of the {len(known)} known sentences; {hint}")
    return known[said]
