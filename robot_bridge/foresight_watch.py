"""Foresight as a warning: the frame that the policy expected beside the one that then came.

The policy predicts the pictures of some steps ahead. When that step comes, its prediction is compared with what the
camera sees, on the pixels that really changed (`foreact.vla.foresight`): an error above that of "nothing changes",
again and again, says that the world does not do what the policy expects. It warns; it never stops the arm.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import numpy as np

from foreact.vla.foresight import foresight_errors
from foreact.vla.results import ForesightSums

_KEPT = 64

Images = Mapping[str, np.ndarray]


def expected_frames(reply: Mapping[str, object], now: Images) -> dict[str, np.ndarray]:
    """What a policy's reply says of the frames it expects: camera -> (H, W, 3) uint8. What is no picture of a camera
    that it was shown, in the size that it was shown, is left out: nothing is done with it that could fail.

    Args:
        reply: From the server, "foresight/CAMERA" among its keys.
        now: What it was shown.
    """
    found = {name: reply.get(f"foresight/{name}") for name in now}
    return {
        name: image
        for name, image in found.items()
        if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.shape == now[name].shape
    }


class ForesightWatch:
    """Keeps predictions until their time has come.

    Args:
        warn_ratio: It warns while the error of the last `window` comparisons is more than so many times that of
            "nothing changes".
        window: Comparisons looked at; before there are so many, nothing is said.
        least_pixels: Comparisons in which fewer pixels changed are left out: nothing moved but noise.
    """

    def __init__(self, warn_ratio: float = 1.5, window: int = 10, least_pixels: int = 20):
        self.warn_ratio, self._window, self._least = warn_ratio, window, least_pixels
        self._waiting: deque[tuple[int, Images, Images]] = deque(maxlen=_KEPT)
        self._found: deque[ForesightSums] = deque(maxlen=window)

    def reset(self) -> None:
        """A new instruction: what was expected of the old one no longer counts."""
        self._waiting.clear()
        self._found.clear()

    def expect(self, step: int, predicted: Images, now: Images) -> None:
        """The policy, seeing `now`, expects `predicted` at policy step `step`; camera -> (H, W, 3) uint8."""
        self._waiting.append((step, predicted, now))

    def see(self, step: int, images: Images) -> float | None:
        """What the cameras show at a step: the ratio of this comparison, if there is one and something moved."""
        while self._waiting and self._waiting[0][0] < step:
            self._waiting.popleft()
        if not self._waiting or self._waiting[0][0] != step:
            return None
        _, predicted, before = self._waiting.popleft()
        sums = [foresight_errors(before[n], images[n], predicted[n]) for n in predicted if n in before and n in images]
        total = sum(sums, ForesightSums())
        if total.pixels < self._least:
            return None
        self._found.append(total)
        return total.predicted / total.copied

    @property
    def ratio(self) -> float | None:
        """Error beside that of "nothing changes", over the last comparisons; None before there are enough."""
        if len(self._found) < self._window:
            return None
        total = sum(self._found, ForesightSums())
        return total.predicted / total.copied

    @property
    def warns(self) -> bool:
        """Whether what happens is not what the policy expects."""
        ratio = self.ratio
        return ratio is not None and ratio > self.warn_ratio
