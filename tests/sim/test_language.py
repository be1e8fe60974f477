"""Sentences: how many, whose, how new, and that each says one task only."""

from __future__ import annotations

import csv
import hashlib
import re
from collections import Counter
from importlib import resources
from itertools import combinations
from pathlib import Path

import pytest

from foreact.sim.language import (
    LANGUAGES,
    TRAINING,
    UNSEEN,
    VALIDATION,
    instruction_for,
    task_of,
    training_instructions,
    unseen_instructions,
    validation_instruction,
)
from foreact.sim.tasks import TASKS
from foreact.vla.errors import ConfigError

COLOURS = {
    "red": {"red", "scarlet", "crimson", "ruby", "vermilion", "cherry", "tomato"},
    "blue": {"blue", "azure", "navy", "cobalt", "sapphire"},
    "pink": {"pink", "magenta", "fuchsia", "rose", "rosy"},
}
BLOCK_TASKS = {
    *(
        f"{verb}_{colour}_block_{side}"
        for verb in ("rotate", "push")
        for colour in COLOURS
        for side in ("left", "right")
    ),
    *(f"lift_{colour}_block_{place}" for colour in COLOURS for place in ("table", "slider", "drawer")),
}
CALVIN_TASKS = BLOCK_TASKS | {
    *("move_slider_left", "move_slider_right", "open_drawer", "close_drawer", "place_in_slider", "place_in_drawer"),
    *("turn_on_lightbulb", "turn_off_lightbulb", "turn_on_led", "turn_off_led"),
    *("stack_block", "unstack_block", "push_into_drawer"),
}
UNCOVERED_HALF = {
    "open up the right half by sliding the door to the left",
    "open up the left half by sliding the door to the right",
}
"""Two training sentences name the half of the cabinet that the door uncovers, beside its direction."""
FUNCTION_WORDS = set(
    "a about above across after again all along and any are around as at away back be behind below beneath between but "
    "by can could do down for from go has have how i id if im in inside into is it its just let like may me more my no "
    "not of off on once one only onto or other our out over please so some than that the their them then there this to "
    "too two under until up us want was we what when where which while who will with within without would yes you your"
).union(*COLOURS.values())
WORDS = set((Path(__file__).parent / "data" / "unseen_words.txt").read_text(encoding="utf-8").split())
"""Verbs and nouns, picked out by a person, of which the new words of unseen sentences must be."""


def words(sentence: str) -> list[str]:
    return re.sub(r"[^a-z0-9 ]", " ", sentence.lower().replace("'", "")).split()


def plain(sentence: str) -> str:
    return " ".join(words(sentence))


