"""What can go wrong with a simulated robot's cameras and joint states, on purpose and repeatable.

A camera line takes each picture when it is made and says which pictures go out now. Without a fault it hands it on.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from foreact.vla.errors import ConfigError, did_you_mean

CameraFaultKind = Literal["freeze", "stop", "slow", "delay", "jitter", "stamp", "black"]
CAMERA_FAULTS: dict[str, str] = {
    "freeze": "the same picture again and again, with new stamps",
    "stop": "no pictures",
    "slow": "only every `amount`-th picture",
    "delay": "every picture `amount` seconds late, with its true stamp",
    "jitter": "every picture up to `amount` seconds late, in order, with its true stamp",
    "stamp": "stamps `amount` seconds off",
    "black": "nothing but black",
}
"""Name -> what it does."""


@dataclass(frozen=True)
class Picture:
    """A camera's picture on its way out."""

    image: np.ndarray
    """(H, W, 3) uint8 RGB."""
    stamp_s: float
    due_s: float
    """When it goes out [s, simulated]."""


@dataclass
class CameraLine:
    """One camera between lens and topic."""

    rng: np.random.Generator
    fault: str = ""
    """One of `CAMERA_FAULTS`, or none."""
    amount: float = 0.0
    noise: int = 0
    """Each pixel value is off by up to so much, anew in every picture. A real sensor never sends one picture twice."""
    _made: int = 0
    _frozen: np.ndarray | None = None
    _waiting: deque[Picture] = field(default_factory=deque)

    def set(self, fault: str = "", amount: float = 0.0) -> None:
        """Begin a fault; an empty name ends it, and pictures that wait go out at their time.

        Raises:
            ConfigError: If there is no such fault, or it makes no sense with this amount.
        """
        if fault and fault not in CAMERA_FAULTS:
            raise ConfigError(f"no camera fault {fault!r}; {did_you_mean(fault, CAMERA_FAULTS)}")
        if not np.isfinite(amount) or (fault in ("delay", "jitter") and amount < 0.0):
            raise ConfigError(f"camera fault {fault!r}: the amount must be finite, in seconds >= 0, found {amount}")
        if fault == "slow" and amount < 1.0:
            raise ConfigError(f"camera fault 'slow': the amount is a number of pictures >= 1, found {amount}")
        self.fault, self.amount, self._made, self._frozen = fault, float(amount), 0, None

    def offer(self, image: np.ndarray, stamp_s: float, now_s: float) -> None:
        """A new picture, made of this moment."""
        late_s, made = 0.0, self._made
        self._made += 1
        if self.noise:
            off = self.rng.integers(-self.noise, self.noise + 1, image.shape, np.int16)
            image = np.clip(image + off, 0, 255).astype(np.uint8)
        match self.fault:
            case "stop":
                return
            case "slow":
                if made % round(self.amount):
                    return
            case "freeze":
                self._frozen = image if self._frozen is None else self._frozen
                image = self._frozen
            case "black":
                image = np.zeros_like(image)
            case "stamp":
                stamp_s += self.amount
            case "delay":
                late_s = self.amount
            case "jitter":
                late_s = float(self.rng.uniform(0.0, self.amount))
        after_s = self._waiting[-1].due_s if self._waiting else now_s
        self._waiting.append(Picture(image, stamp_s, max(now_s + late_s, after_s)))

    def due(self, now_s: float) -> list[Picture]:
        """The pictures that go out now, oldest first."""
        out = []
        while self._waiting and self._waiting[0].due_s <= now_s + 1e-9:
            out.append(self._waiting.popleft())
        return out


@dataclass
class JointFaults:
    """What happens to joint states on their way out."""

    rng: np.random.Generator
    drop: float = 0.0
    """Share that is lost; 1.0: all."""
    stamp_offset_s: float = 0.0
    frozen: bool = False
    """The same numbers again and again, with new stamps."""

    def lost(self) -> bool:
        """Whether the next joint state is lost."""
        return self.drop >= 1.0 or (self.drop > 0.0 and bool(self.rng.random() < self.drop))
