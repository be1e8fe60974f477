"""The page of a checkpoint, README.md: YAML that a model hub reads, then what a person wants to know.

Everything is taken from the checkpoint's own files and from results that were measured; nothing is made up, and what
is not known is called unknown. What stands below `## Notes` is the user's: it outlives a refresh of the page.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import yaml

from foreact.vla.contract import Contract
from foreact.vla.preflight import describe
from foreact.vla.results import Results

CARD = "README.md"
NOTES = "## Notes"
LIBRARY = "foreact"
UNKNOWN_LICENCE = "unknown"
_PLACES = ("out", "resume", "allow_changed", "hydra")
"""Settings that say where and how a run was started, not what was trained."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a card is made of."""

    policy: str
    config: Mapping[str, Any]
    contract: Contract
    parameters: int
    provenance: Mapping[str, Any] | None = None
    """From `plain_provenance`; None: not known."""
    results: Sequence[Results] = ()
    licence: str = ""
    """As model hubs call it, such as apache-2.0; empty: see `licence_of`."""
    datasets: Sequence[str] = ()
    """Names of data sets on a hub."""
    notes: str = ""
    towers: Sequence[str] = field(default=())
    """Folders of pretrained towers in the checkpoint: "text", "vision"."""


def licence_of(policy: str, config: Mapping[str, Any], towers: Sequence[str]) -> str:
    """The licence that follows from frozen parts: MAE's encoder is CC BY-NC 4.0 (facebookresearch/mae). Otherwise
    it depends on the training data, which only people know."""
    published = policy == "gr1_published" and "text" in towers
    return "cc-by-nc-4.0" if published or config.get("vision") == "mae" else UNKNOWN_LICENCE


def plain_provenance(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """What a run says of itself, fit to be shown to others: places on somebody's disk are cut to their last name."""
    known = {key: value for key, value in provenance.items() if key in ("data", "settings", "code", "step")}
    settings = {key: value for key, value in dict(known.get("settings") or {}).items() if key not in _PLACES}
    return {**known, "settings": _shown(settings)} if "settings" in known else known


def _shown(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _shown(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_shown(inner) for inner in value]
    if isinstance(value, str) and PurePath(value).is_absolute():
        return PurePath(value).name
    return value


def render(facts: Facts) -> str:
    """The page, Markdown with YAML in front. The same facts give the same bytes."""
    sections = [
        _front(facts), _about(facts), _expects(facts.contract), _training(facts), _results(facts), _loading(),
        _limits(facts), f"{NOTES}\n\n{facts.notes.strip()}".rstrip() + "\n",
    ]  # fmt: skip
    return "\n".join(section for section in sections if section)


def notes_of(card: str) -> str:
    """What a person wrote into a page: below `## Notes`, or the whole page if it is not one of ours."""
    body = card
    if card.startswith("---\n"):
        front, found, rest = card[4:].partition("\n---\n")
        if found:
            body = rest
            if f"library_name: {LIBRARY}" in front.splitlines() and f"\n{NOTES}\n" in rest:
                return rest.partition(f"\n{NOTES}\n")[2].strip()
    return body.strip()


def front_of(card: str) -> dict[str, Any]:
    """The YAML in front of a page; empty if there is none, or it is damaged."""
    front, found, _ = card[4:].partition("\n---\n") if card.startswith("---\n") else ("", "", "")
    try:
        value = yaml.safe_load(front) if found else None
    except yaml.YAMLError:
        return {}
    return value if isinstance(value, dict) else {}


# --- parts -----------------------------------------------------------------------------------------------------------


def _front(facts: Facts) -> str:
    licence = facts.licence or licence_of(facts.policy, facts.config, facts.towers)
    head: dict[str, Any] = {
        "library_name": LIBRARY,
        "pipeline_tag": "robotics",
        "license": licence,
        "tags": ["robotics", "vision-language-action", "imitation-learning", f"policy:{facts.policy}"],
        "datasets": list(facts.datasets),
    }
    if facts.results:
        head["model-index"] = [{"name": facts.policy, "results": [_measured(r) for r in facts.results]}]
    return f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=1000)}---\n"


def _measured(results: Results) -> dict[str, Any]:
    """One entry of the model index that hubs read."""
    name = f"{results.benchmark.get('env', 'desk')}: {_bench(results)}"
    metrics: list[dict[str, Any]] = [
        {"type": "success_rate", "name": "success rate per task", "value": round(results.overall.success_rate, 4)}
    ]
    if results.chains is not None:
        length = round(results.chains.average_length, 4)
        metrics.insert(0, {"type": "average_length", "name": "tasks in a row", "value": length})
    return {
        "task": {"type": "robotics", "name": "language-conditioned manipulation"},
        "dataset": {"type": str(results.benchmark.get("env", "desk")), "name": name},
        "metrics": metrics,
    }


def _bench(results: Results) -> str:
    bench = results.benchmark
    keys = ("kind", "tasks", "chain_list", "chains", "scene", "language", "max_steps")
    return ", ".join(f"{key} {bench[key]}" for key in keys if bench.get(key) is not None)


