"""The episodes that `foreact bench data` compares on: drawn now, or taken from a store."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from foreact.datasets.episode import EpisodeData
from foreact.datasets.store import Store
from foreact.vla.contract import Contract
from foreact.vla.errors import ConfigError

SCENES = "ABCD"


def draw_play(count: int, length: int, seed: int = 0) -> tuple[Contract, list[EpisodeData]]:
    """Play in all four scenes in turn, drawn now so that no codec has touched the pictures.

    Raises:
        NoGlBackend: If nothing can draw here.
    """
    from foreact.sim.gl_backend import pick_gl_backend

    pick_gl_backend()
    from foreact.sim.demonstrate import DemonstrationSettings, episode_rng
    from foreact.sim.embodiment import desk_contract
    from foreact.sim.env import DeskEnv
    from foreact.sim.play import PlaySettings, play

    made: dict[int, EpisodeData] = {}
    contract = desk_contract()
    for first, scene in enumerate(SCENES[:count]):
        env = DeskEnv(scene)
        for number in range(first, count, len(SCENES)):
            rows: list[dict[str, np.ndarray]] = []
            rng = episode_rng(seed, scene, "play", number)
            play(env, rng, length, DemonstrationSettings(), PlaySettings(), rows.append)
            made[number] = EpisodeData(
                images={c.name: np.stack([row[c.name] for row in rows]) for c in contract.cameras},
                state=np.stack([row["state"] for row in rows]),
                action=np.stack([row["action"] for row in rows]),
                instruction="play",
            )
        env.close()
    return contract, [made[number] for number in sorted(made)]


def take_from(path: Path, count: int, least: int) -> tuple[Contract, list[EpisodeData], str]:
    """`count` episodes spread over a store, each of at least `least` frames with state and action, and its codecs.

    Raises:
        StoreError: If there is no store.
        ConfigError: If it has no such episode.
    """
    store = Store.open(path)
    index = store.index
    fits = [
        n for n in range(len(store))
        if index[n].length >= least and index[n].has_state and index[n].has_action
        and len(index[n].cameras) == len(store.contract.cameras)
    ]  # fmt: skip
    if not fits:
        raise ConfigError(
            f"{path}: no episode has {least} frames, state, action and all cameras; a window has that many frames"
        )
    chosen = [fits[i] for i in np.unique(np.linspace(0, len(fits) - 1, min(count, len(fits))).astype(int))]
    codecs = sorted({index[n].codec for n in chosen})
    # segments would end windows early, and extras are bytes that not every format is given
    episodes = [replace(store.read(n, extras=False), segments=[], meta={}) for n in chosen]
    return store.contract, [replace(e, instruction=e.instruction or "play") for e in episodes], ", ".join(codecs)


def save_raw(contract: Contract, episodes: Sequence[EpisodeData], folder: Path) -> None:
    """`episodes.json` and one uncompressed .npz per episode: what the peers record from."""
    folder.mkdir(parents=True)
    files: list[tuple[str, str]] = []
    for number, episode in enumerate(episodes):
        assert episode.state is not None and episode.action is not None
        name = f"{number:05d}.npz"
        arrays: dict[str, Any] = {**episode.images, "state": episode.state, "action": episode.action}
        np.savez(folder / name, **arrays)
        files.append((name, episode.instruction))
    about = {
        "cameras": {camera.name: (camera.height, camera.width) for camera in contract.cameras},
        "fps": round(contract.rate_hz),
        "state": contract.state_size,
        "action": contract.action_size,
        "episodes": files,
    }
    (folder / "episodes.json").write_text(json.dumps(about), encoding="utf-8")


def psnr_db(check: Path, episodes: Sequence[EpisodeData], before: int, after: int) -> float | None:
    """How near the windows that a loader handed out are to the raw frames [dB]; None if they are the same.

    Windows that reach beyond their episode are left out. This also finds a loader that hands out other frames.
    """
    squares, count = 0.0, 0
    with np.load(check) as found:
        for row, (episode, t) in enumerate(found["index"]):
            truth = episodes[int(episode)]
            if t < before or t + after >= len(truth):
                continue
            for camera, frames in truth.images.items():
                difference = found[camera][row].astype(np.float32) - frames[t - before : t + after + 1]
                squares += float(np.square(difference).sum())
                count += difference.size
    if not count:
        return float("nan")
    return float(10 * np.log10(255**2 * count / squares)) if squares else None
