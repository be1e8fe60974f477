"""How much a plan changes when something that it was made from is changed or hidden.

This asks the policy itself, so it is the check on pictures of attention and gradients.

Shape legend: B plans, K actions of a chunk, A action size, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from foreact.vla.explain_saliency import arm_places, mean_colour
from foreact.vla.explain_windows import Windows, encode
from foreact.vla.trainable import TrainablePolicy

SentenceKind = Literal["paraphrase", "other task", "empty"]


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """Something else to say."""

    text: str
    kind: SentenceKind
    task: str = ""


@dataclass(frozen=True, kw_only=True)
class Change:
    """What one change did to B plans. Distances are over the arm's numbers of the actions that are executed."""

    name: str
    kind: str
    """"paraphrase", "other task", "empty" (sentences), "state", "camera" or "history"."""
    detail: str = ""
    distance_B: np.ndarray
    """Root mean square difference to the plan as it was [action units]."""
    gripper_B: np.ndarray
    """Share of the actions whose gripper command changed."""
    error_B: np.ndarray
    """Mean absolute difference to the recorded actions [action units]; NaN where none were recorded."""


class Differ:
    """Measures plans against the plan as it was and against what was recorded.

    Args:
        policy: Gives the executed steps and what is the arm.
        plan_BKA: The plan as it was.
        recorded: (B, K, A) recorded actions and (B, K) which of them exist; None where there are none.
    """

    def __init__(
        self, policy: TrainablePolicy, plan_BKA: np.ndarray, recorded: tuple[np.ndarray, np.ndarray] | None
    ) -> None:
        self._arm = arm_places(policy.contract)
        self._hand = [place for place in range(policy.contract.action_size) if place not in self._arm]
        self._executed = policy.config.execute_steps
        self._plan, self._recorded = plan_BKA, recorded

    def change(self, changed_BKA: np.ndarray, *, name: str, kind: str, detail: str = "") -> Change:
        """What has become of the plans."""
        new, old = changed_BKA[:, : self._executed], self._plan[:, : self._executed]
        distance = np.sqrt(((new - old)[..., self._arm] ** 2).mean(axis=(1, 2)))
        gripper = (np.sign(new) != np.sign(old))[..., self._hand].any(axis=-1).mean(axis=1)
        return Change(
            name=name, kind=kind, detail=detail, distance_B=distance, gripper_B=gripper, error_B=self.error(changed_BKA)
        )

    def error(self, plan_BKA: np.ndarray) -> np.ndarray:
        """(B,) mean absolute difference of the arm to what was recorded [action units]."""
        if self._recorded is None:
            return np.full(len(plan_BKA), np.nan)
        action_BKA, exists_BK = (part[:, : self._executed] for part in self._recorded)
        error_BK = np.abs(plan_BKA[:, : self._executed] - action_BKA)[..., self._arm].mean(axis=-1)
        # A plan is always made at a recorded frame, so at least its first action exists.
        return (error_BK * exists_BK).sum(axis=1) / exists_BK.sum(axis=1)

    def size(self) -> np.ndarray:
        """(B,) root mean square of the plan as it was: what distances can be compared with [action units]."""
        return np.sqrt((self._plan[:, : self._executed][..., self._arm] ** 2).mean(axis=(1, 2)))


@torch.no_grad()
def plan_with(policy: TrainablePolicy, frames_BTFD: Tensor, language_BD: Tensor, mask_BT: Tensor) -> np.ndarray:
    """The plans (B, K, A) that would be executed."""
    return policy.plan_from(frames_BTFD, language_BD, mask_BT, None).actions


def hear(
    policy: TrainablePolicy, frames_BTFD: Tensor, mask_BT: Tensor, sentences: Sequence[Sentence], differ: Differ
) -> Iterator[Change]:
    """Plan again with each sentence; the frames are not looked at again."""
    for sentence in sentences:
        with torch.no_grad():
            language_BD = policy.encode_text([sentence.text]).expand(len(mask_BT), -1)
        plan = plan_with(policy, frames_BTFD, language_BD, mask_BT)
        yield differ.change(plan, name=sentence.text, kind=sentence.kind, detail=sentence.task)


@torch.no_grad()
def hide(policy: TrainablePolicy, windows: Windows, language_BD: Tensor, differ: Differ) -> Iterator[Change]:
    """Plan again with the state, each camera, or the past hidden, each in one or two ways."""
    B, T = windows.mask_BT.shape

    def again(changed: Windows, name: str, kind: str, detail: str) -> Change:
        plan = plan_with(policy, encode(policy, changed), language_BD, changed.mask_BT)
        return differ.change(plan, name=name, kind=kind, detail=detail)

    if policy.contract.state:
        zeros = torch.zeros_like(windows.state_BTS)
        if "state" in policy.statistics:
            mean = torch.tensor(policy.statistics["state"]["mean"], dtype=torch.float32, device=zeros.device)
            usual = replace(windows, state_BTS=mean.expand_as(zeros).contiguous())
            yield again(usual, "state", "state", "mean of the training data")
        unknown = replace(windows, state_BTS=zeros, known_BT=torch.zeros_like(windows.known_BT))
        yield again(unknown, "state", "state", "unknown (zeros)")
    grey = mean_colour(windows.images, windows.mask_BT)
    for camera, image in windows.images.items():
        for detail, blank in (("mean colour", grey[camera].round().to(torch.uint8)), ("black", image * 0)):
            yield again(replace(windows, images={**windows.images, camera: blank}), camera, "camera", detail)
    if T > 1:
        rows = torch.arange(B, device=windows.mask_BT.device)

        def only_now(values: Tensor) -> Tensor:
            moved = torch.zeros_like(values)
            moved[:, 0] = values[rows, windows.last_B]
            return moved

        alone = Windows(
            images={camera: only_now(image) for camera, image in windows.images.items()},
            state_BTS=only_now(windows.state_BTS),
            known_BT=only_now(windows.known_BT),
            mask_BT=only_now(windows.mask_BT),
        )
        yield again(alone, "history", "history", "only the present frame")
