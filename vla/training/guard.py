"""No non-finite number reaches the weights: training stops before that step, names the windows, keeps the evidence."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from foreact.vla.batch import WindowBatch
from foreact.vla.checkpoint import Files, policy_files, tensor_file, to_json
from foreact.vla.errors import ForeActError
from foreact.vla.files import write_folder
from foreact.vla.trainable import TrainablePolicy
from foreact.vla.training.pieces import Piece, cut
from foreact.vla.training.ranks import Ranks, whole


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
    policy: TrainablePolicy, pieces: Sequence[Piece], losses: Mapping[str, float], what: str, step: int, out: Path,
    ranks: Ranks,
) -> NonFinite:  # fmt: skip
    """Find the windows to blame, write batch and weights to `out/nonfinite_step_<step>`; returns the error to raise.

    Of several processes each looks through its own windows; those after the first write their own folders
    (`..._rank_<number>`), without weights. Where weights are split between processes, no window is tried by itself.
    """
    policy.set_rows(None)
    weights = {name: whole(value.detach()) for name, value in policy.state_dict().items()}
    blamed: list[tuple[int, int]] = []
    files: Files = policy_files(policy, weights) if ranks.main else {}
    for number, piece in enumerate(pieces):
        batch = piece.batch
        for row in () if ranks.shard else range(len(batch)):
            if not _is_fine(policy, cut(batch, row, row + 1)):
                blamed.append((int(batch.index[row, 0]), int(batch.index[row, 1])))
        name = f"batch_{number}.safetensors" if len(pieces) > 1 else "batch.safetensors"
        files[name] = tensor_file(_tensors(batch))
    named = [f"episode {e} frame {f}" for e, f in blamed]
    blame = f"the windows to blame: {', '.join(named[:8])}" if named else "no single window is to blame"
    report = {
        "step": step,
        "what": what,
        "losses": {name: repr(float(value)) for name, value in losses.items()},
        "windows": windows_of(pieces),
        "to_blame": [{"episode": e, "frame": f} for e, f in blamed],
        "instruction": [text for piece in pieces for text in piece.batch.instruction],
    }
    files["report.json"] = to_json(report)
    folder = out / f"nonfinite_step_{step:06d}{'' if ranks.main else f'_rank_{ranks.rank}'}"
    write_folder(folder, files)
    return NonFinite(
        f"step {step}: {what} is not finite ({json.dumps(report['losses'])}); the weights were not touched.\n{blame}.\n"
        f"Batch, weights and a report are in {folder}. Look at these windows' data, or lower trainer.learning_rate."
    )


def dump_spike(
    pieces: Sequence[Piece], losses: Mapping[str, float], sigmas: float, step: int, out: Path, rank: int
) -> Path:
    """Write which windows a loss spike came from: `out/spikes/step_<step>.json`; returns the file.

    Of several processes each writes those of its own windows.
    """
    path = out / "spikes" / f"step_{step:08d}{f'_rank_{rank}' if rank else ''}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    instructions = [text for piece in pieces for text in piece.batch.instruction]
    rows = zip(windows_of(pieces), instructions, strict=True)
    windows = [{**window, "instruction": text} for window, text in rows]
    path.write_bytes(to_json({"step": step, "sigmas": sigmas, "losses": dict(losses), "windows": windows}))
    return path


def windows_of(pieces: Sequence[Piece]) -> list[dict[str, int]]:
    """Episode and frame of every window."""
    return [{"episode": int(e), "frame": int(f)} for piece in pieces for e, f in piece.batch.index]


def _tensors(batch: WindowBatch) -> dict[str, Tensor]:
    arrays = {
        **{f"images/{name}": value for name, value in batch.images.items()},
        **{f"future/{name}": value for name, value in batch.future.items()},
        **{
            name: getattr(batch, name)
            for name in ("future_mask", "history_mask", "state", "state_mask", "action", "action_mask", "index")
        },
        **({} if batch.action_used is None else {"action_used": batch.action_used}),
        **{f"features/{name}": value for name, value in (batch.features or {}).items()},
    }
    return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in arrays.items()}


def _is_fine(policy: TrainablePolicy, batch: WindowBatch) -> bool:
    policy.zero_grad(set_to_none=True)
    loss = policy.loss(batch)["total"]
    if loss.requires_grad and bool(torch.isfinite(loss)):
        loss.backward()
    grads = [p.grad for p in policy.parameters() if p.grad is not None]
    fine = bool(torch.isfinite(loss)) and all(bool(torch.isfinite(g).all()) for g in grads)
    policy.zero_grad(set_to_none=True)
    return fine