def forms(word: str) -> set[str]:
    """The word and what is left of it without a simple ending: {"tugged": "tug", "slides": "slide", ...}."""
    found = {word}
    for ending in ("s", "es", "ed", "ing", "er", "ers"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            stem = word.removesuffix(ending)
            found |= {stem, stem + "e", re.sub(r"i$", "y", stem), re.sub(r"(.)\1$", r"\1", stem)}
    return found


def sentences_by_language() -> dict[str, dict[str, tuple[str, ...]]]:
    return {"validation": {task: (said,) for task, said in VALIDATION.items()}, "training": TRAINING, "unseen": UNSEEN}


ALL = [(name, task, s) for name, table in sentences_by_language().items() for task in table for s in table[task]]
TRAINED_OR_OFFICIAL = {form for name, _, s in ALL if name != "unseen" for word in words(s) for form in forms(word)}


def share_with_new_word(task: str) -> float:
    said = unseen_instructions(task)
    return sum(any(word in WORDS for word in words(s)) for s in said) / len(said)


def test_every_calvin_task_has_sentences_in_each_language():
    assert len(CALVIN_TASKS) == 34
    assert set(VALIDATION) == set(TRAINING) == set(UNSEEN) == CALVIN_TASKS
    assert set(TASKS) <= CALVIN_TASKS
    assert all(16 <= len(training_instructions(task)) <= 20 for task in CALVIN_TASKS)
    assert all(len(unseen_instructions(task)) == 50 for task in CALVIN_TASKS)


def test_validation_sentences_are_calvins_to_the_letter():
    """The digest was taken of the file of mees/calvin, not of ours."""
    listed = "\n".join(f"{task}: {validation_instruction(task)}" for task in sorted(CALVIN_TASKS))
    assert (
        hashlib.sha256(listed.encode()).hexdigest()
        == "eb73c4de0fd0b08c589141e3eb1b596160b245b60ba7d5ef1e69fbcf3bdf422f"
    )


def test_sentences_that_released_policies_were_trained_on_stay_as_they_are():
    fixtures = [task for task in sorted(CALVIN_TASKS) if re.match("move|open|close|turn", task)]
    said = [s for task in fixtures for s in training_instructions(task)]
    assert len(said) == 8 * 20
    assert (
        hashlib.sha256("\n".join(said).encode()).hexdigest()
        == "47262d62c365f2b94ca801f0ddf6c55088f29acb92b8cc5f49985e8534908e7d"
    )


def test_no_sentence_is_said_twice_in_any_language_or_task():
    counts = Counter(plain(sentence) for _, _, sentence in ALL)
    assert len(ALL) == 34 + 576 + 1700
    assert [sentence for sentence, count in counts.items() if count > 1] == []


def test_sentences_are_plain_lines():
    for _, _, sentence in ALL:
        assert re.fullmatch(r"[A-Za-z][A-Za-z0-9 ,.:;'?!-]*[a-z?!]", sentence), sentence
        assert "  " not in sentence
        assert len(words(sentence)) <= 20, sentence


def test_tables_are_found_as_resources_of_the_package():
    for name, table in sentences_by_language().items():
        resource = resources.files("foreact.sim") / "instructions" / f"{name}.tsv"
        lines = resource.read_text(encoding="utf-8").splitlines()
        rows = [(row["task"], row["sentence"]) for row in csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)]
        assert rows == [(task, s) for task, said in table.items() for s in said]


def test_listed_new_words_are_new_used_and_no_function_words():
    used = {word for said in UNSEEN.values() for s in said for word in words(s)}
    assert len(WORDS) > 300
    assert sorted(WORDS - used) == []
    assert sorted(WORDS & FUNCTION_WORDS) == []
    assert sorted(word for word in WORDS if forms(word) & TRAINED_OR_OFFICIAL) == []


@pytest.mark.parametrize("task", sorted(CALVIN_TASKS))
def test_many_unseen_sentences_use_a_verb_or_noun_never_trained_on(task: str):
    assert share_with_new_word(task) >= 0.6


def test_a_training_sentence_has_no_new_word():
    """The measure above is 0 where it must be."""
    assert not any(word in WORDS for said in TRAINING.values() for s in said for word in words(s))


def masked(task: str) -> set[str]:
    """Unseen sentences of a task with its colour and its direction taken out."""
    everyday = {"rightward", "rightwards", "leftward", "leftwards", "left", "right"}
    turns = {"clockwise", "counterclockwise", "anticlockwise"}
    of_colour = set().union(*COLOURS.values())
    masks = {
        word: mask for mask, group in (("SIDE", everyday), ("TURN", turns), ("COLOUR", of_colour)) for word in group
    }
    return {" ".join(masks.get(word, word) for word in words(s)) for s in unseen_instructions(task)}


def test_tasks_that_differ_in_colour_or_direction_are_not_one_list_with_a_word_swapped():
    assert masked("push_red_block_left") & {"push the COLOUR cube SIDE across the surface"}  # ruby; the mask works
    pairs = [
        (a, b)
        for a, b in combinations(sorted(CALVIN_TASKS), 2)
        if a.split("_")[0] == b.split("_")[0] and (a in BLOCK_TASKS) == (b in BLOCK_TASKS)
    ]
    assert len(pairs) > 60
    assert [(a, b) for a, b in pairs if len(masked(a) & masked(b)) > 5] == []


