"""`foreact explain`: what a policy looks at, expects and listens to, over one recorded episode."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foreact.vla.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from foreact.datasets.store import Store
    from foreact.vla.contract import Contract
    from foreact.vla.explain_sensitivity import Sentence
    from foreact.vla.explain_windows import Episode

OTHER_TASKS, PARAPHRASES = 12, 5
"""So many other sentences are tried at most."""


def run(
    checkpoint: str, store: str, *, episode: str, frames: str, instruction: str, part: str, out: str, every: int,
    device: str, as_json: bool,
) -> None:  # fmt: skip
    """Explain and print; `foreact explain --help` says what the arguments mean.

    Raises:
        ForeActError: If something cannot be read, does not fit, or cannot be explained.
    """
    from rich.console import Console

    from foreact.datasets.store import Store
    from foreact.vla.actors import checkpoint_sha256
    from foreact.vla.checkpoint import load_policy
    from foreact.vla.explain import choose_frames, explain_episode
    from foreact.vla.explain_report import write_explanation
    from foreact.vla.runtime import find_device

    console = Console(stderr=as_json)
    policy = load_policy(checkpoint, find_device(device))
    opened = Store.open(store)
    if not len(opened):
        raise ConfigError(f"the store {store} has no episodes")
    opened.reader(episode or 0)  # says so if there is none of that name
    info = opened.index[_number(opened, episode) if episode else 0]
    chosen = choose_frames(info.length, frames, every)
    seen, notes = read_episode(policy.contract, opened, info.name, instruction, chosen[0], checkpoint=checkpoint)
    for note in notes:
        console.print(f"adapted: {note}", highlight=False, markup=False)
    sentences = other_sentences(seen.instruction, _spoken(opened))
    found = explain_episode(
        policy, seen, chosen, sentences, part=part,
        progress=lambda text: console.print(f"{text} ...", highlight=False, markup=False),
    )  # fmt: skip
    about = {
        "checkpoint": checkpoint,
        "sha256 of its manifest": checkpoint_sha256(Path(checkpoint)),
        "policy": policy.name,
        "store": opened.address,
        "episode": info.name,
    }
    values = write_explanation(found, Path(out), about)
    if as_json:
        print(json.dumps(values, indent=1))
    else:
        _print(values, Path(out), console)


def read_episode(
    contract: Contract, store: Store, name: str, instruction: str, first: int, *, checkpoint: str
) -> tuple[Episode, list[str]]:
    """The episode as the policy sees it, and what had to be adapted.

    Args:
        contract: What the policy requires.
        store: Holds the episode.
        name: Of the episode.
        instruction: Said instead of what the episode says, unless empty.
        first: First frame that is explained: where an episode has no instruction but segments, the one there counts.
        checkpoint: For messages.

    Raises:
        ContractMismatch: If the store lacks a camera or a field, or means something else by it.
        StoreError: If the episode cannot be read.
    """
    from foreact.vla.contract import adapt
    from foreact.vla.explain_windows import Episode

    adapter = adapt(
        contract, store.contract, required_by=f"checkpoint {checkpoint}", offered_by=f"the store {store.address}"
    )
    data = store.read(name, cameras=list(adapter.resize), resize=adapter.resize, extras=False)
    notes = list(adapter.notes)
    said = instruction or data.instruction
    if not said:
        here = [segment.instruction for segment in data.segments if segment.start <= first < segment.end]
        said = here[0] if here else ""
    if data.state is None and contract.state:
        notes.append(f"{name} has no state: the policy is told that it is unknown")
    if data.action is None:
        notes.append(f"{name} has no actions: plans are compared with nothing recorded")
    episode = Episode(
        images={camera.name: data.images[camera.name] for camera in contract.cameras},
        state=None if data.state is None else adapter.state(data.state),
        action=None if data.action is None else data.action[:, list(adapter.action_index)],
        instruction=said,
    )
    return episode, notes


def other_sentences(instruction: str, spoken: Sequence[str]) -> list[Sentence]:
    """What else to say: paraphrases that no demonstration has and the validation sentences of other tasks, where the
    sentence is one of the desk's; other sentences of the store where it is not; and nothing.

    Args:
        instruction: Of the episode.
        spoken: All sentences of the store; only tasks that occur among them are taken, if there are any.
    """
    from foreact.sim.language import UNSEEN, VALIDATION, normalise, task_of
    from foreact.vla.explain_sensitivity import Sentence

    def task(sentence: str) -> str:
        try:
            return task_of(sentence)
        except ConfigError:
            return ""

    own = task(instruction)
    empty = Sentence(text="", kind="empty")
    if not own:
        others = sorted({text for text in spoken if text and normalise(text) != normalise(instruction)})
        return [*(Sentence(text=text, kind="other task") for text in _spread(others, OTHER_TASKS)), empty]
    same = [text for text in UNSEEN[own] if normalise(text) != normalise(instruction)]
    heard = {task(text) for text in set(spoken)} - {"", own}
    tasks = sorted(heard or set(VALIDATION) - {own})
    return [
        *(Sentence(text=text, kind="paraphrase", task=own) for text in _spread(same, PARAPHRASES)),
        *(Sentence(text=VALIDATION[other], kind="other task", task=other) for other in _spread(tasks, OTHER_TASKS)),
        empty,
    ]


def _spread(items: Sequence[str], count: int) -> list[str]:
    """`count` of the items at most, evenly spread."""
    count = min(count, len(items))
    return [items[number * len(items) // count] for number in range(count)]


def _spoken(store: Store) -> list[str]:
    """Sentences of the store; of a large one, those of every so-many-th episode."""
    step = 1 + len(store) // 5000
    infos = [store.index[number] for number in range(0, len(store), step)]
    return [
        text for info in infos for text in (info.instruction, *(part.instruction for part in info.segments)) if text
    ]


def _number(store: Store, name: str) -> int:
    number = store.index.number(name)
    assert number is not None  # it was opened by this name
    return number


def _print(values: dict[str, Any], folder: Path, console: Console) -> None:
    from rich.table import Table

    def share(value: float | None) -> str:
        return "" if value is None else f"{100 * value:.1f} %"

    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.3f}"

    heard = values["listening"]
    table = Table(show_edge=False, title="How far the plan moves (action units)")
    for heading in ("", "distance", "error to recorded"):
        table.add_column(heading, justify="left" if not heading else "right")
    table.add_row("size of the plan itself", number(heard["plan_size"]), number(values["plan"]["error_to_recorded"]))
    for kind in ("paraphrase", "other task", "empty"):
        same = [change for change in values["changes"] if change["kind"] == kind]
        errors = [change["error_to_recorded"] for change in same if change["error_to_recorded"] is not None]
        if same:
            mean = sum(errors) / len(errors) if errors else None
            table.add_row(f"sentence: {kind} ({len(same)})", number(heard[kind.replace(" ", "_")]), number(mean))
    for change in values["changes"]:
        if change["kind"] in ("state", "camera", "history"):
            title = f"hidden: {change['name']}, {change['detail']}"
            table.add_row(title, number(change["distance"]), number(change["error_to_recorded"]))
    console.print(table)
    if "attention" in values:
        table = Table(show_edge=False, title="Attention of the executed actions")
        for heading in ("", "share", "if even", "gradient", "integrated gradients"):
            table.add_column(heading, justify="left" if not heading else "right")
        for name, found in values["attention"]["shares"].items():
            slopes = [values["saliency"].get(kind, {}).get(name) for kind in ("gradient", "integrated_gradients")]
            table.add_row(name, share(found["share"]), share(found["even"]), *map(share, slopes))
        console.print(table)
    for camera, found in values["foresight"]["cameras"].items():
        console.print(
            f"foresight, {camera}: squared error / copying {number(found['error_ratio'])} "
            f"({found['frames']} frames)", highlight=False, markup=False,
        )  # fmt: skip
    console.print(f"Open {folder / 'explain.html'}; its numbers are in explain.json", soft_wrap=True, highlight=False)
