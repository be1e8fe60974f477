"""Looking inside a policy over one recorded episode: attention, saliency, foresight, and what changes its plans.

Shape legend: B plans, T history frames, C context tokens, P patches, K actions of a chunk, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch

from foreact.vla.errors import ConfigError, ForeActError
from foreact.vla.explain_attention import Attention, trace_attention
from foreact.vla.explain_saliency import (
    action_places,
    gradient,
    integrated_gradients,
    mean_colour,
    open_tower,
    over_patches,
    score_of,
)
from foreact.vla.explain_sensitivity import Change, Differ, Sentence, hear, hide, plan_with
from foreact.vla.explain_tokens import Explainable, TokenMap
from foreact.vla.explain_windows import Episode, chunks, encode, history_mask, recorded_chunks, windows_at
from foreact.vla.foresight import foresight_errors
from foreact.vla.policy import Plan
from foreact.vla.results import ForesightSums
from foreact.vla.trainable import TrainablePolicy

Maps = dict[str, np.ndarray]
"""Camera -> (B, T, P): a number per patch of each history frame."""


class CannotExplain(ForeActError):
    """There is nothing in this policy or episode that could be explained."""


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Everything about B plans of one episode."""

    episode: Episode
    frames: tuple[int, ...]
    """The frames at which plans were made, in the episode given."""
    rate_hz: float
    stride: int
    """Control steps between two history frames."""
    part: str
    """What of the action the saliency is about."""
    tokens: TokenMap | None
    mask_BT: np.ndarray
    attention: Attention | None
    """On the CPU; None for a policy that does not say what its tokens are."""
    attended: Maps
    gradients: Maps
    """Mean over a patch of the sum over colours of |derivative| [score per grey level]."""
    integrated: Maps
    """|Mean over a patch of the contributions| [score]."""
    ahead: int
    """How many control steps ahead frames are predicted; 0: they are not."""
    predicted: dict[str, np.ndarray]
    """Camera -> (B, h, w, 3) uint8."""
    foresight: dict[str, list[ForesightSums]]
    """Camera -> errors of each prediction whose moment was recorded."""
    plan_size_B: np.ndarray
    """Root mean square of the arm's planned numbers [action units]."""
    error_B: np.ndarray
    """Mean absolute difference of the plan to what was recorded [action units]."""
    changes: tuple[Change, ...]

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names, in the policy's order."""
        return tuple(self.episode.images)


def explain_episode(
    policy: TrainablePolicy,
    episode: Episode,
    frames: Sequence[int],
    sentences: Sequence[Sentence],
    *,
    part: str = "arm",
    integration_steps: int = 16,
    batch: int = 8,
    progress: Callable[[str], None] | None = None,
) -> Explanation:
    """Look inside.

    Args:
        policy: In evaluation mode, on any device.
        episode: What was recorded; longer than `frames`, where later frames are to be compared with predictions.
        frames: At which a plan is made.
        sentences: Other things to say.
        part: What of the action the saliency is about, see `explain_saliency.action_places`.
        integration_steps: Points of the integrated gradients; 0 leaves them out.
        batch: Windows looked at together; more need more memory.
        progress: Called with the name of each part of the work.

    Raises:
        CannotExplain: If the policy has no actions, or there are no frames.
        ConfigError: If the action has no such part.
    """
    if not policy.contract.action:
        raise CannotExplain("this policy was trained on video alone and plans no actions; fine-tune it first")
    if not frames:
        raise CannotExplain("there are no frames to explain")
    if not episode.instruction.strip():
        raise CannotExplain("the episode has no instruction; say one: --instruction TEXT")
    say = progress or (lambda text: None)
    places = action_places(policy.contract, part)
    tokens = policy.describe_tokens() if isinstance(policy, Explainable) else None
    # Windows are made anew in each part of the work, so that those of a long episode need not all be kept.
    pieces = list(chunks(frames, batch))
    with torch.no_grad():
        language = policy.encode_text([episode.instruction])

    looks: list[Attention] = []
    slopes: list[dict[str, torch.Tensor]] = []
    parts: list[dict[str, torch.Tensor]] = []
    if tokens is not None:
        say("attention and saliency")
        for some in pieces:
            windows = windows_at(policy, episode, some)
            said = language.expand(len(windows), -1)
            looks.append(trace_attention(policy, tokens, windows, said))
            with open_tower(policy, tokens):
                score = score_of(policy, tokens, windows, said, places)
                _, found = gradient(score, windows.images)
                slopes.append({c: over_patches(v, tokens.grid, signed=False) for c, v in found.items()})
                if integration_steps:
                    blank = mean_colour(windows.images, windows.mask_BT)
                    found = integrated_gradients(score, windows.images, blank, integration_steps)
                    parts.append({c: over_patches(v, tokens.grid, signed=True) for c, v in found.items()})
    attention = _joined(looks)

    say("foresight")
    predicted, ahead = _predict(policy, episode, pieces, language)
    sums = {camera: _compare(episode, camera, frames, ahead, seen) for camera, seen in predicted.items()}

    say("other instructions, and hidden parts")
    changes, size_B, error_B = _changes(policy, episode, pieces, language, sentences)
    return Explanation(
        episode=episode,
        frames=tuple(frames),
        rate_hz=policy.contract.rate_hz,
        stride=policy.config.history_stride,
        part=part,
        tokens=tokens,
        mask_BT=history_mask(policy, frames),
        attention=attention,
        attended={} if attention is None else {c: v.numpy() for c, v in attention.patches.items()},
        gradients=_maps(slopes),
        integrated=_maps(parts),
        ahead=ahead,
        predicted=predicted,
        foresight=sums,
        plan_size_B=size_B,
        error_B=error_B,
        changes=tuple(changes),
    )


