"""Collections in which a checkpoint drives: its own mistakes, with the experts' labels."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from foreact.commands.collect import main
from foreact.commands.collect_driver import PolicyDriver
from foreact.commands.collect_settings import CollectSettings
from foreact.commands.hydra_config import compose
from foreact.datasets.store import Store
from foreact.sim.env import DeskEnv
from foreact.sim.rollout import Job, Lockstep
from foreact.vla.errors import ConfigError, ForeActError

pytest.importorskip("torch", reason="needs torch: pip install '.[train]'")

CHECKPOINT = Path(__file__).parents[2] / "checkpoints" / "foreact_desk"
FEW = ["tasks=[move_slider_left]", "episodes_per_task=2", "play_frames=0", "workers=1", "driver_share=1.0"]


def _collect(out: Path, checkpoint: Path, *more: str) -> Store:
    main([f"out={out}", *FEW, f"driver={checkpoint}", "driver_steps=[12,30]", *more])
    return Store.open(out)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return _collect(tmp_path_factory.mktemp("driven") / "set", CHECKPOINT)


def test_the_policy_drives_and_the_expert_labels(store: Store) -> None:
    for name in store.index.names:
        episode = store.read(name)
        assert episode.action is not None
        driven = int(episode.meta["driven_steps"])
        assert 12 <= driven <= 30
        apart = np.abs(episode.extras["action_executed"] - episode.action)[:driven, :6].max()
        assert apart > 0.05  # no policy is its teacher


def test_the_recipe_names_the_checkpoint_by_its_content(store: Store, tmp_path: Path) -> None:
    recipe = json.loads((store.path / "recipe.json").read_bytes())
    assert len(recipe["versions"]["driver"]) == 64 and "driver" not in recipe["settings"]
    assert f"driver={CHECKPOINT}" in recipe["command"]
    moved = shutil.copytree(CHECKPOINT, tmp_path / "elsewhere")
    again = shutil.copytree(store.path, tmp_path / "set")
    assert _collect(again, moved).hash == store.hash  # the same policy, so the same collection, which is complete
    with pytest.raises(ConfigError, match=r"(?s)another recipe.*driver"):
        main([f"out={again}", *FEW, "driver_steps=[12,30]"])


def test_the_driver_acts_as_the_policy_does_in_an_evaluation() -> None:
    """Step by step the same actions as from the lockstep that evaluations use."""
    driver, done = PolicyDriver(str(CHECKPOINT)), []

    class Kept(DeskEnv):
        def step(self, action: np.ndarray):
            done.append(np.array(action))
            return super().step(action)

    words = "push the sliding door to the left side"
    env = Kept("D", render=False)
    lockstep = Lockstep(driver._actor, [env], driver._border, max_steps=25, foresight=False)
    list(lockstep.run([Job(index=0, seed=5, tasks=("move_slider_left",), instructions=(words,))]))
    drawn = DeskEnv("D")
    obs, _ = drawn.reset(seed=5, options={"task": "move_slider_left", "instruction": words})
    driver.begin(words)
    for expected in done:
        action = driver.act(obs)
        np.testing.assert_array_equal(action, expected)
        obs, *_ = drawn.step(action)
    assert len(done) > 10


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["kind=video"], "a video has no labels"),
        (["driver_steps=[20,180]"], "must end before max_steps=180"),
        (["driver_steps=[30,20]"], "driver_steps must be [smallest, largest]"),
    ],
)
def test_settings_that_do_not_fit(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        CollectSettings.parse(compose("collect", ["out=x", "driver=somewhere", *words]))
    assert said in str(caught.value)


def test_a_folder_that_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(ForeActError, match="nothing"):
        _collect(tmp_path / "set", tmp_path / "nothing")