def side_of(sentence: str) -> set[str]:
    """The directions that a sentence speaks of; a turn is seen from above, so clockwise is to the right."""
    text = plain(sentence)
    against = r"counter ?clockwise|anticlockwise|against the (?:clock\b|direction of a clocks hands)"
    against += r"|opposite of clockwise|loosen\w*|unscrew|opening a bottle"
    found = {"left"} if re.search(rf"\bleft|{against}", text) else set()
    return found | ({"right"} if re.search(r"\bright|clock|tighten", re.sub(against, "", text)) else set())


@pytest.mark.parametrize("task", sorted(task for task in CALVIN_TASKS if re.search("_(left|right)$", task)))
def test_sentences_name_their_own_direction_and_never_the_other(task: str):
    side = task.rsplit("_", 1)[1]
    other = {"left": "right", "right": "left"}[side]
    for sentence in (validation_instruction(task), *training_instructions(task), *unseen_instructions(task)):
        if sentence in UNCOVERED_HALF:
            assert sentence.endswith(f"to the {side}")
            continue
        assert side_of(sentence) == {side}, sentence
        assert not re.search(rf"\b{other}|(?:all|up){other}\b", sentence), sentence


def test_sentences_name_the_colour_of_their_block_and_no_other():
    for _, task, sentence in ALL:
        named = {colour for colour, synonyms in COLOURS.items() if synonyms & set(words(sentence))}
        assert named == {colour for colour in COLOURS if f"_{colour}_" in task}, (task, sentence)


def place_of(sentence: str) -> str:
    """Where the block is that a lifting sentence is about; the table, unless it says otherwise."""
    said = set(words(sentence))
    upper = {"cabinet", "cabinets", "cupboard", "slider", "door", "wardrobe", "closet", "niche", "shelf", "upper"}
    places = [
        place
        for place, named in (("drawer", {"drawer", "drawers", "tray", "lower", "under", "below"}), ("slider", upper))
        if said & named
    ]
    assert len(places) < 2, sentence
    return places[0] if places else "table"


def test_lifting_sentences_name_the_place_that_they_mean():
    lifting = [(task, sentence) for _, task, sentence in ALL if task.startswith("lift")]
    assert len(lifting) == 9 * (1 + 16 + 50)
    assert [(task, sentence) for task, sentence in lifting if place_of(sentence) != task.rsplit("_", 1)[1]] == []


def test_lights_are_told_apart():
    for _, task, sentence in ALL:
        said = set(words(sentence))
        if task.endswith("led"):
            assert not said & {"bulb", "lightbulb", "yellow", "lever"}, sentence
        elif task.endswith("lightbulb"):
            assert not said & {"led", "green", "diode", "button"}, sentence


@pytest.mark.parametrize("language", LANGUAGES)
def test_task_of_recognises_every_sentence(language: str):
    for task, said in sentences_by_language()[language].items():
        for sentence in said:
            assert task_of(sentence) == task
            assert task_of(f"  {sentence.upper()}.") == task


def test_task_of_suggests_the_nearest_sentence():
    with pytest.raises(ConfigError, match=r"did you mean 'tug the drawer open' \(open_drawer\)"):
        task_of("tug the drawr open")
    with pytest.raises(ConfigError, match="none of the 2310 known sentences"):
        task_of("qqq")


def test_instruction_for_goes_round_the_sentences():
    task = "stack_block"
    assert {instruction_for(task, "validation", i) for i in range(9)} == {"stack the grasped block"}
    assert [instruction_for(task, "unseen", i) for i in range(50, 100)] == list(unseen_instructions(task))
    count = len(training_instructions(task))
    assert instruction_for(task, "training", count + 3) == training_instructions(task)[3]


def test_unknown_language_and_task_are_explained():
    with pytest.raises(ConfigError, match="did you mean 'unseen'"):
        instruction_for("open_drawer", "unsean", 0)
    for ask in (validation_instruction, training_instructions, unseen_instructions):
        with pytest.raises(ConfigError, match="did you mean 'open_drawer'"):
            ask("open_drawr")
