"""What a collection was made with: `recipe.json` beside the episodes, and `summary.json` when it is complete.

Both follow from settings and episodes alone, so that a collection that was interrupted ends with the same bytes.
"""

from __future__ import annotations

import fcntl
import json
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from foreact.commands.collect_plan import PLAY, Job, plan
from foreact.commands.collect_settings import CollectSettings
from foreact.commands.collect_workers import CollectError
from foreact.vla.errors import ConfigError, ForeActError

RECIPE, SUMMARY = "recipe.json", "summary.json"
RECIPE_VERSION = 1
LOCK = ".collect.lock"
_NOT_CONTENT = {"out", "workers", "dry_run", "force"}
"""Settings that change no episode."""
_ELSEWHERE_TOLD = {"driver"}
"""Settings whose content is told among the versions: a checkpoint is its hash, wherever it lies."""
_AMOUNTS = {"scenes", "tasks", "episodes_per_task", "play_frames", "split", "scale", "language_fraction"}
"""Settings that decide which episodes there are; these may grow."""
_PACKAGES = ("numpy", "mujoco", "simplejpeg")
"""Packages on which the content of an episode depends."""
_ELSEWHERE = "choose another folder: out=..."


def make_recipe(settings: CollectSettings, argv: list[str]) -> dict[str, Any]:
    """The recipe as JSON values; `argv` is what was given on the command line."""
    from foreact import __version__
    from foreact.sim.system import gl_renderer

    versions = {"foreact": __version__} | {package: metadata.version(package) for package in _PACKAGES}
    if settings.driver:
        from foreact.vla.actors import checkpoint_sha256
        from foreact.vla.hub import local_checkpoint

        versions |= {"torch": metadata.version("torch")}
        versions |= {"driver": checkpoint_sha256(Path(local_checkpoint(settings.driver)))}
    return {
        "format": "foreact-recipe",
        "version": RECIPE_VERSION,
        "command": command_of(settings, argv),
        "settings": settings.model_dump(mode="json", exclude=_NOT_CONTENT | _ELSEWHERE_TOLD),
        "versions": versions,
        "made_with": {"python": platform.python_version(), "gl_renderer": gl_renderer()},
    }


def command_of(settings: CollectSettings, argv: list[str]) -> str:
    """The command that makes the same set again, in any folder."""
    import shlex

    words = {word.split("=", 1)[0]: word for word in argv}  # of a key that is given twice the last one counts
    for key in _NOT_CONTENT:
        words.pop(key, None)
    return shlex.join(["foreact", "collect", f"out={settings.out}", *words.values()])


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Keep other collections out of a store; the lock goes with the process, however it ends.

    Raises:
        CollectError: If one is at work there, or the folder cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        file = (out / LOCK).open("a")
    except OSError as error:
        raise CollectError(f"cannot write to {out}: {error.strerror}; {_ELSEWHERE}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise CollectError(f"another foreact collect is writing to {out}; wait for it, or {_ELSEWHERE}") from error
        yield


def check_recipe(settings: CollectSettings, recipe: dict[str, Any], jobs: list[Job]) -> None:
    """Compare with what the folder was begun with. More episodes may be asked for; other ones may not.

    Raises:
        ConfigError: If the folder holds episodes of another recipe; each difference is named.
    """
    before = read_recipe(settings.out)
    if before is None:
        _check_episodes_without_recipe(settings, {job.name for job in jobs})
        return
    old, new = (_flat({"settings": r["settings"], "versions": r["versions"]}) for r in (before, recipe))
    changed = {key: (old.get(key), new.get(key)) for key in sorted({*old, *new}) if old.get(key) != new.get(key)}
    amounts = {key for key in changed if key.startswith("settings.") and key.split(".")[1] in _AMOUNTS}
    if not changed or (set(changed) == amounts and _grows(settings, before, jobs)):
        drew, draws = (r["made_with"].get("gl_renderer") for r in (before, recipe))
        if drew != draws:
            print(f"note: {settings.out} was begun with frames drawn by {drew}; {draws} may differ in single values")
        return
    lines = "\n".join(f"  - {key.removeprefix('settings.')}: {a} there, {b} now" for key, (a, b) in changed.items())
    raise ConfigError(
        f"{settings.out} holds a collection of another recipe ({RECIPE}):\n{lines}\n"
        f"Go on with that one by: {before['command']}\nOr {_ELSEWHERE}"
    )


def read_recipe(out: Path) -> dict[str, Any] | None:
    """The recipe in a folder, or None.

    Raises:
        ConfigError: If it cannot be understood.
    """
    path = out / RECIPE
    if not path.is_file():
        return None
    try:
        recipe = json.loads(path.read_bytes())
        known = recipe["format"] == "foreact-recipe" and recipe["version"] == RECIPE_VERSION
        if not known or not all(isinstance(recipe[key], dict) for key in ("settings", "versions", "made_with")):
            raise ValueError(f"expected a recipe of version {RECIPE_VERSION}")
        # A recipe that is older than a setting was made with what is now the setting's default.
        fields, left_out = CollectSettings.model_fields.items(), _NOT_CONTENT | _ELSEWHERE_TOLD
        younger = {key: field.default for key, field in fields if not field.is_required() and key not in left_out}
        settings = {**json.loads(json.dumps(younger)), **recipe["settings"]}
        return {**recipe, "settings": settings, "command": str(recipe["command"])}
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} cannot be read ({error!r}); {_ELSEWHERE}") from error


