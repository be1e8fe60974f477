"""An actor whose plans say what it saw, for the tests of policy servers; loaded by path."""

from __future__ import annotations

import time

import numpy as np

from foreact.vla.contract import Camera, Contract, Field
from foreact.vla.policy import Observation, Plan

CONTRACT = Contract(
    embodiment="bench",
    rate_hz=10.0,
    cameras=(Camera(name="front", height=8, width=12), Camera(name="wrist", height=6, width=6)),
    state=(Field(name="arm", size=2, unit="rad"), Field(name="hand", size=1, unit="m")),
    action=(
        Field(name="steps", size=1, unit="1"),
        Field(name="seen", size=2, unit="1"),
        Field(name="felt", size=3, unit="1"),
    ),
)
CHUNK = 4


class TellingActor:
    """Actions are: steps noted since the slot was reset, mean of each picture, the state; the rows of a chunk differ in
    the first number, by 100."""

    contract = CONTRACT
    execute_steps = 2
    looks_back = (1,)

    def __init__(self) -> None:
        self.steps: dict[int, int] = {}
        self.said: dict[int, list[str]] = {}
        self.slow_s = 0.0
        self.broken: Exception | None = None
        self.rows = 0
        """Of the last observation."""

    def reset(self, slots) -> None:
        for slot in slots:
            self.steps.pop(slot, None)
            self.said.pop(slot, None)

    def observe(self, observation: Observation) -> None:
        self.rows = len(observation.slots)
        for slot, text in zip(observation.slots, observation.instruction, strict=True):
            self.steps[slot] = self.steps.get(slot, 0) + 1
            self.said.setdefault(slot, []).append(text)

    def plan(self, observation: Observation, *, foresight: bool = False) -> Plan:
        if self.broken is not None:
            raise self.broken
        time.sleep(self.slow_s)
        self.observe(observation)
        rows = []
        for row, slot in enumerate(observation.slots):
            means = [observation.images[camera.name][row].mean() for camera in CONTRACT.cameras]
            rows.append([self.steps[slot], *means, *observation.state[row]])
        actions = np.repeat(np.array(rows, np.float32)[:, None], CHUNK, axis=1)
        actions[:, :, 0] += 100 * np.arange(CHUNK)
        pictures = {name: 255 - image for name, image in observation.images.items()} if foresight else None
        return Plan(actions=actions, foresight=pictures, foresight_steps=7 if foresight else 0)
