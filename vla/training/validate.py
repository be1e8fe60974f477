"""Judging a policy on held-out windows: losses, action error, and predicted frames against copying the current one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from foreact.vla.batch import WindowBatch
from foreact.vla.trainable import TrainablePolicy
from foreact.vla.training.pieces import BatchAt

_ZOOM = 2
_SUMS = ("moved_error/", "moved_copy_error/")


@torch.no_grad()
def validate(policy: TrainablePolicy, batch_at: BatchAt, batches: int, seed: int) -> dict[str, float]:
    """Means over `batches` batches.

    Returns:
        Every number of `policy.loss`, and "foresight_ratio/<camera>" and "foresight_ratio": the squared error of
        predicted frames divided by that of copying the current frame, on pixels that change by more than 16/255
        (below 1 beats copying), for each camera and for all together.
    """
    was_training = policy.training
    policy.eval()
    torch.manual_seed(seed)
    sums: dict[str, float] = {}
    for number in range(batches):
        for name, value in policy.loss(batch_at(number)).items():
            sums[name] = sums.get(name, 0.0) + float(value)
    policy.train(was_training)
    return with_ratios({name: value if name.startswith(_SUMS) else value / batches for name, value in sums.items()})


def with_ratios(values: dict[str, float]) -> dict[str, float]:
    """Replace the error sums by their quotients."""
    ratios: dict[str, float] = {}
    total = copied = 0.0
    for name, value in values.items():
        if name.startswith(_SUMS[0]):
            camera = name.removeprefix(_SUMS[0])
            copy = values[_SUMS[1] + camera]
            total, copied = total + value, copied + copy
            ratios[f"foresight_ratio/{camera}"] = value / copy if copy > 0 else float("nan")
    if ratios:
        ratios["foresight_ratio"] = total / copied if copied > 0 else float("nan")
    return {**{k: v for k, v in values.items() if not k.startswith(_SUMS)}, **ratios}


def foresight_strip(policy: TrainablePolicy, batch: WindowBatch, rows: int = 6) -> np.ndarray:
    """A picture (H, W, 3) uint8: for a few windows and each camera, what is seen, predicted, and truly comes.

    Windows whose future exists and in which most changes come first.
    """
    was_training = policy.training
    policy.eval()
    last = batch.history_mask.sum(axis=1) - 1
    here = np.arange(len(batch))
    cameras = [camera.name for camera in policy.contract.cameras]
    change = sum(
        np.abs(batch.future[c][here, last].astype(int) - batch.images[c][here, last]).mean(axis=(1, 2, 3))
        for c in cameras
    )
    order = np.argsort(-(change * batch.future_mask[here, last]), kind="stable")[:rows]
    device = next(policy.parameters()).device

    def tensor(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array[order])).to(device)

    plan = policy.plan(
        {c: tensor(batch.images[c]) for c in cameras}, tensor(batch.state), tensor(batch.state_mask),
        tensor(batch.history_mask), [batch.instruction[i] for i in order], foresight=True,
    )  # fmt: skip
    policy.train(was_training)
    lines = []
    for row, i in enumerate(order):
        cells = []
        for c in cameras:
            assert plan.foresight is not None
            cells += [batch.images[c][i, last[i]], plan.foresight[c][row], batch.future[c][i, last[i]]]
        lines.append(_captioned(cells, batch.instruction[i]))
    titles = [f"{c} {what}" for c in cameras for what in ("seen", "predicted", "came")]
    return np.concatenate([_titles(titles, lines[0].shape[1]), *lines])


def _captioned(cells: list[np.ndarray], caption: str) -> np.ndarray:
    # Cameras may differ in size: every cell is as large as the largest, so that titles stand above theirs.
    height, width = (_ZOOM * max(cell.shape[axis] for cell in cells) + 2 for axis in (0, 1))
    big = []
    for cell in cells:
        cell = cell.repeat(_ZOOM, 0).repeat(_ZOOM, 1)
        big.append(np.pad(cell, ((2, height - cell.shape[0]), (2, width - cell.shape[1]), (0, 0))))
    picture = np.concatenate(big, axis=1)
    strip = Image.new("RGB", (picture.shape[1], 14))
    ImageDraw.Draw(strip).text((3, 1), caption, fill=(255, 255, 255))
    return np.concatenate([np.asarray(strip), picture])


def _titles(titles: list[str], width: int) -> np.ndarray:
    strip = Image.new("RGB", (width, 14), (40, 40, 40))
    for number, title in enumerate(titles):
        ImageDraw.Draw(strip).text((3 + number * width // len(titles), 1), title, fill=(255, 255, 160))
    return np.asarray(strip)


def save_png(picture: np.ndarray, path: Path) -> None:
    """Write a picture (H, W, 3) uint8."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)
