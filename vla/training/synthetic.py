"""Made-up training windows with a right answer: a dot moves to the square whose colour the sentence names.

Pure in (seed, step), like a window sampler. Good for testing a policy, its loss and the loop without any data; not a
benchmark.

Shape legend: B windows, T history frames, K actions of a chunk, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from foreact.vla.batch import WindowBatch
from foreact.vla.contract import Camera, Contract, Field

COLORS = {"red": (220, 40, 40), "blue": (40, 70, 220)}
SPEED = 0.04
"""Distance per control step; the picture is 1 wide."""


def synthetic_contract(cameras: Mapping[str, tuple[int, int]]) -> Contract:
    """A point robot seen by any cameras: its state is its place; the gripper says whether it is left of its goal."""
    return Contract(
        embodiment="synthetic_dot",
        rate_hz=30.0,
        cameras=tuple(Camera(name=name, height=h, width=w) for name, (h, w) in cameras.items()),
        state=(Field(name="place", size=2, unit="1"), Field(name="heading", size=1, unit="rad", rotation="euler_xyz")),
        action=(
            Field(name="delta_place", size=2, unit="0.04", low=-1.0, high=1.0, relative=True),
            Field(name="gripper", size=1, unit="1", low=-1.0, high=1.0),
        ),
        gripper="+1 open, -1 close",
    )


class SyntheticWindows:
    """`batch_at(step)` makes B windows for a policy's config and contract; some lack a past, a future or a robot."""

    def __init__(self, config, contract: Contract, *, batch_size: int, seed: int):
        self.config, self.contract, self.batch_size, self.seed = config, contract, batch_size, seed

    def batch_at(self, step: int) -> WindowBatch:
        """The batch of step `step`."""
        config, B, T, K = self.config, self.batch_size, self.config.history, self.config.chunk
        rng = np.random.default_rng([self.seed, step])
        start = rng.uniform(0.1, 0.9, (B, 2))
        squares = rng.uniform(0.15, 0.85, (B, len(COLORS), 2))
        goal = rng.integers(len(COLORS), size=B)
        target = squares[np.arange(B), goal]

        horizon = (T - 1) * config.history_stride + max(config.foresight_steps, K) + 1
        place, moves = [start], []
        for _ in range(horizon):
            moves.append(np.clip((target - place[-1]) / SPEED, -1.0, 1.0))
            place.append(place[-1] + SPEED * moves[-1])
        place_BN2, moves_BN2 = np.stack(place, axis=1), np.stack(moves, axis=1)

        length = rng.integers(1, T + 1, size=B)
        history_mask = np.arange(T) < length[:, None]
        times = np.arange(T) * config.history_stride
        future_mask = history_mask & (rng.random((B, 1)) < 0.9)
        robot = rng.random(B) < 0.9
        steps_TK = times[:, None] + np.arange(K)
        left = np.where(place_BN2[..., :1] < target[:, None, :1], 1.0, -1.0)
        action = np.concatenate([moves_BN2[:, steps_TK], left[:, steps_TK]], axis=-1)
        state = np.concatenate([place_BN2[:, times], np.full((B, T, 1), np.pi)], axis=-1)
        state_mask = history_mask & robot[:, None]
        action_mask = np.repeat(state_mask[..., None], K, axis=2)

        images: dict[str, np.ndarray] = {}
        future: dict[str, np.ndarray] = {}
        for camera in self.contract.cameras:
            shape = (camera.height, camera.width)
            images[camera.name] = draw(place_BN2[:, times], squares, shape) * history_mask[..., None, None, None]
            later = draw(place_BN2[:, times + config.foresight_steps], squares, shape)
            future[camera.name] = later * future_mask[..., None, None, None]
        return WindowBatch(
            images=images,
            future=future,
            future_mask=future_mask,
            history_mask=history_mask,
            state=(state * state_mask[..., None]).astype(np.float32)[..., : self.contract.state_size],
            state_mask=state_mask & bool(self.contract.state),
            action=(action * action_mask[..., None]).astype(np.float32)[..., : self.contract.action_size],
            action_mask=action_mask & bool(self.contract.action),
            instruction=[f"go to the {list(COLORS)[g]} square" for g in goal],
            index=np.stack([np.full(B, step), np.arange(B)], axis=1).astype(np.int64),
        )


def draw(place_BT2: np.ndarray, squares_BC2: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(B, T, H, W, 3) uint8 pictures of the squares and, in front, the black dot; places are (x, y) in [0, 1]."""
    height, width = shape
    x = (np.arange(width) + 0.5) / width
    y = (np.arange(height)[:, None] + 0.5) / height
    B, T, _ = place_BT2.shape
    picture = np.full((B, T, height, width, 3), 200, np.uint8)

    def inside(center: np.ndarray, half: float) -> np.ndarray:
        cx, cy = center[..., 0, None, None], center[..., 1, None, None]
        return (np.abs(x - cx) < half) & (np.abs(y - cy) < half)

    for number, color in enumerate(COLORS.values()):
        where = np.broadcast_to(inside(squares_BC2[:, number], 0.12)[:, None], picture.shape[:-1])
        picture[where] = color
    picture[inside(place_BT2, 0.1)] = (20, 20, 20)
    return picture
