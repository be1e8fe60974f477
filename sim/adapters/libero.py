"""LIBERO (Lifelong-Robot-Learning/LIBERO, MIT; on PyPI as hf-libero) as a suite: a Panda, robosuite, 20 Hz.

The package is imported when the first environment is made; tasks, sentences and initial states are files of it.
"""

from __future__ import annotations

import atexit
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from foreact.sim.adapters.common import Sizes, checked_sizes, checked_task
from foreact.sim.suites import SuiteError
from foreact.vla.contract import Camera, Contract, Field
from foreact.vla.errors import ConfigError, did_you_mean
from foreact.vla.policy import Actor

if TYPE_CHECKING:
    from foreact.sim.adapters.libero_env import LiberoEnv

MAX_STEPS = {"libero_spatial": 280, "libero_object": 280, "libero_goal": 300, "libero_10": 520, "libero_90": 400}
"""Benchmark -> control steps per rollout, the usual limits (LeRobot, Apache-2.0)."""
CAMERAS = ("agentview", "robot0_eye_in_hand", "frontview", "birdview", "sideview", "galleryview")
DEFAULT_SIZES: dict[str, tuple[int, int]] = {"agentview": (256, 256), "robot0_eye_in_hand": (256, 256)}
RATE_HZ = 20.0
ASSETS = "lerobot/libero-assets"
"""Where hf-libero downloads its meshes from (Hugging Face Hub)."""


def libero_contract(sizes: Sizes | None = None) -> Contract:
    """The contract of every LIBERO task.

    The end effector's orientation is offered twice, since published policies read it in either form.

    Raises:
        ConfigError: If a camera or a size is not possible.
    """
    sizes = checked_sizes(DEFAULT_SIZES if sizes is None else sizes, CAMERAS, "LIBERO")
    delta = {"low": -1.0, "high": 1.0, "relative": True}
    return Contract(
        embodiment="panda_libero",
        rate_hz=RATE_HZ,
        cameras=tuple(Camera(name=name, height=h, width=w) for name, (h, w) in sizes.items()),
        state=(
            Field(name="eef_position", size=3, unit="m", frame="world"),
            Field(name="eef_quaternion", size=4, unit="1", frame="world", rotation="quat_xyzw"),
            Field(name="eef_rotvec", size=3, unit="rad", frame="world", rotation="rotvec"),
            Field(name="finger_position", size=2, unit="m"),
            Field(name="joint_position", size=7, unit="rad"),
        ),
        action=(
            Field(name="delta_position", size=3, unit="0.05 m", frame="world", **delta),
            Field(name="delta_rotvec", size=3, unit="0.5 rad", frame="world", rotation="rotvec", **delta),
            Field(name="gripper", size=1, unit="1", low=-1.0, high=1.0),
        ),
        gripper="-1 open, +1 close",
    )


def package_folder() -> Path:
    """The folder libero/libero of the installed package.

    Raises:
        SuiteError: If it has no task files.
    """
    spec = importlib.util.find_spec("libero")
    places = [Path(p) / "libero" for p in (spec.submodule_search_locations or [])] if spec else []
    for place in places:
        if (place / "bddl_files").is_dir() and (place / "init_files").is_dir():
            return place
    raise SuiteError(
        f"the package libero at {places[0] if places else '(nowhere)'} has no bddl_files and init_files; "
        "reinstall it: pip install --force-reinstall --no-deps hf-libero"
    )


@cache
def configure() -> None:
    """Let the package find its files without the question that it asks on the terminal at its first import.

    A configuration that is there (in LIBERO_CONFIG_PATH or ~/.libero) is used; otherwise one is written to a temporary
    folder for this process and its children.
    """
    folder = Path(os.environ.get("LIBERO_CONFIG_PATH", Path.home() / ".libero"))
    if (folder / "config.yaml").is_file():
        return
    root = package_folder()
    made = Path(tempfile.mkdtemp(prefix="foreact_libero_"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    places = {
        "benchmark_root": root,
        "bddl_files": root / "bddl_files",
        "init_states": root / "init_files",
        "datasets": root.parent / "datasets",
        "assets": root / "assets",
    }
    (made / "config.yaml").write_text(yaml.safe_dump({key: str(place) for key, place in places.items()}))
    os.environ["LIBERO_CONFIG_PATH"] = str(made)


def sentence(task: str) -> str:
    """The sentence of a task, which LIBERO has in the task's name: KITCHEN_SCENE3_turn_on_the_stove -> turn on ..."""
    words = task.split("_")
    if task[:1].isupper():
        scene = next((i for i, word in enumerate(words) if word.startswith("SCENE")), -1)
        words = words[scene + 1 :]
    return " ".join(words)


class LiberoSuite:
    """The tasks of one of LIBERO's five benchmarks, from the initial states that come with them."""

    OPTIONS = ("benchmark", "cameras", "mirror")
    name = "libero"

    def __init__(
        self,
        *,
        benchmark: str = "libero_spatial",
        cameras: Mapping[str, Any] | None = None,
        mirror: bool = False,
    ) -> None:
        """Look for the tasks.

        Args:
            benchmark: One of `MAX_STEPS`.
            cameras: Camera name -> [height, width] that environments offer; `DEFAULT_SIZES` by default.
            mirror: Mirror frames left to right, as in data whose upside-down frames were turned by half a circle.

        Raises:
            ConfigError: If the benchmark is unknown, or a camera or a size is not possible.
            SuiteError: If the package has no task files.
        """
        if benchmark not in MAX_STEPS:
            raise ConfigError(f"LIBERO has no benchmark {benchmark!r}; {did_you_mean(benchmark, MAX_STEPS)}")
        if not isinstance(mirror, bool):
            raise ConfigError(f"mirror: expected true or false, found {mirror!r}")
        self._benchmark = benchmark
        self._sizes = checked_sizes(DEFAULT_SIZES if cameras is None else cameras, CAMERAS, "LIBERO")
        self._mirror = mirror
        folder = package_folder() / "bddl_files" / benchmark
        self.tasks = tuple(sorted(path.stem for path in folder.glob("*.bddl")))
        self.max_steps = MAX_STEPS[benchmark]

    def contract(self, sizes: Sizes | None = None) -> Contract:
        """What environments offer, with these cameras or those of the options."""
        return libero_contract(self._sizes if sizes is None else sizes)

    def instruction(self, task: str, language: str, index: int) -> str:
        """LIBERO's sentence for a task; there is one, whatever `language` and `index` are."""
        return sentence(checked_task(task, self.tasks, f"LIBERO's {self._benchmark}"))

    def make_env(self, *, cameras: Sizes | None) -> LiberoEnv:
        """An environment for any task of the benchmark."""
        from foreact.sim.adapters.libero_env import LiberoEnv

        sizes = self._sizes if cameras is None else cameras
        return LiberoEnv(self._benchmark, tasks=self.tasks, sizes=sizes, render=False, mirror=self._mirror)

    def expert(self) -> Actor | None:
        """LIBERO has no scripted policy."""
        return None

    def versions(self) -> dict[str, str]:
        """Versions of what results depend on."""
        found = {name: version(name) for name in ("robosuite", "mujoco", "numpy")}
        try:
            return {"hf-libero": version("hf-libero"), **found}
        except PackageNotFoundError:
            return {"libero": version("libero"), **found}
