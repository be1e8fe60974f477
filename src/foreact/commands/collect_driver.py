"""A trained policy that drives during a collection, so that experts show the way back from where it goes wrong."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from foreact.vla.errors import ConfigError


class PolicyDriver:
    """A checkpoint in one environment, as `foreact.sim.demonstrate` asks it.

    Raises:
        ForeActError: If the folder is no checkpoint, or its policy does not fit the desk.
    """

    def __init__(self, checkpoint: str) -> None:
        import torch

        from foreact.sim.border import find_border
        from foreact.sim.desk_suite import DeskSuite
        from foreact.vla.actors import load_checkpoint_actor
        from foreact.vla.hub import local_checkpoint

        torch.set_num_threads(1)  # the number changes how sums are rounded, and what is recorded depends on them
        self._actor = load_checkpoint_actor(Path(local_checkpoint(checkpoint)), batch_size=1)
        suite = DeskSuite()
        self._border = find_border(self._actor.contract, suite, checkpoint)
        if self._border.suite.contract().action != suite.contract().action:
            raise ConfigError(
                f"driver={checkpoint}: its actions are {', '.join(f.name for f in self._actor.contract.action)}; "
                f"expected those that are recorded here, {', '.join(f.name for f in suite.contract().action)}"
            )
        self._queue: deque[np.ndarray] = deque()
        self._instruction = ""

    def begin(self, instruction: str) -> None:
        """A new episode."""
        self._actor.reset([0])
        self._queue.clear()
        self._instruction = instruction

    def act(self, obs: Mapping[str, np.ndarray]) -> np.ndarray:
        """The policy's action (7,) for what the environment shows, frames among it."""
        from foreact.vla.actors import check_plan

        frames = {camera: obs[camera] for camera in self._border.cameras}
        seen = self._border.observation([0], [obs], [frames], [self._instruction])
        if self._queue:
            self._actor.observe(seen)
        else:
            self._queue.extend(check_plan(self._actor, self._actor.plan(seen), 1)[0])
        return np.asarray(self._border.action(self._queue.popleft()), dtype=np.float64)
