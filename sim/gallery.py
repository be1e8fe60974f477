"""Sheets of pictures: our tables beside CALVIN's, random looks, and depth."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from foreact.sim.env import DeskEnv
from foreact.sim.experts import Expert
from foreact.sim.looks import Looks, apply_look
from foreact.sim.reference_views import (
    STATES,
    PartMatch,
    Picture,
    compare_parts,
    draw_state,
    load_reference,
    reference_scene_obs,
    sample_like_reference,
)
from foreact.sim.rendering import CameraRenderer
from foreact.sim.scenes import SCENES
from foreact.sim.starts import NEUTRAL_ROBOT_OBS, draw_start
from foreact.sim.tasks import TASKS

_GAP, _LABEL = 6, 16
_LIMIT_BYTES = 390_000
_TASK_STEPS = 360
# dark blue, green, yellow: near is dark
_DEPTH_COLOURS = np.array([(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)], dtype=float)


def reference_sheets(reference: Path) -> tuple[Picture, Picture, list[PartMatch]]:
    """A sheet for the static and one for the hand camera, original and ours in turn, and the measurements.

    Raises:
        NoReference: If a reference picture is missing.
        NoGlBackend: If nothing can draw on this machine.
    """
    static_rows, hand_rows, matches = [], [], []
    for scene in SCENES:
        env = DeskEnv(scene, render=False)
        sample_like_reference(env.model)
        static_row, hand_row = [], []
        with CameraRenderer(env.model) as renderer:
            for state in STATES:
                theirs = load_reference(reference, scene, state)
                ours = draw_state(env, renderer, state)
                matches += compare_parts(scene, state, (theirs[0], theirs[2]), (ours[0], ours[2]))
                static_row += [theirs[0], ours[0]]
                hand_row += [theirs[1], ours[1]]
        static_rows.append(static_row)
        hand_rows.append(hand_row)
    heads = ["CALVIN, closed", "ours, closed", "CALVIN, open", "ours, open"]
    return sheet(static_rows, heads, list(SCENES), scale=2), sheet(hand_rows, heads, list(SCENES), scale=3), matches


def looks_sheet(scene: str = "D", rows: int = 4, columns: int = 3, seed: int = 0) -> Picture:
    """Random looks of one scene, drawn from (seed, number), each with the view of both cameras."""
    env = DeskEnv(scene, render=False)
    cells = []
    with CameraRenderer(env.model) as renderer:
        for number in range(rows * columns):
            apply_look(env.model, np.random.default_rng([seed, number]), Looks(distractors=4))
            env.set_state(NEUTRAL_ROBOT_OBS, reference_scene_obs(scene, STATES[number % 2]))
            pictures = renderer.render_all(env.data)
            hand = np.asarray(Image.fromarray(pictures["rgb_gripper"]).resize((200, 200), Image.Resampling.NEAREST))
            cells.append(np.concatenate([pictures["rgb_static"], hand], axis=1))
    return sheet([cells[i * columns : (i + 1) * columns] for i in range(rows)], scale=1)


def depth_sheet(scene: str = "D") -> Picture:
    """Colour and depth of both cameras with the drawer open; the range of depths is written above."""
    env = DeskEnv(scene, render=False)
    env.set_state(NEUTRAL_ROBOT_OBS, reference_scene_obs(scene, "on"))
    cells, heads = [], []
    with CameraRenderer(env.model) as renderer:
        for name, factor in (("rgb_static", 2), ("rgb_gripper", 4)):
            depth = renderer.depth(env.data, name)
            heads += [name, f"depth {depth.min():.2f} to {depth.max():.2f} m"]
            for picture in (renderer.render(env.data, name), colour_depth(depth)):
                cells.append(picture.repeat(factor, axis=0).repeat(factor, axis=1))
    return sheet([cells], heads, scale=1)


def tasks_sheet(scene: str = "D", columns: int = 4, seed: int = 0) -> Picture:
    """All tasks, each as the static camera sees its start and the moment in which the expert has done it."""
    env = DeskEnv(scene, sizes={"rgb_static": (200, 200)}, render=False)
    cells = []
    for task in TASKS:
        start = draw_start(env, np.random.default_rng([seed, 0]), (task,))
        env.reset(options={"robot_obs": start.robot_obs, "scene_obs": start.scene_obs, "task": task})
        before, expert = env.frames()["rgb_static"], Expert(task, env.scene)
        for _ in range(_TASK_STEPS):
            if env.advance(expert.act(env.robot_obs, env.scene_obs))["is_success"]:
                break
        pair = np.concatenate([before, env.frames()["rgb_static"]], axis=1)
        cells.append(sheet([[pair[::2, ::2]]], heads=[task]))
    env.close()
    blank = np.full_like(cells[0], 255)
    cells += [blank] * (-len(cells) % columns)
    return sheet([cells[i : i + columns] for i in range(0, len(cells), columns)])


def colour_depth(depth_m: NDArray[np.float32]) -> Picture:
    """A picture (H, W, 3) uint8 of depths (H, W) [m], dark where near and yellow where far."""
    span = max(float(np.ptp(depth_m)), 1e-6)
    place = (depth_m - depth_m.min()) / span * (len(_DEPTH_COLOURS) - 1)
    stops = np.arange(len(_DEPTH_COLOURS))
    return np.stack([np.interp(place, stops, _DEPTH_COLOURS[:, c]) for c in range(3)], axis=-1).astype(np.uint8)


def sheet(
    rows: Sequence[Sequence[Picture]], heads: Sequence[str] = (), names: Sequence[str] = (), scale: int = 1
) -> Picture:
    """Pictures in rows on white, with `heads` above the columns and `names` left of the rows."""
    rows = [[cell.repeat(scale, axis=0).repeat(scale, axis=1) for cell in row] for row in rows]
    widths = [max(row[i].shape[1] for row in rows) + _GAP for i in range(len(rows[0]))]
    heights = [max(cell.shape[0] for cell in row) + _GAP for row in rows]
    left, top = (_LABEL if names else 0), (_LABEL if heads else 0)
    canvas = Image.new("RGB", (left + sum(widths) - _GAP, top + sum(heights) - _GAP), "white")
    draw = ImageDraw.Draw(canvas)
    for i, head in enumerate(heads):
        draw.text((left + sum(widths[:i]) + 2, 2), head, fill="black")
    for j, row in enumerate(rows):
        if names:
            draw.text((4, top + sum(heights[:j]) + 2), names[j], fill="black")
        for i, cell in enumerate(row):
            canvas.paste(Image.fromarray(cell), (left + sum(widths[:i]), top + sum(heights[:j])))
    return np.asarray(canvas)


def save_small(picture: Picture, path: Path) -> Path:
    """Write `path` as PNG, or as JPEG of the best quality below 390 kB; returns the path with its ending."""
    image = Image.fromarray(picture)
    encoded, ending = io.BytesIO(), ".png"
    image.save(encoded, "png", optimize=True)
    quality = 95
    while encoded.tell() > _LIMIT_BYTES and quality > 20:
        encoded, ending = io.BytesIO(), ".jpg"
        image.save(encoded, "jpeg", quality=quality, subsampling=0)
        quality -= 5
    target = path.with_suffix(ending)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(encoded.getvalue())
    return target


def match_table(matches: Sequence[PartMatch]) -> list[str]:
    """Lines of a Markdown table: per part and scene the larger colour gap and the smaller IoU of both states."""
    scenes = sorted({match.scene for match in matches})
    lines = ["| part | " + " | ".join(scenes) + " |", "|---" * (1 + len(scenes)) + "|"]
    for part in dict.fromkeys(match.part for match in matches):
        cells = []
        for scene in scenes:
            # a few pixels peeping out behind something say nothing about an outline
            own = [m for m in matches if m.part == part and m.scene == scene and m.pixels >= 20]
            cells.append(f"{max(m.colour_gap for m in own):.0f}, {min(m.iou for m in own):.2f}" if own else "-")
        lines.append(f"| {part.replace('_', ' ')} | " + " | ".join(cells) + " |")
    return lines
