"""Many desks at once: several processes, several desks in each, frames through shared memory.

gymnasium's own `AsyncVectorEnv` gives every environment a process of its own. A desk is cheap beside a process (its
interpreter, libraries and GL driver), so here each process steps several of them, as a `SyncVectorEnv`, whose
autoreset modes and `info` are thereby the ones of `DeskVectorEnv`. An environment's results depend on its seed and its
actions, not on how many others there are or which process runs it.
"""

from __future__ import annotations

import multiprocessing
import os
import weakref
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, create_shared_memory

from foreact.sim.embodiment import desk_contract
from foreact.sim.gl_backend import pick_gl_backend
from foreact.sim.scenes import get_scene
from foreact.sim.spaces import Obs, action_space, observation_space
from foreact.sim.tasks import get_task
from foreact.sim.vector_info import merge_infos
from foreact.sim.vector_worker import Failed, Refused, Shard, board_space, open_board, serve
from foreact.vla.errors import ConfigError, ForeActError, did_you_mean
from foreact.vla.processes import one_thread_each

Step = tuple[Obs, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]


class WorkerError(ForeActError):
    """A process of a `DeskVectorEnv` failed or died."""


class DeskVectorEnv(VectorEnv[Obs, np.ndarray, np.ndarray]):
    """`num_envs` equal desks in lockstep.

    Observations are those of `DeskEnv` with a first axis of length `num_envs`. Use it in a `with`, or call `close`.
    """

    def __init__(
        self,
        num_envs: int = 1,
        *,
        num_processes: int | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        copy: bool = True,
        **desk: Any,
    ) -> None:
        """Start the processes and build the desks.

        Args:
            num_envs: How many desks.
            num_processes: Over how many processes they are spread; as many as there are cores by default.
            autoreset_mode: What happens after an episode: "NextStep" (the next `step` resets and ignores the action),
                "SameStep" (the same `step` resets; `info` holds `final_obs` and `final_info`) or "Disabled".
            copy: Whether observations are the caller's own; without, the next `step` writes over them.
            desk: Arguments of `DeskEnv`, the same for all.

        Raises:
            ConfigError: If an argument is wrong.
            WorkerError: If a process cannot start.
        """
        if num_envs < 1 or (num_processes is not None and num_processes < 1):
            raise ConfigError(f"num_envs and num_processes must be 1 or more, found {num_envs} and {num_processes}")
        self.num_envs = num_envs
        self._copy = copy
        mode = _autoreset(autoreset_mode)
        # Mistakes are told here, before anything is started.
        self.scene = get_scene(desk.get("scene", "D"))
        if desk.get("task"):
            get_task(desk["task"])
        action_mode = desk.get("action_mode", "relative_cartesian")
        self.single_action_space = action_space(action_mode)
        self.contract = desk_contract(desk.get("sizes"), action_mode)
        renders = desk.get("render", True)
        sizes = {c.name: (c.height, c.width) for c in self.contract.cameras} if renders else {}
        self.single_observation_space = observation_space(sizes, desk.get("depth", False))
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.render_mode = desk.get("render_mode", "rgb_array")
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": 30, "autoreset_mode": mode}
        if renders:
            pick_gl_backend()  # once for all processes

        # Spawned, not forked: a GL context does not survive a fork. The memory has no name, so nothing can be left
        # behind of it.
        context = multiprocessing.get_context("spawn")
        space = board_space(self.single_observation_space, self.single_action_space)
        shared = create_shared_memory(space, num_envs, context)
        self._board = open_board(space, shared, num_envs)
        self._processes: list[Any] = []
        self._pipes: list[Connection] = []
        self._unanswered: set[int] = set()
        self._release = weakref.finalize(self, _end, self._pipes, self._processes)
        self._shards = [
            Shard(first=first, count=count, num_envs=num_envs, autoreset=mode.value, desk=desk)
            for first, count in split(num_envs, num_processes or os.cpu_count() or 1)
        ]
        with one_thread_each():
            for number, shard in enumerate(self._shards):
                pipe, theirs = context.Pipe()
                process = context.Process(
                    target=serve, args=(theirs, shared, space, shard), daemon=True, name=f"desks {number}"
                )
                self._pipes.append(pipe)
                self._processes.append(process)
                process.start()
                theirs.close()
                self._unanswered.add(number)  # it reports when its desks are built
        self._receive(fatal=True)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Obs, dict[str, Any]]:
        """Start anew, all of them or those in `options["reset_mask"]` (num_envs,) bool.

        Args:
            seed: Of environment i: `seed + i`, or `seed[i]`.
            options: As for `DeskEnv.reset`, the same for all.
        """
        seeds = [seed + i for i in range(self.num_envs)] if isinstance(seed, int) else list(seed or [])
        if seeds and len(seeds) != self.num_envs:
            raise ConfigError(f"seed must be one number or one for each of the {self.num_envs}, found {len(seeds)}")
        options = dict(options or {})
        mask = options.pop("reset_mask", None)
        mask = np.ones(self.num_envs, bool) if mask is None else np.asarray(mask)
        if mask.shape != (self.num_envs,) or mask.dtype != np.bool_ or not mask.any():
            raise ConfigError(f"reset_mask must be ({self.num_envs},) bool, not all False; found {mask!r:.120}")
        asked = []
        for number, shard in enumerate(self._shards):
            rows = slice(shard.first, shard.first + shard.count)
            if mask[rows].any():
                part = options if mask[rows].all() else {**options, "reset_mask": mask[rows].copy()}
                self._send(number, "reset", (seeds[rows] or None, part))
                asked.append(number)
        info = self._infos(asked, self._receive(asked))
        return self._observation(), info

    def step(self, actions: np.ndarray) -> Step:
        """One control step in every environment; `actions` (num_envs, A)."""
        self.step_async(actions)
        return self.step_wait()

    def step_async(self, actions: np.ndarray) -> None:
        """Begin a `step`; something else can be computed until `step_wait`."""
        actions = np.asarray(actions)
        if actions.shape != self.action_space.shape:
            raise ConfigError(f"actions must have shape {self.action_space.shape}, found {actions.shape}")
        self._board["action"][:] = actions
        for number in range(len(self._shards)):
            self._send(number, "step", None)

    def step_wait(self) -> Step:
        """The results of `step_async`."""
        replies = self._receive()
        info = self._infos(range(len(self._shards)), replies)
        terminated, truncated = (self._board[key].astype(bool) for key in ("terminated", "truncated"))
        return self._observation(), self._board["reward"].copy(), terminated, truncated, info

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The results of the method, or the values of the attribute, `name` of every environment."""
        for number in range(len(self._shards)):
            self._send(number, "call", (name, args, kwargs))
        return tuple(value for reply in self._receive() for value in reply)

    def render(self) -> tuple[np.ndarray, ...]:  # type: ignore[override]
        """The static camera's frame (H, W, 3) uint8 of every environment."""
        for number in range(len(self._shards)):
            self._send(number, "render", None)
        return tuple(frame for reply in self._receive() for frame in reply)

    @property
    def process_ids(self) -> tuple[int, ...]:
        """Of the processes, in the order of their environments."""
        return tuple(process.pid for process in self._processes)

    def close_extras(self, **kwargs: Any) -> None:
        """End the processes."""
        if (release := getattr(self, "_release", None)) is not None:  # absent where the arguments were refused
            release()

    def __enter__(self) -> DeskVectorEnv:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _observation(self) -> Obs:
        return {key: batch.copy() if self._copy else batch for key, batch in self._board["observation"].items()}

    def _infos(self, asked: Sequence[int] | range, replies: Sequence[dict[str, Any]]) -> dict[str, Any]:
        by_number = dict(zip(asked, replies, strict=True))
        return merge_infos([(by_number.get(n, {}), shard.count) for n, shard in enumerate(self._shards)])

    def _send(self, number: int, command: str, argument: Any) -> None:
        if not self._release.alive:
            raise WorkerError("this DeskVectorEnv is closed; make a new one")
        if number in self._unanswered:
            raise WorkerError(f"cannot {command} while a step is under way; call step_wait first")
        try:
            self._pipes[number].send((command, argument))
            self._unanswered.add(number)
        except (BrokenPipeError, ConnectionResetError):
            raise self._died(number) from None

    def _receive(self, asked: Sequence[int] | None = None, fatal: bool = False) -> list[Any]:
        """One reply of each process in `asked`; all are taken before the first error is raised."""
        numbers = range(len(self._shards)) if asked is None else asked
        replies = []
        for number in numbers:
            if number not in self._unanswered:
                raise WorkerError("no step is under way; call step_async first")
            try:
                replies.append(self._pipes[number].recv())
                self._unanswered.remove(number)
            except (EOFError, ConnectionResetError):
                raise self._died(number) from None
        for number, reply in zip(numbers, replies, strict=True):
            if isinstance(reply, Refused):
                if fatal:
                    self.close()
                error = ForeActError(reply.message)
                error.exit_code = reply.exit_code
                raise error
            if isinstance(reply, Failed):
                self.close()
                raise WorkerError(f"{self._who(number)} failed, which is a bug in ForeAct:\n{reply.trace}")
        return replies

    def _who(self, number: int) -> str:
        shard = self._shards[number]
        last = shard.first + shard.count - 1
        return f"the process of environment{f's {shard.first} to {last}' if last > shard.first else f' {last}'}"

    def _died(self, number: int) -> WorkerError:
        process = self._processes[number]
        process.join(timeout=5)
        error = WorkerError(
            f"{self._who(number)} ended with exit status {process.exitcode} (out of memory? a script that starts it "
            'needs `if __name__ == "__main__":`)'
        )
        self.close()
        return error


def split(num_envs: int, num_processes: int) -> list[tuple[int, int]]:
    """(first, count) of each process's environments: as even as possible, none empty."""
    parts = np.array_split(np.arange(num_envs), min(num_envs, num_processes))
    return [(int(part[0]), len(part)) for part in parts]


def _autoreset(mode: AutoresetMode | str) -> AutoresetMode:
    try:
        return AutoresetMode(mode)
    except ValueError:
        known = [m.value for m in AutoresetMode]
        raise ConfigError(f"unknown autoreset_mode {mode!r}; {did_you_mean(str(mode), known)}") from None


def _end(pipes: list[Connection], processes: list[Any]) -> None:
    """Ask the processes to end, and end them if they do not."""
    for pipe in pipes:
        with suppress(OSError, ValueError):  # already gone
            pipe.send(None)
    for process in processes:
        if process.pid is not None:
            process.join(timeout=5)
            if process.is_alive():
                process.terminate()
                process.join()
    for pipe in pipes:
        pipe.close()
