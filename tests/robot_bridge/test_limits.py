"""Limits files against the vendors' tables, written here once more by hand, and robots that are not what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from foreact.robot_bridge.limits import (
    LimitsError,
    RobotLimits,
    WrongRobot,
    check_joint_names,
    check_urdf,
    limits_names,
    load_limits,
    require_urdf,
)

TURN = 2 * np.pi
# Franka documentation, "Robot and interface specifications"; UniversalRobots' joint_limits.yaml for the UR5e.
VENDOR: dict[str, dict[str, Any]] = {
    "panda": {
        "position_low": [-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973],
        "position_high": [2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973],
        "velocity": [2.1750, 2.1750, 2.1750, 2.1750, 2.6100, 2.6100, 2.6100],
        "acceleration": [15, 7.5, 10, 12.5, 15, 20, 20],
        "jerk": [7500, 3750, 5000, 6250, 7500, 10000, 10000],
    },
    "fr3": {
        "position_low": [-2.3476, -1.5454, -2.4937, -2.7714, -2.51, 0.7773, -2.7045],
        "position_high": [2.3476, 1.5454, 2.4937, -0.4226, 2.51, 4.2841, 2.7045],
        "velocity": [2, 1, 1.5, 1.25, 3, 1.5, 3],
        "acceleration": [10] * 7,
        "jerk": [5000] * 7,
    },
    "ur5e": {
        "position_low": [-TURN, -TURN, -np.pi, -TURN, -TURN, -TURN],
        "position_high": [TURN, TURN, np.pi, TURN, TURN, TURN],
        "velocity": [np.pi] * 6,
    },
}
FR3_DESCRIPTION = (
    [-2.7437, -1.7837, -2.9007, -3.0421, -2.8065, 0.5445, -3.0159],
    [2.7437, 1.7837, 2.9007, -0.1518, 2.8065, 4.5169, 3.0159],
)
FR3_V = [2.62, 2.62, 2.62, 2.62, 5.26, 4.18, 5.26]


def urdf(limits: RobotLimits, low: Any, high: Any, velocity: Any, prefix: str = "") -> str:
    """A URDF as the vendor would ship it: the arm's chain, a gripper, and things that are no joints."""
    lines = ['<?xml version="1.0"?>', '<robot name="r"><!-- a comment --><link name="base"/>']
    turning = [link for link in limits.chain if link.axis is not None]
    for name, link, lo, hi, v in zip(limits.joints, turning, low, high, velocity, strict=True):
        xyz, rpy, axis = (" ".join(map(repr, x)) for x in (link.xyz, link.rpy, link.axis or ()))
        lines.append(
            f'<joint name="{prefix}{name}" type="revolute"><origin rpy="{rpy}" xyz="{xyz}"/><axis xyz="{axis}"/>'
            f'<limit effort="87" lower="{lo}" upper="{hi}" velocity="{v}"/>'
            f'<safety_controller soft_lower_limit="-9" soft_upper_limit="9"/></joint>'
        )
    lines.append('<joint name="finger" type="prismatic"><limit lower="0" upper="0.04" velocity="0.2"/></joint></robot>')
    return "\n".join(lines)


def vendor_urdf(name: str, like: RobotLimits | None = None) -> str:
    """The real URDF of a robot; with `like`, its joints bear that robot's names."""
    limits, table = load_limits(name), VENDOR[name]
    low, high = FR3_DESCRIPTION if name == "fr3" else (table["position_low"], table["position_high"])
    velocity = FR3_V if name == "fr3" else table["velocity"]
    names = limits if like is None else limits.changed(joints=like.joints)
    return urdf(names, low, high, velocity)


def test_three_robots_come_with_the_package() -> None:
    assert limits_names() == ["fr3", "panda", "ur5e"]


@pytest.mark.fault("B5", n=3, event="limits file differs from the vendor's table")
@pytest.mark.parametrize("name", ["panda", "fr3", "ur5e"])
def test_limits_are_the_vendors(name: str) -> None:
    limits = load_limits(name)
    assert limits.robot == name
    for key, expected in VENDOR[name].items():
        np.testing.assert_allclose(getattr(limits, key), expected, atol=1e-4, err_msg=key)
    assert limits.tcp_speed_m_s == 0.25 and limits.tcp_turn_rad_s == 1.0 and limits.stop_s == 0.2
    # what a URDF may say is never narrower than what we use
    for ranges in limits.urdf:
        assert (np.array(ranges.position_low) <= np.array(limits.position_low) + 1e-9).all()
        assert (np.array(ranges.position_high) >= np.array(limits.position_high) - 1e-9).all()
        assert ranges.velocity is None or (np.array(ranges.velocity) >= np.array(limits.velocity) - 1e-9).all()