def choose_frames(length: int, frames: str, every: int) -> list[int]:
    """Frames at which to plan, from "a:b" (as a slice; empty for all) and a stride.

    Raises:
        ConfigError: If the text is no slice, or it holds no frame.
    """
    try:
        first, _, end = frames.partition(":")
        if frames and ":" not in frames:
            raise ValueError
        chosen = list(range(length))[slice(int(first) if first else None, int(end) if end else None)][::every]
    except ValueError as error:
        raise ConfigError(f"--frames {frames!r}: expected a:b, the first frame and the one behind the last") from error
    if not chosen:
        raise ConfigError(f"--frames {frames!r}: the episode has frames 0 to {length - 1}, and none of them is chosen")
    return chosen


@torch.no_grad()
def _predict(
    policy: TrainablePolicy, episode: Episode, pieces: Sequence[Sequence[int]], language: torch.Tensor
) -> tuple[dict[str, np.ndarray], int]:
    plans: list[Plan] = []
    for some in pieces:
        windows = windows_at(policy, episode, some)
        said = language.expand(len(windows), -1)
        plans.append(policy.plan_from(encode(policy, windows), said, windows.mask_BT, windows.present()))
    if plans[0].foresight is None:
        return {}, 0
    joined = {c: np.concatenate([p.foresight[c] for p in plans if p.foresight]) for c in plans[0].foresight}
    return joined, plans[0].foresight_steps


def _compare(
    episode: Episode, camera: str, frames: Sequence[int], ahead: int, predicted: np.ndarray
) -> list[ForesightSums]:
    seen = episode.images[camera]
    return [
        foresight_errors(seen[frame], seen[frame + ahead], predicted[row])
        for row, frame in enumerate(frames)
        if frame + ahead < len(seen)
    ]


def _changes(
    policy: TrainablePolicy,
    episode: Episode,
    pieces: Sequence[Sequence[int]],
    language: torch.Tensor,
    sentences: Sequence[Sentence],
) -> tuple[list[Change], np.ndarray, np.ndarray]:
    """Every change of all plans, the size of the plans, and their error."""
    found: list[list[Change]] = []
    sizes: list[np.ndarray] = []
    errors: list[np.ndarray] = []
    for some in pieces:
        windows = windows_at(policy, episode, some)
        said = language.expand(len(windows), -1)
        with torch.no_grad():
            tokens = encode(policy, windows)
        plan = plan_with(policy, tokens, said, windows.mask_BT)
        recorded = None if episode.action is None else recorded_chunks(episode, some, policy.config.chunk)
        differ = Differ(policy, plan, recorded)
        sizes.append(differ.size())
        errors.append(differ.error(plan))
        heard = hear(policy, tokens, windows.mask_BT, sentences, differ)
        found.append([*heard, *hide(policy, windows, said, differ)])
    changes = [
        Change(
            name=same[0].name, kind=same[0].kind, detail=same[0].detail,
            distance_B=np.concatenate([c.distance_B for c in same]),
            gripper_B=np.concatenate([c.gripper_B for c in same]),
            error_B=np.concatenate([c.error_B for c in same]),
        )
        for same in zip(*found, strict=True)
    ]  # fmt: skip
    return changes, np.concatenate(sizes), np.concatenate(errors)


def _joined(looks: Sequence[Attention]) -> Attention | None:
    if not looks:
        return None
    joined = {}
    for field in fields(Attention):
        values = [getattr(look, field.name) for look in looks]
        if isinstance(values[0], dict):
            joined[field.name] = {key: torch.cat([value[key] for value in values]).cpu() for key in values[0]}
        else:
            joined[field.name] = torch.cat(values).cpu()
    return Attention(**joined)


def _maps(pieces: Sequence[dict[str, torch.Tensor]]) -> Maps:
    return {c: torch.cat([piece[c] for piece in pieces]).cpu().numpy() for c in (pieces[0] if pieces else {})}
