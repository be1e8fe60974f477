"""Simulators by name: what is said when one is unknown, missing, or does not run here."""

from __future__ import annotations

import importlib.util

import mujoco
import numpy as np
import pytest

from foreact.sim.adapters.common import checked_action, checked_reset_options, checked_sizes, observation_space
from foreact.sim.adapters.libero import libero_contract
from foreact.sim.adapters.metaworld import MetaworldSuite, metaworld_contract
from foreact.sim.desk_suite import DeskSuite
from foreact.sim.suites import SuiteError, get_suite, suite_names
from foreact.vla.errors import ConfigError


def test_the_desk_is_one_of_them() -> None:
    suite = get_suite("desk", {"scene": "A"})
    assert isinstance(suite, DeskSuite) and suite.scene == "A"
    assert suite_names() == ["calvin", "desk", "libero", "metaworld"]


def test_an_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="did you mean 'metaworld'"):
        get_suite("meta-world", {})


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("metaworld", r"pip install '\.\[metaworld\]' .*mujoco==3.3.0"),
        ("libero", r"pip install '\.\[libero\]' .*robosuite==1.4.0"),
        ("calvin", "github.com/mees/calvin_env"),
    ],
)
def test_a_missing_package_is_named_with_what_to_install(
    name: str, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(SuiteError, match=advice):
        get_suite(name, {})


def test_an_unknown_option_gets_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="no option 'scenes'.*did you mean 'scene'"):
        get_suite("desk", {"scenes": "A"})


@pytest.mark.skipif(mujoco.mjNEQDATA == 11, reason="this MuJoCo is one that Meta-World runs with")
def test_meta_world_names_the_mujoco_that_it_needs() -> None:
    with pytest.raises(SuiteError, match=f"does not run with mujoco {mujoco.__version__}; it needs 3.3.0"):
        MetaworldSuite()


@pytest.mark.parametrize("size", [240, [240], [240, 0], [240, 2.5], "240", [240, 240, 3]])
def test_a_size_that_is_none_is_refused(size: object) -> None:
    with pytest.raises(ConfigError, match=r"camera corner2: expected \[height, width\]"):
        checked_sizes({"corner2": size}, ("corner2",), "Meta-World")


def test_an_unknown_camera_gets_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="no camera 'corner_2'.*did you mean 'corner2'"):
        metaworld_contract({"corner_2": (64, 64)})


def test_actions_are_clipped_to_the_contract_and_checked() -> None:
    contract = metaworld_contract({})
    np.testing.assert_array_equal(checked_action(np.array([2, -2, 0.5, -9]), contract), [1, -1, 0.5, -1])
    for bad in (np.zeros(3), np.array([0, 0, np.nan, 0]), np.zeros((1, 4))):
        with pytest.raises(ConfigError, match="4 finite numbers"):
            checked_action(bad, contract)


def test_reset_options_are_checked() -> None:
    assert checked_reset_options({"task": "a"}) == {"task": "a"}
    with pytest.raises(ConfigError, match=r"unknown reset options \['scene_obs'\]"):
        checked_reset_options({"scene_obs": np.zeros(24)})


def test_scene_state_is_offered_only_where_there_is_some() -> None:
    space = observation_space(metaworld_contract({"topview": (12, 34)}), 4, rendered=True)
    assert {key: box.shape for key, box in space.items()} == {
        "topview": (12, 34, 3),
        "robot_obs": (4,),
        "scene_obs": (39,),
    }
    libero = libero_contract()
    assert set(observation_space(libero, libero.state_size, rendered=False)) == {"robot_obs"}
