"""Small episodes whose content follows from their name, so that a test can tell whether a store gives them back."""

from __future__ import annotations

import zlib

import numpy as np

from foreact.datasets.episode import EpisodeData, Segment
from foreact.vla.contract import Camera, Contract, Field

SELFTEST_CONTRACT = Contract(
    embodiment="selftest",
    rate_hz=10,
    cameras=(Camera(name="front", height=24, width=32), Camera(name="wrist", height=16, width=16)),
    state=(Field(name="joints", size=3, unit="rad"),),
    action=(Field(name="joints", size=2, unit="rad"),),
)


def make_episode(name: str) -> EpisodeData:
    """The episode of that name: 3 to 12 frames, with state and action in three of four."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    length = int(rng.integers(3, 13))
    ramp = np.linspace(0, 200, 24 * 32 * 3).reshape(24, 32, 3) + rng.uniform(0, 20, (length, 1, 1, 1))
    images = ramp.astype(np.uint8)
    video = rng.random() < 0.25
    return EpisodeData(
        images={"front": images, "wrist": images[:, :16, :16]},
        state=None if video else rng.normal(size=(length, 3)).astype(np.float32),
        action=None if video else rng.normal(size=(length, 2)).astype(np.float32),
        extras={"scene": rng.normal(size=(length, 2, 2))},
        instruction=f"do {name}",
        segments=[Segment(start=1, end=length, instruction="most of it")],
        meta={"task": "selftest", "number": int(rng.integers(100)), "split": "train"},
        name=name,
    )


def same_episode(a: EpisodeData, b: EpisodeData) -> bool:
    """Whether two episodes are equal in everything, bit by bit."""
    arrays_a = {**a.images, **a.extras, "state": a.state, "action": a.action}
    arrays_b = {**b.images, **b.extras, "state": b.state, "action": b.action}
    if arrays_a.keys() != arrays_b.keys():
        return False
    for key, value in arrays_a.items():
        other = arrays_b[key]
        if value is None or other is None:
            if value is not other:
                return False
        elif value.dtype != other.dtype or not np.array_equal(value, other):
            return False
    return (a.instruction, a.segments, a.meta, a.name) == (b.instruction, b.segments, b.meta, b.name)
