"""The simulated arm as a URDF, for whoever asks a robot which one it is.

Only what identifies an arm: its joints, their ranges and speeds, and where each is mounted. Shapes and masses are in
the MuJoCo model and are not repeated.
"""

from __future__ import annotations

from xml.etree import ElementTree

import mujoco
import numpy as np

from foreact.sim.panda import ARM_JOINTS, FINGER_JOINTS, FINGER_OPEN_M, Q_LOWER, Q_UPPER, QD_MAX
from foreact.sim.rotations import matrix_to_euler_xyz, quat_wxyz_to_matrix


def panda_urdf(model: mujoco.MjModel) -> str:
    """URDF text of the arm in a compiled model; mountings are read from the model."""
    robot = ElementTree.Element("robot", name="panda")
    ElementTree.SubElement(robot, "link", name="panda_link0")
    for number, name in enumerate(ARM_JOINTS):
        _joint(robot, model, name, "revolute", Q_LOWER[number], Q_UPPER[number], QD_MAX[number])
    for name in FINGER_JOINTS:
        _joint(robot, model, name, "prismatic", 0.0, FINGER_OPEN_M, 0.2)
    ElementTree.indent(robot)
    return ElementTree.tostring(robot, encoding="unicode", xml_declaration=True)


def _joint(
    robot: ElementTree.Element, model: mujoco.MjModel, name: str, kind: str, low: float, high: float, speed: float
) -> None:
    number = model.joint(name).id
    body = int(model.jnt_bodyid[number])
    ElementTree.SubElement(robot, "link", name=model.body(body).name)
    joint = ElementTree.SubElement(robot, "joint", name=name, type=kind)
    # URDF's rpy turns about fixed axes: the same angles.
    rpy = matrix_to_euler_xyz(quat_wxyz_to_matrix(model.body_quat[body]))
    ElementTree.SubElement(joint, "origin", xyz=_numbers(model.body_pos[body]), rpy=_numbers(rpy))
    ElementTree.SubElement(joint, "parent", link=model.body(int(model.body_parentid[body])).name)
    ElementTree.SubElement(joint, "child", link=model.body(body).name)
    ElementTree.SubElement(joint, "axis", xyz=_numbers(model.jnt_axis[number]))
    limits = {"lower": f"{low:g}", "upper": f"{high:g}", "velocity": f"{speed:g}", "effort": "0"}
    ElementTree.SubElement(joint, "limit", limits)


def _numbers(values: np.ndarray) -> str:
    return " ".join(f"{value:.9g}" for value in values)