def _about(facts: Facts) -> str:
    config = facts.config
    watches = "" if facts.contract.action else " It has no actions: it was trained on video and only predicts frames."
    window = ""
    if {"history", "history_stride", "foresight_steps", "chunk"} <= set(config):
        window = (
            f"It looks at {config['history']} frames, {config['history_stride']} control steps apart, predicts the "
            f"frames {config['foresight_steps']} steps ahead, and plans {config['chunk']} actions at once, of which "
            f"{config.get('execute_steps', config['chunk'])} are executed.\n"
        )
    return (
        f"# {facts.policy}, a policy of ForeAct\n\n"
        f"A vision-language-action policy with {facts.parameters:,} weights, frozen towers included.{watches}\n"
        f"{window}"
    )


def _expects(contract: Contract) -> str:
    lines = [
        "## What it expects\n",
        f"Robot `{contract.embodiment}`, control at {contract.rate_hz:g} Hz, gripper: {contract.gripper}. "
        f"Contract `{contract.hash}`; `foreact preflight` compares it with a store, an environment or a robot.\n",
        "| what | name | shape, unit and range |",
        "|---|---|---|",
    ]
    lines += [f"| camera | {c.name} | {c.height} x {c.width} pixels, {c.encoding} |" for c in contract.cameras]
    lines += [f"| state | {f.name} | {describe(f)} |" for f in contract.state]
    lines += [f"| action | {f.name} | {describe(f)} |" for f in contract.action]
    return "\n".join(lines) + "\n"


def _training(facts: Facts) -> str:
    provenance = facts.provenance
    if not provenance:
        return "## Training\n\nUnknown: this checkpoint does not say what it was trained on.\n"
    lines = ["## Training\n", "Data, by contents (SHA-256) and settings:\n"]
    lines += [f"- `{entry}`" for entry in provenance.get("data") or ["unknown"]]
    code = ", ".join(f"{name} {version}" for name, version in dict(provenance.get("code") or {}).items())
    step = provenance.get("step")
    done = f"Optimiser steps: {step}. " if step is not None else ""
    lines.append(f"\n{done}{f'Trained with {code}.' if code else ''}".rstrip())
    if provenance.get("settings"):
        text = yaml.safe_dump(provenance["settings"], sort_keys=True, allow_unicode=True, width=1000)
        lines.append(f"\n<details><summary>Settings</summary>\n\n```yaml\n{text}```\n\n</details>")
    return "\n".join(lines) + "\n"


def _results(facts: Facts) -> str:
    if not facts.results:
        return "## Results\n\nNone yet: `foreact evaluate`, then `foreact hub card CHECKPOINT --results FILE`.\n"
    lines = ["## Results\n"]
    for results in facts.results:
        versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
        lines += [f"**{_bench(results)}**\n", "| | measured | 95 % interval | n |", "|---|---|---|---|"]
        if results.chains is not None:
            (low, high), found = results.chains.ci95, results.chains.average_length
            lines.append(f"| tasks in a row | {found:.3f} | {low:.3f} to {high:.3f} | {results.chains.n} |")
        for name, value in [("all tasks", results.overall), *sorted(results.tasks.items())]:
            low, high = value.ci95
            lines.append(f"| {name} | {value.success_rate:.1%} | {low:.1%} to {high:.1%} | {value.n} |")
        if results.foresight is not None:
            seen = results.foresight
            for camera, score in seen.cameras.items():
                low, high = score.ci95
                lines.append(
                    f"| error of predicted frames, {seen.steps_ahead} steps ahead, {camera} (1: as if nothing moved) | "
                    f"{score.error_ratio:.3f} | {low:.3f} to {high:.3f} | {score.n_frames} |"
                )
        lines.append(f"\n`{_command(results)}`; {versions}; drawn with {results.gl_renderer}.\n")
    return "\n".join(lines)


def _command(results: Results) -> str:
    """The command line, places on somebody's disk cut to their last name."""
    try:
        words = shlex.split(results.command)
    except ValueError:  # not a command line
        return "foreact evaluate"
    pairs = [word.partition("=") for word in words]
    return shlex.join(f"{_shown(key)}{equal}{_shown(value)}" for key, equal, value in pairs).replace("`", "'")


def _loading() -> str:
    return (
        "## How to load\n\n"
        "```bash\n"
        "foreact evaluate checkpoint=hf://USER/NAME        # or a local folder\n"
        "```\n\n"
        "```python\n"
        "from foreact.vla.checkpoint import load_policy\n\n"
        'policy = load_policy("hf://USER/NAME")\n'
        "```\n\n"
        "Every file is compared with the SHA-256 in `manifest.json` before anything is loaded; weights are "
        "safetensors, and nothing in the folder is run.\n"
    )


def _limits(facts: Facts) -> str:
    measured = (
        "The numbers above hold for the environment they were measured in."
        if facts.results
        else "How well it acts was not measured."
    )
    lines = [
        "## Limits\n",
        f"- {measured}",
        "- It fits the robot, cameras, units and rate above alone; another robot needs fine-tuning.",
        "- It has no notion of danger: on a real arm, limits on speed, force and workspace are up to the robot.",
    ]
    licence = facts.licence or licence_of(facts.policy, facts.config, facts.towers)
    if licence == UNKNOWN_LICENCE:
        lines.append("- Nobody stated a licence; it depends on the training data and on pretrained towers.")
    elif licence == "cc-by-nc-4.0":
        lines.append("- It contains MAE's encoder (CC BY-NC 4.0, facebookresearch/mae): not for commercial use.")
    return "\n".join(lines) + "\n"
