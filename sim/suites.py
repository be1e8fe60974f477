"""Simulators by name: each a suite of tasks whose environments carry a contract, for one and the same evaluation.

A suite's package is imported when the suite is asked for. See docs/adapters.md for what each one needs.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from foreact.vla.contract import Contract
from foreact.vla.errors import ConfigError, ForeActError, did_you_mean
from foreact.vla.policy import Actor

Obs = dict[str, np.ndarray]


class SuiteError(ForeActError):
    """A suite's package is missing or does not run here, or one of its files is."""


@runtime_checkable
class SuiteEnv(Protocol):
    """A `gymnasium.Env` that runs any task of its suite, one after another.

    Observations hold `robot_obs` (what a real robot would know) and, where there is any, `scene_obs` (what only a
    simulator knows). Pictures are drawn when `frames` is called, so that nobody pays for what nobody looks at.
    """

    contract: Contract
    """What it offers. The state vector is `robot_obs` followed by `scene_obs`; the names of the latter's fields begin
    with "scene_"."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Obs, dict[str, Any]]:
        """Start anew; everything random follows from the seed. Options: `task`, `instruction`."""
        ...

    def step(self, action: np.ndarray) -> tuple[Obs, float, bool, bool, dict[str, Any]]:
        """Act for one control step. `info`: task, instruction, is_success, success, tasks_happened."""
        ...

    def frames(self) -> dict[str, np.ndarray]:
        """Camera name -> (height, width, 3) uint8 RGB, row 0 on top, drawn now."""
        ...

    def close(self) -> None:
        """Free what it holds."""
        ...


@runtime_checkable
class Suite(Protocol):
    """A family of tasks in one simulator."""

    name: str
    tasks: tuple[str, ...]
    max_steps: int
    """Control steps after which a rollout ends, by default."""

    def contract(self, sizes: Mapping[str, tuple[int, int]] | None = None) -> Contract:
        """What its environments offer with these cameras (name -> (height, width)); None: those of the options."""
        ...

    def instruction(self, task: str, language: str, index: int) -> str:
        """The sentence that asks for a task; `index` chooses where there are several."""
        ...

    def make_env(self, *, cameras: Mapping[str, tuple[int, int]] | None) -> SuiteEnv:
        """An environment that draws these cameras; None: nobody is going to look."""
        ...

    def expert(self) -> Actor | None:
        """A scripted policy that sees the simulator's state; None where there is none."""
        ...

    def versions(self) -> dict[str, str]:
        """Package -> version, of those that results depend on."""
        ...


@dataclass(frozen=True)
class _Entry:
    module: str
    factory: str
    package: str
    """What must be importable."""
    install: str
    """How a person gets it, and why it does not come by itself."""


_SUITES = {
    "desk": _Entry("foreact.sim.desk_suite", "DeskSuite", "mujoco", "pip install '.[sim]' in ForeAct's folder"),
    "metaworld": _Entry(
        "foreact.sim.adapters.metaworld",
        "MetaworldSuite",
        "metaworld",
        "pip install '.[metaworld]' in a virtual environment of its own: Meta-World pins mujoco==3.3.0, which is "
        "older than what the desk needs",
    ),
    "libero": _Entry(
        "foreact.sim.adapters.libero",
        "LiberoSuite",
        "libero",
        "pip install '.[libero]' in a virtual environment of its own: LIBERO pins robosuite==1.4.0 and "
        "mujoco<3.9, and brings torch; its meshes are a further download, see docs/adapters.md",
    ),
    "calvin": _Entry(
        "foreact.sim.adapters.calvin",
        "CalvinSuite",
        "calvin_env",
        "clone https://github.com/mees/calvin_env and install it with its requirements, see docs/adapters.md: it is "
        "not on PyPI, so there is no extra",
    ),
}


def suite_names() -> list[str]:
    """All names that `get_suite` knows, installed or not."""
    return sorted(_SUITES)


def get_suite(name: str, options: Mapping[str, Any] | None = None) -> Suite:
    """The suite of that name.

    Args:
        name: "desk", "metaworld", "libero" or "calvin".
        options: Settings of that suite, see its class.

    Raises:
        ConfigError: If the name or an option is unknown or out of range.
        SuiteError: If its package is missing or does not run here; the message says what to install.
    """
    if name not in _SUITES:
        raise ConfigError(f"no simulator {name!r}; {did_you_mean(name, _SUITES)}")
    entry = _SUITES[name]
    if importlib.util.find_spec(entry.package) is None:
        raise SuiteError(
            f"the simulator {name!r} needs the package {entry.package!r}, which is missing: {entry.install}"
        )
    factory = getattr(importlib.import_module(entry.module), entry.factory)
    return factory(**checked_options(name, options or {}, factory.OPTIONS))


def checked_options(name: str, options: Mapping[str, Any], known: tuple[str, ...]) -> dict[str, Any]:
    """The options, if a suite knows them all.

    Raises:
        ConfigError: If it does not.
    """
    for key in options:
        if key not in known:
            raise ConfigError(f"the simulator {name!r} has no option {key!r}; {did_you_mean(str(key), known)}")
    return dict(options)
