"""One process of `foreact.sim.vector`: several desks in lockstep, their observations in shared memory."""

from __future__ import annotations

import signal
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector.utils import read_from_shared_memory

from foreact.vla.errors import ForeActError
from foreact.vla.processes import end_with_parent

Arrays = dict[str, Any]
"""What `board_space` names, as arrays whose first axis is the environment."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Which environments a process runs, and how they are made."""

    first: int
    count: int
    num_envs: int
    autoreset: str
    desk: Mapping[str, Any]
    """Arguments of `DeskEnv`."""


@dataclass(frozen=True)
class Refused:
    """The caller's mistake: the message is for people, and the environments go on."""

    message: str
    exit_code: int


@dataclass(frozen=True)
class Failed:
    """A mistake of ours, with its traceback."""

    trace: str


def board_space(observation: gym.Space[Any], action: gym.Space[Any]) -> gym.spaces.Dict:
    """What one environment and its caller exchange in shared memory."""
    return gym.spaces.Dict(
        {
            "observation": observation,
            "action": action,
            "reward": gym.spaces.Box(-np.inf, np.inf, (), np.float64),
            "terminated": gym.spaces.Box(0, 1, (), np.uint8),
            "truncated": gym.spaces.Box(0, 1, (), np.uint8),
        }
    )


def open_board(space: gym.spaces.Dict, shared: Any, num_envs: int) -> Arrays:
    """The shared memory as arrays that everybody sees at once."""
    return dict(read_from_shared_memory(space, shared, num_envs))


def serve(pipe: Connection, shared: Any, space: gym.spaces.Dict, shard: Shard) -> None:
    """Make the environments, then answer (command, argument) with a reply each until told to close."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    end_with_parent()
    envs = None
    try:
        envs = _make(shard)
        mine = slice(shard.first, shard.first + shard.count)
        board = open_board(space, shared, shard.num_envs)
        pipe.send(None)
        while (request := pipe.recv()) is not None:
            try:
                reply = _answer(envs, board, mine, *request)
            except ForeActError as error:
                reply = Refused(str(error), error.exit_code)
            pipe.send(reply)
    except (EOFError, BrokenPipeError):
        pass  # the parent is gone
    except ForeActError as error:
        pipe.send(Refused(str(error), error.exit_code))
    except Exception as error:
        pipe.send(Failed("".join(traceback.format_exception(error))))
    finally:
        if envs is not None:
            envs.close()


def _make(shard: Shard) -> gym.vector.SyncVectorEnv:
    from foreact.sim.env import DeskEnv

    make = partial(DeskEnv, **shard.desk)
    return gym.vector.SyncVectorEnv([make] * shard.count, copy=False, autoreset_mode=shard.autoreset)


def _answer(envs: gym.vector.SyncVectorEnv, board: Arrays, mine: slice, command: str, argument: Any) -> Any:
    """Do what was asked; `info` and other small things are the reply, the rest is on the board."""
    if command == "step":
        obs, reward, terminated, truncated, info = envs.step(board["action"][mine])
        board["reward"][mine], board["terminated"][mine], board["truncated"][mine] = reward, terminated, truncated
    elif command == "reset":
        seeds, options = argument
        obs, info = envs.reset(seed=seeds, options=options)
    elif command == "render":
        return envs.render()
    else:
        name, args, kwargs = argument
        return envs.call(name, *args, **kwargs)
    for key, batch in obs.items():
        board["observation"][key][mine] = batch
    return info
