"""No non-finite number reaches the weights: training stops before that step, names the windows, keeps the evidence."""

from __future__ import annotations

import json
from collections import deque
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from foreact.vla.batch import WindowBatch
from foreact.vla.checkpoint import policy_files, tensor_file, to_json
from foreact.vla.errors import ForeActError
from foreact.vla.files import write_folder
from foreact.vla.trainable import TrainablePolicy


class NonFinite(ForeActError):
    """A loss or a gradient is NaN or infinite."""


class Spikes:
    """Notices losses far above the last 200: worth a look, no reason to stop."""

    def __init__(self, window: int = 200, sigmas: float = 10.0):
        self._last: deque[float] = deque(maxlen=window)
        self._sigmas = sigmas

    def add(self, loss: float) -> float:
        """How many standard deviations `loss` lies above the mean of the last ones, if more than the limit; else 0."""
        distance = 0.0
        if len(self._last) == self._last.maxlen:
            distance = (loss - float(np.mean(self._last))) / max(float(np.std(self._last)), 1e-12)
        self._last.append(loss)
        return distance if distance > self._sigmas else 0.0


def stop_non_finite(
    policy: TrainablePolicy, batch: WindowBatch, losses: dict[str, Tensor], what: str, step: int, out: Path
) -> NonFinite:
    """Find the windows to blame, write batch and weights to `out/nonfinite_step_<step>`; returns the error to raise."""
    suspects = [row for row in range(len(batch)) if not _is_fine(policy, one_window(batch, row))]
    named = [f"episode {e} frame {f}" for e, f in batch.index[suspects]]
    blame = f"the windows to blame: {', '.join(named[:8])}" if named else "no single window is to blame"
    folder = out / f"nonfinite_step_{step:06d}"
    arrays = {
        **{f"images/{name}": value for name, value in batch.images.items()},
        **{f"future/{name}": value for name, value in batch.future.items()},
        **{
            name: getattr(batch, name)
            for name in ("future_mask", "history_mask", "state", "state_mask", "action", "action_mask", "index")
        },
    }
    report = {
        "step": step,
        "what": what,
        "losses": {name: repr(float(value.detach())) for name, value in losses.items()},
        "windows": [{"episode": int(e), "frame": int(f)} for e, f in batch.index],
        "to_blame": [{"episode": int(e), "frame": int(f)} for e, f in batch.index[suspects]],
        "instruction": batch.instruction,
    }
    files = policy_files(policy)
    files["report.json"] = to_json(report)
    files["batch.safetensors"] = tensor_file({k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in arrays.items()})
    write_folder(folder, files)
    parts = json.dumps({name: report["losses"][name] for name in losses})
    return NonFinite(
        f"step {step}: {what} is not finite ({parts}); the weights were not touched.\n{blame}.\n"
        f"Batch, weights and a report are in {folder}. Look at these windows' data, or lower trainer.learning_rate."
    )


def one_window(batch: WindowBatch, row: int) -> WindowBatch:
    """The batch that holds only window `row`."""
    pick = slice(row, row + 1)
    arrays = ("future_mask", "history_mask", "state", "state_mask", "action", "action_mask", "index", "instruction")
    return replace(
        batch,
        images={name: value[pick] for name, value in batch.images.items()},
        future={name: value[pick] for name, value in batch.future.items()},
        **{name: getattr(batch, name)[pick] for name in arrays},
    )


def _is_fine(policy: TrainablePolicy, batch: WindowBatch) -> bool:
    policy.zero_grad(set_to_none=True)
    loss = policy.loss(batch)["total"]
    if loss.requires_grad and bool(torch.isfinite(loss)):
        loss.backward()
    grads = [p.grad for p in policy.parameters() if p.grad is not None]
    fine = bool(torch.isfinite(loss)) and all(bool(torch.isfinite(g).all()) for g in grads)
    policy.zero_grad(set_to_none=True)
    return fine