def test_ur5e_does_not_accelerate_harder_than_its_moveit_configuration() -> None:
    limits = load_limits("ur5e")
    assert max(limits.acceleration) <= 5.0 and max(limits.jerk) <= 500.0


@pytest.mark.parametrize("name", ["panda", "fr3", "ur5e"])
def test_its_own_urdf_is_accepted(name: str) -> None:
    limits = load_limits(name)
    assert check_urdf(limits, vendor_urdf(name)) == []
    require_urdf(limits, vendor_urdf(name))


def test_fr3_with_the_ranges_of_the_newer_documentation_is_an_fr3() -> None:
    low = [-2.9007, -1.8361, -2.9007, -3.0770, -2.8763, 0.4398, -3.0508]
    high = [2.9007, 1.8361, 2.9007, -0.1169, 2.8763, 4.6216, 3.0508]
    limits = load_limits("fr3")
    assert check_urdf(limits, urdf(limits, low, high, FR3_V)) == []


@pytest.mark.fault("B5", n=2, event="Panda file on an FR3, and the other way round")
@pytest.mark.parametrize(("ours", "theirs"), [("panda", "fr3"), ("fr3", "panda")])
def test_swapped_franka_robots_are_refused(ours: str, theirs: str) -> None:
    limits = load_limits(ours)
    problems = check_urdf(limits, vendor_urdf(theirs))
    assert len(problems) == 7 and "missing" in problems[0]  # the names already tell
    problems = check_urdf(limits, vendor_urdf(theirs, like=limits))
    joint6 = [problem for problem in problems if problem.startswith(limits.joints[5]) and "lower limit" in problem]
    assert joint6, problems
    with pytest.raises(WrongRobot, match=f"not the {ours}"):
        require_urdf(limits, vendor_urdf(theirs, like=limits))


NUMBERS = [(which, joint) for which in ("low", "high", "velocity", "mount") for joint in range(7)]
NUMBERS.remove(("mount", 0))  # where the base stands is the installation's affair


@pytest.mark.fault("B5", n=27, event="one number of the URDF is off")
@pytest.mark.parametrize(("which", "joint"), NUMBERS)
def test_every_number_of_the_urdf_is_compared(which: str, joint: int) -> None:
    limits, table = load_limits("panda"), VENDOR["panda"]
    low, high, velocity = (list(table[k]) for k in ("position_low", "position_high", "velocity"))
    changed = {"low": low, "high": high, "velocity": velocity}
    if which == "mount":
        chain = [link.model_dump() for link in limits.chain]
        chain[joint]["xyz"] = tuple(x + 0.006 for x in chain[joint]["xyz"])
        text = urdf(limits.changed(chain=chain), low, high, velocity)
    else:
        changed[which][joint] += 0.002
        text = urdf(limits, low, high, velocity)
    problems = check_urdf(limits, text)
    assert len(problems) == 1 and problems[0].startswith(limits.joints[joint])


def test_differences_below_a_milliradian_pass() -> None:
    limits, table = load_limits("panda"), VENDOR["panda"]
    low, high = (np.array(table[k]) + 0.0009 for k in ("position_low", "position_high"))
    assert check_urdf(limits, urdf(limits, low, high, table["velocity"])) == []


def test_a_ur10e_is_no_ur5e_though_its_ranges_are_the_same() -> None:
    limits, table = load_limits("ur5e"), VENDOR["ur5e"]
    chain = [link.model_dump() for link in limits.chain]
    chain[2]["xyz"], chain[3]["xyz"] = (-0.6127, 0, 0), (-0.57155, 0, 0.17415)  # its upper arm and forearm
    text = urdf(limits.changed(chain=chain), table["position_low"], table["position_high"], table["velocity"])
    assert {problem.split(":")[0] for problem in check_urdf(limits, text)} == {"elbow_joint", "wrist_1_joint"}


