"""The original CALVIN simulator (mees/calvin_env on PyBullet, MIT) as a suite, with the contract of our own desk.

So a policy of the desk can be tried in the original, from the same starts and judged by the original's own rules.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from foreact.sim.adapters.common import Sizes, checked_sizes, checked_task
from foreact.sim.embodiment import CALVIN_SIZES, desk_contract, privileged_fields
from foreact.sim.expert_actor import ExpertActor
from foreact.sim.language import instruction_for
from foreact.sim.scenes import get_scene
from foreact.sim.suites import SuiteError
from foreact.sim.tasks import TASKS
from foreact.vla.contract import Contract
from foreact.vla.errors import ConfigError
from foreact.vla.policy import Actor

if TYPE_CHECKING:
    from foreact.sim.adapters.calvin_env import CalvinEnv

ROBOT_SIZE = 15
MAX_STEPS = 360
"""Control steps per task in CALVIN's evaluation."""


def calvin_contract(sizes: Sizes | None = None) -> Contract:
    """The desk's contract, with `scene_obs` as privileged state.

    Raises:
        ConfigError: If a camera or a size is not possible.
    """
    desk = desk_contract(checked_sizes(CALVIN_SIZES if sizes is None else sizes, CALVIN_SIZES, "CALVIN"))
    return desk.model_copy(update={"state": (*desk.state, *privileged_fields())})


def repository() -> Path:
    """The checkout of calvin_env that Python finds.

    Raises:
        SuiteError: If its `conf` or `data` folder is missing, which are no part of an ordinary installation.
    """
    spec = importlib.util.find_spec("calvin_env")
    roots = [Path(p).parent for p in (spec.submodule_search_locations or [])] if spec else []
    for root in roots:
        if (root / "conf" / "tasks").is_dir() and (root / "data").is_dir():
            return root
    raise SuiteError(
        f"calvin_env at {roots[0] if roots else '(nowhere)'} has no conf and data folders beside it; install it from "
        "its checkout with `pip install --no-deps -e calvin_env`, see docs/adapters.md"
    )


class CalvinSuite:
    """CALVIN's tasks in the original simulator, from the starts that our desk draws."""

    OPTIONS = ("scene", "egl", "cameras")
    name = "calvin"
    max_steps = MAX_STEPS

    def __init__(self, *, scene: str = "D", egl: bool = False, cameras: Mapping[str, Any] | None = None) -> None:
        """Find the checkout.

        Args:
            scene: One of A, B, C, D.
            egl: Draw with PyBullet's EGL plugin, which needs a GPU; otherwise with its software renderer.
            cameras: Camera name -> [height, width] that environments offer; CALVIN's by default.

        Raises:
            ConfigError: If the scene, a camera or a size is not possible.
            SuiteError: If the checkout is incomplete.
        """
        self._scene = get_scene(scene).name
        if not isinstance(egl, bool):
            raise ConfigError(f"egl: expected true or false, found {egl!r}")
        self._egl = egl
        self._sizes = checked_sizes(CALVIN_SIZES if cameras is None else cameras, CALVIN_SIZES, "CALVIN")
        self._root = repository()
        path = self._root / "conf" / "tasks" / "new_playtable_tasks.yaml"
        rules = yaml.safe_load(path.read_text())["tasks"]
        self.tasks = tuple(task for task in rules if task in TASKS)
        """Tasks of the original for which starts can be drawn here."""

    def renderer(self) -> str:
        """What draws: PyBullet, not the GL driver that the desk uses."""
        return "PyBullet, EGL plugin" if self._egl else "PyBullet, TinyRenderer"

    def contract(self, sizes: Sizes | None = None) -> Contract:
        """What environments offer, with these cameras or those of the options."""
        return calvin_contract(self._sizes if sizes is None else sizes)

    def instruction(self, task: str, language: str, index: int) -> str:
        """The desk's sentence for the task, see `foreact.sim.language`; "validation" is CALVIN's own.

        Raises:
            ConfigError: If the task or the language is unknown.
        """
        return instruction_for(checked_task(task, self.tasks, "CALVIN"), language, index)

    def make_env(self, *, cameras: Sizes | None) -> CalvinEnv:
        """An environment for any task of the suite."""
        from foreact.sim.adapters.calvin_env import CalvinEnv

        return CalvinEnv(
            self._root,
            self._scene,
            tasks=self.tasks,
            sizes=self._sizes if cameras is None else cameras,
            render=False,
            egl=self._egl,
        )

    def expert(self) -> Actor:
        """The desk's own experts: the original has none."""
        return ExpertActor(self._scene)

    def versions(self) -> dict[str, str]:
        """Versions of what results depend on; calvin_env itself by the commit of its checkout."""
        found = {name: version(name) for name in ("pybullet", "numpy")}
        return {"calvin_env": _commit(self._root), **found}


def _commit(root: Path) -> str:
    """The commit of a checkout, read from its `.git`; its own version number where there is none."""
    head = root / ".git" / "HEAD"
    text = head.read_text().strip() if head.is_file() else ""
    if text.startswith("ref: "):
        ref = root / ".git" / text[5:]
        text = ref.read_text().strip() if ref.is_file() else text[5:]
    return text or version("calvin_env")