def _grows(settings: CollectSettings, before: dict[str, Any], jobs: list[Job]) -> bool:
    """Whether every episode of the old recipe is in the new one, unchanged."""
    try:
        old = plan(CollectSettings.parse({**before["settings"], "out": str(settings.out)}))
    except ForeActError:
        return False
    return set(old) <= set(jobs)


def _check_episodes_without_recipe(settings: CollectSettings, names: set[str]) -> None:
    """Stores of earlier versions have no recipe; their episodes tell seed and kind."""
    from foreact.datasets.layout import ROOT_FILE
    from foreact.datasets.store import Store

    if not (settings.out / ROOT_FILE).is_file():
        return
    for info in Store.open(settings.out).index:
        if info.name not in names:
            continue
        found = ("demonstrations" if info.has_action else "video", info.meta.get("seed"))
        if found != (settings.kind, settings.seed):
            raise ConfigError(
                f"{settings.out} holds episode {info.name} with kind={found[0]} seed={found[1]}, asked for was "
                f"kind={settings.kind} seed={settings.seed}; {_ELSEWHERE}"
            )


def write_json(out: Path, name: str, value: dict[str, Any]) -> None:
    """Write a file of the collection so that a kill leaves the old or the new one."""
    from foreact.datasets.durable import replace_durably
    from foreact.datasets.layout import staging_folder

    replace_durably(out / name, (json.dumps(value, indent=2) + "\n").encode(), staging_folder(out))


def summarize_collection(out: Path, jobs: list[Job]) -> dict[str, Any]:
    """What the store holds of the plan: amounts, and how often experts failed, from the episodes themselves."""
    from foreact.datasets.store import Store

    store = Store.open(out)
    totals = {"episodes": 0, "with_sentence": 0, "frames": 0, "play_frames": 0, "bytes": 0, "rejected_draws": 0}
    tasks: dict[str, dict[str, int]] = {}
    play: dict[str, dict[str, dict[str, int]]] = {}
    missing = []
    for job in sorted(jobs, key=lambda job: job.name):
        number = store.index.number(job.name)
        if number is None:
            missing.append(job.name)
            continue
        info = store.index[number]
        totals["episodes"] += 1
        totals["with_sentence"] += bool(info.instruction)
        totals["frames"] += info.length
        totals["bytes"] += info.bytes
        totals["rejected_draws"] += int(info.meta.get("rejected_draws", 0))
        if job.task == PLAY:
            totals["play_frames"] += info.length
            _count_segments(info.meta, play.setdefault(job.scene, {}))
        else:
            row = tasks.setdefault(f"{job.scene}/{job.task}", {"episodes": 0, "frames": 0, "failed_attempts": 0})
            row["episodes"] += 1
            row["frames"] += info.length
            row["failed_attempts"] += int(info.meta.get("failed_attempts", 0))
    return {
        "format": "foreact-collection-summary",
        "version": 1,
        "store_hash": store.hash,
        **totals,
        "failed_attempts": sum(row["failed_attempts"] for row in tasks.values()),
        "missing": missing,
        "tasks": dict(sorted(tasks.items())),
        "play": {scene: dict(sorted(rows.items())) for scene, rows in sorted(play.items())},
    }


def _count_segments(meta: dict[str, Any], rows: dict[str, dict[str, int]]) -> None:
    from foreact.sim.play import segments_of

    for segment in segments_of(meta):
        rows.setdefault(segment.task, {"done": 0, "failed": 0})["done" if segment.success else "failed"] += 1


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix.rstrip("."): value}
    rows: dict[str, Any] = {}
    for key, item in value.items():
        rows |= _flat(item, f"{prefix}{key}.")
    return rows