BILLION = '<!DOCTYPE r [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><robot name="&b;"><joint name="x"/></robot>'


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not XML"),
        ("<robot>", "not XML"),
        ("<robot/>", "no joints"),
        (BILLION, "document type"),
        ('<!DOCTYPE r SYSTEM "file:///etc/passwd"><robot><joint name="a"/></robot>', "document type"),
        ("<robot><joint name='a'/><joint name='a'/></robot>", "two joints"),
        ("<robot>" + "<x>" * 100, "nested deeper"),
        ("<robot>" + "<joint/>" * 3 + "</robot>", "two joints"),
        ("<robot>" + "".join(f"<joint name='{i}'/>" for i in range(600)) + "</robot>", "more than 512"),
        ("<robot><joint name='a'><limit lower='nan' upper='1'/></joint></robot>", "where a number"),
        ("<robot><joint name='a'><origin xyz='1 2'/></joint></robot>", "three numbers"),
        ("<robot><joint name='a'/></robot>" + " " * (5 << 20), "at most"),
        ("\x00<robot/>", "not XML"),
    ],
)
def test_hostile_urdf_is_refused_in_words(text: str, why: str) -> None:
    problems = check_urdf(load_limits("panda"), text)
    assert len(problems) == 1 and why in problems[0], problems


def test_joint_names() -> None:
    limits = load_limits("panda")
    shuffled = [*reversed(limits.joints), "panda_finger_joint1"]
    assert check_joint_names(limits, shuffled) == []
    assert "panda_joint7" in check_joint_names(limits, limits.joints[:6])[0]
    assert "2 times" in check_joint_names(limits, [*limits.joints, "panda_joint1"])[0]
    assert len(check_joint_names(limits, load_limits("fr3").joints)) == 7


def broken(**changes: Any) -> dict[str, Any]:
    """A Panda file with other entries."""
    return {**yaml.safe_load(yaml.safe_dump(load_limits("panda").model_dump(mode="json"))), **changes}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"velocity": [1.0] * 6}, "velocity must have 7"),
        ({"velocity": [float("nan")] * 7}, "velocity.0"),
        ({"velocity": [0.0] * 7}, "positive"),
        ({"position_low": [3.0] * 7}, "empty"),
        ({"position_high": [100.0] * 7}, "beyond two turns"),
        ({"joints": ["a"] * 7}, "named once"),
        ({"chain": []}, "one per joint"),
        ({"workspace_low_base": [1, 1, 1], "workspace_high_base": [0, 2, 2]}, "below"),
        ({"acceleration": "fast"}, "acceleration"),
        ({"no_such_field": 1}, "no_such_field"),
        ({"tcp_speed_m_s": -1.0}, "tcp_speed_m_s"),
    ],
)
def test_a_bad_file_names_the_entry(tmp_path: Path, changes: dict[str, Any], why: str) -> None:
    path = tmp_path / "arm.yaml"
    path.write_text(yaml.safe_dump(broken(**changes)))
    with pytest.raises(LimitsError, match=why):
        load_limits(path)


def test_files_that_are_no_limits(tmp_path: Path) -> None:
    with pytest.raises(LimitsError, match="did you mean 'panda'"):
        load_limits("pandas")
    with pytest.raises(LimitsError, match="no limits file"):
        load_limits(tmp_path / "none.yaml")
    path = tmp_path / "x.yaml"
    for content, why in ((b"a: [", "not YAML"), (b"- 1", "mapping"), (b"\xff\xfe", "UTF-8"), (b" " * 70_000, "bytes")):
        path.write_bytes(content)
        with pytest.raises(LimitsError, match=why):
            load_limits(path)
    path.write_text("!!python/object/apply:os.system ['true']")
    with pytest.raises(LimitsError, match="not YAML"):
        load_limits(path)


def test_an_installation_changes_tool_and_box_and_is_checked() -> None:
    limits = load_limits("panda")
    changed = limits.changed(workspace_low_base=(0.1, -0.4, 0.0), flange_to_tcp={"xyz": (0, 0, 0.1034)})
    assert changed.workspace_low_base == (0.1, -0.4, 0.0) and changed.flange_to_tcp.xyz[2] == 0.1034
    assert limits.flange_to_tcp.xyz[2] == 0.14
    with pytest.raises(LimitsError, match="below"):
        limits.changed(workspace_low_base=(2.0, 2.0, 2.0))
