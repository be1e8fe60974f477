"""The simulated arm says which one it is."""

from __future__ import annotations

import pytest

from foreact.robot_bridge.limits import check_urdf, limits_names, load_limits
from foreact.robot_bridge.limits_urdf import read_urdf
from foreact.sim.robot_body import DeskBody


@pytest.fixture(scope="module")
def urdf() -> str:
    return DeskBody(render=False).urdf()


def test_it_is_a_panda_and_no_other(urdf: str) -> None:
    """The limits file was written from Franka's table, the model from CALVIN's URDF."""
    assert {name for name in limits_names() if not check_urdf(load_limits(name), urdf)} == {"panda"}
    fr3 = load_limits("fr3").changed(joints=load_limits("panda").joints)
    assert any("upper limit" in problem for problem in check_urdf(fr3, urdf))


def test_fingers_are_there(urdf: str) -> None:
    joints = read_urdf(urdf)
    assert len(joints) == 9
    fingers = [joint for joint in joints.values() if joint.kind == "prismatic"]
    assert [finger.high for finger in fingers] == [0.04, 0.04]
