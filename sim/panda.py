"""The simulated Franka Panda with long fingers, as used in CALVIN, built from primitives.

Kinematics, masses and joint limits are those of CALVIN's `panda_longer_finger.urdf` (mees/calvin_env, MIT;
Franka description, Apache-2.0). Centres of mass come from the same file; the inertias are the ones that
PyBullet derives from the collision shapes of the links, because it ignores the inertia in the URDF.
Shapes are capsules, boxes and cylinders fitted to the bounding boxes of the Franka meshes: cheap to draw and
to collide, and nothing to download.

Geom groups: 0 is drawn and collides, 2 is only drawn, 3 only collides (hidden by default).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import mujoco
import numpy as np

from foreact.sim.panda_shells import SEEN_CAPSULES, SEEN_PAD, add_shell, finger_points, hand_points, wrist_points
from foreact.sim.rotations import euler_xyz_to_quat_wxyz

N_ARM = 7
TIMESTEP_S = 1.0 / 240.0
BASE_POS_WORLD = (-0.34, -0.46, 0.24)
HOME_Q = np.array([-1.21779206, 1.03987646, 2.11978261, -2.34205014, -0.87015947, 1.64119353, 0.55344866])
"""Arm joints of the neutral pose [rad]."""
Q_LOWER = np.array([-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973])
Q_UPPER = np.array([2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973])
"""Limits of the commanded arm joints [rad]; the joints themselves have no stops."""
QD_MAX = np.array([2.175, 2.175, 2.175, 2.175, 2.61, 2.61, 2.61])
"""Franka's own limits of joint speed [rad/s] (frankaemika.github.io, "Limits for Panda"); the servo here has none."""
FINGER_OPEN_M = 0.04
ARM_JOINTS = tuple(f"panda_joint{i}" for i in range(1, N_ARM + 1))
FINGER_JOINTS = ("panda_finger_joint1", "panda_finger_joint2")
FINGER_BODIES = ("panda_leftfinger", "panda_rightfinger")
TCP_SITE = "tcp"
GRIPPER_CAMERA = "rgb_gripper"

# Armature [kg m2, kg]. The servo computes its torque from the joint-space inertia, so a joint with next to no
# inertia would push with next to no force; Bullet's motors are stiff on every joint. With these values the arm
# leans on a handle about as firmly as in the recordings, and the fingers squeeze a 0.04 m block with 200 N.
# In free space the servo cancels them.
ARMATURE_ARM = (1.0,) * N_ARM
ARMATURE_FINGER = 1.6

WHITE = (0.94, 0.94, 0.95, 1.0)
SHELL = (0.86, 0.87, 0.88, 1.0)
GREY = (0.55, 0.56, 0.57, 1.0)
HIDDEN = (0.3, 0.6, 0.3, 0.4)

# Contact filter: the scene has contype = conaffinity = 1; a robot geom meets the scene, never the robot.
ROBOT_CONTYPE, ROBOT_CONAFFINITY = 2, 1
# PyBullet multiplies the friction of a pair: finger 1.0 x block 0.7. MuJoCo takes the larger value unless one
# side has priority, so the fingers carry the product and win. Torsional: 0.1 x 0.7 + 0.001 x 1.0 [m].
FINGER_FRICTION = (0.70, 0.07, 0.0001)
FINGER_PRIORITY = 1
LINK_FRICTION = (0.35, 0.005, 0.0001)
CONTACT_SOLREF = (2 * TIMESTEP_S, 1.0)
CONTACT_SOLIMP = (0.95, 0.99, 0.001, 0.5, 2.0)


@dataclass(frozen=True)
class Link:
    """One arm link: how it hangs on its parent, and its mass properties.

    `pos`/`euler` place the joint frame in the parent link [m, rad]; the joint turns about the local z axis.
    `com` [m] and `inertia` [kg m2] are in the link frame, the inertia is diagonal about the centre of mass.
    """

    pos: tuple[float, float, float]
    euler: tuple[float, float, float]
    mass: float
    com: tuple[float, float, float]
    inertia: tuple[float, float, float]


QUARTER = math.pi / 2
LINKS = (
    Link((0, 0, 0.333), (0, 0, 0), 2.70, (0, -0.04, -0.05), (0.022971, 0.017769, 0.011484)),
    Link((0, 0, 0), (-QUARTER, 0, 0), 2.73, (0, -0.04, 0.06), (0.023491, 0.011613, 0.018228)),
    Link((0, -0.316, 0), (QUARTER, 0, 0), 2.04, (0.01, 0.01, -0.05), (0.010920, 0.012581, 0.011968)),
    Link((0.0825, 0, 0), (QUARTER, 0, 0), 2.08, (-0.03, 0.03, 0.02), (0.011335, 0.012249, 0.013057)),
    Link((-0.0825, 0.384, 0), (-QUARTER, 0, 0), 3.00, (0, 0.04, -0.12), (0.035676, 0.029848, 0.012802)),
    Link((0, 0, 0), (QUARTER, 0, 0), 1.30, (0.04, 0, 0), (0.003428, 0.005117, 0.005988)),
    Link((0.088, 0, 0), (QUARTER, 0, 0), 0.20, (0, 0, 0.08), (0.000362, 0.000362, 0.000592)),
)

# Capsules of links 1-7 in the link frame: (from, to, radius) [m].
CAPSULES = {
    1: (((0, 0, -0.14), (0, 0, -0.03), 0.055), ((0, -0.073, 0), (0, 0, 0), 0.055)),
    2: (((0, 0, 0), (0, 0, 0.073), 0.055), ((0, -0.14, 0), (0, -0.04, 0), 0.054)),
    3: (((0, 0, -0.066), (0, 0, -0.01), 0.054), ((0.0825, 0, 0), (0.0825, 0.056, 0), 0.054)),
    4: (((0, 0, 0), (0, 0, 0.056), 0.054), ((-0.0825, 0.02, 0), (-0.0825, 0.069, 0), 0.054)),
    5: (((0, 0, -0.21), (0, 0.072, -0.09), 0.054), ((0, 0.078, -0.10), (0, 0.075, 0), 0.045)),
    6: (((0, 0, 0), (0.05, 0, 0), 0.05), ((0.088, -0.005, 0), (0.088, 0.035, 0), 0.048)),
    7: (((0, 0, 0.03), (0, 0, 0.064), 0.042), ((0.01, 0.01, 0.08), (0.045, 0.045, 0.08), 0.027)),
}
# Caps on the joint housings, drawn only: link -> (from, to, radius, colour).
CAPS = {
    1: (((0, -0.131, 0), (0, -0.120, 0), 0.044, GREY),),
    2: (((0, 0, 0.118), (0, 0, 0.131), 0.044, GREY),),
    4: (((0, 0, 0.100), (0, 0, 0.113), 0.044, GREY),),
    5: (((0, 0.122, 0), (0, 0.127, 0), 0.034, GREY),),
    6: (
        ((0, 0, -0.0540), (0, 0, 0.0540), 0.046, GREY),
        ((0, 0, -0.0555), (0, 0, 0.0555), 0.031, WHITE),
        ((0, 0, -0.0565), (0, 0, 0.0565), 0.016, GREY),
    ),
}

# Collision boxes of a finger in its frame: name, centre, tilt about x [rad], half sizes [m]. The blade slants
# along the finger's outer edge. The pads reach 0.6 mm past the middle (they ignore each other):
# closed on a 0.04 m side the gripper then reads 0.0408 m; the original reads 0.0409 m, because of its contact
# margin.
FINGER_BOXES = (
    ("root", (0, 0.0135, 0.0175), 0.0, (0.0105, 0.0095, 0.0175)),
    ("blade", (0, 0.0121, 0.0647), 0.2411, (0.0105, 0.0035, 0.0314)),
    ("pad", (0, 0.0022, 0.083), 0.0, (0.00925, 0.0028, 0.0125)),
)


def physics_options(spec: mujoco.MjSpec) -> None:
    """Set time step, integrator and contact solver; the whole scene shares them.

    Elliptic cones with `impratio` 10 let a 1 kg block creep out of the closed fingers at 0.03 mm/s; with
    MuJoCo's default pyramidal cones and `impratio` 1 it is 0.5 mm/s. Call this before adding any geom.
    """
    opt = spec.option
    opt.timestep = TIMESTEP_S
    opt.gravity = np.array([0.0, 0.0, -9.8])
    opt.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    opt.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    opt.impratio = 10.0
    opt.solver = mujoco.mjtSolver.mjSOL_NEWTON
    opt.iterations = 30
    # With 20 line search steps a squeezed block is shot out of the fingers in one lift of thirty.
    opt.ls_iterations = 50
    opt.tolerance = 1e-8
    # Defaults of every geom added after this call. Stiff contacts (the shortest time constant that the time
    # step allows): a 0.04 m bar squeezed with 110 N then reads 0.041 m between the fingers, not 0.036 m.
    geom = spec.default.geom
    geom.solref = np.array(CONTACT_SOLREF)
    geom.solimp = np.array(CONTACT_SOLIMP)


def add_panda(spec: mujoco.MjSpec) -> None:
    """Add the robot, its stand, its TCP site and its wrist camera to the world of `spec`.

    Bodies are `panda_link0..7`, `panda_hand`, `panda_leftfinger`, `panda_rightfinger`; joints are
    `panda_joint1..7` and `panda_finger_joint1/2`. Torque comes from
    `foreact.sim.controller.CartesianController`, through `qfrc_applied`: there are no MuJoCo actuators.
    """
    world = spec.worldbody
    # The stand is drawn only, as in the original, and stands 5 cm behind the base.
    x, y, z = BASE_POS_WORLD
    _visual(world, mujoco.mjtGeom.mjGEOM_CYLINDER, WHITE, pos=(x - 0.05, y, z / 2), size=(0.13, z / 2, 0))
    link = world.add_body(name="panda_link0", pos=BASE_POS_WORLD)
    _solid(link, mujoco.mjtGeom.mjGEOM_BOX, WHITE, pos=(-0.05, 0, 0.045), size=(0.10, 0.085, 0.045))
    _solid(link, mujoco.mjtGeom.mjGEOM_CYLINDER, WHITE, pos=(0, 0, 0.07), size=(0.065, 0.07, 0))
    for number, row in enumerate(LINKS, start=1):
        link = link.add_body(
            name=f"panda_link{number}",
            pos=row.pos,
            quat=euler_xyz_to_quat_wxyz(row.euler),
            gravcomp=1.0,
            mass=row.mass,
            ipos=row.com,
            inertia=row.inertia,
            explicitinertial=True,
        )
        link.add_joint(
            name=ARM_JOINTS[number - 1],
            type=mujoco.mjtJoint.mjJNT_HINGE,
            axis=(0, 0, 1),
            limited=mujoco.mjtLimited.mjLIMITED_FALSE,
            armature=ARMATURE_ARM[number - 1],
        )
        for start, end, radius in CAPSULES[number]:
            hidden = {"group": 3} if number >= 6 else {}
            _solid(link, mujoco.mjtGeom.mjGEOM_CAPSULE, WHITE, fromto=(*start, *end), size=(radius, 0, 0), **hidden)
        for start, end, radius in SEEN_CAPSULES.get(number, ()):
            _visual(link, mujoco.mjtGeom.mjGEOM_CAPSULE, WHITE, fromto=(*start, *end), size=(radius, 0, 0))
        for start, end, radius, rgba in CAPS.get(number, ()):
            _visual(link, mujoco.mjtGeom.mjGEOM_CYLINDER, rgba, fromto=(*start, *end), size=(radius, 0, 0))
    add_shell(spec, link, "panda_wrist", wrist_points(), WHITE)
    _add_hand(spec, link)


def _add_hand(spec: mujoco.MjSpec, flange: mujoco.MjsBody) -> None:
    hand = flange.add_body(
        name="panda_hand",
        pos=(0, 0, 0.107),
        quat=euler_xyz_to_quat_wxyz((0, 0, -math.pi / 4)),
        gravcomp=1.0,
        # Hand (0.81 kg) and wrist camera (0.2 kg at x = -0.1) as one body.
        mass=1.01,
        ipos=(-0.0198, 0, 0.0321),
        inertia=(0.00398, 0.00284, 0.00502),
        explicitinertial=True,
    )
    _visual(hand, mujoco.mjtGeom.mjGEOM_CYLINDER, GREY, pos=(0, 0, -0.014), size=(0.0315, 0.016, 0))
    _solid(hand, mujoco.mjtGeom.mjGEOM_BOX, WHITE, pos=(0, 0, 0.0265), size=(0.0316, 0.102, 0.0265), group=3)
    add_shell(spec, hand, "panda_hand", hand_points(), WHITE)
    tilt = euler_xyz_to_quat_wxyz((1.3, 0, -QUARTER))
    _visual(hand, mujoco.mjtGeom.mjGEOM_BOX, WHITE, pos=(-0.1, 0, 0), quat=tilt, size=(0.04, 0.0125, 0.005))
    hand.add_site(name=TCP_SITE, pos=(0, 0, 0.14), size=(0.004, 0.004, 0.004), group=4)
    # Looks along (0.2675, 0, 0.9636), image-up (0.9636, 0, -0.2675): 15.5 deg towards the fingers.
    hand.add_camera(
        name=GRIPPER_CAMERA,
        pos=(-0.1, 0, 0),
        quat=(-0.0954, 0.7004, 0.7009, -0.0955),
        fovy=75.0,
        resolution=(84, 84),
    )
    for side, (joint, body) in enumerate(zip(FINGER_JOINTS, FINGER_BODIES, strict=True)):
        # The right finger is the left one turned by half a turn about the approach axis.
        finger = hand.add_body(
            name=body,
            pos=(0, 0, 0.0584),
            quat=(1, 0, 0, 0) if side == 0 else (0, 0, 0, 1),
            gravcomp=1.0,
            mass=0.1,
            ipos=(0, 0.01, 0.02),
            inertia=(8.1e-5, 8.0e-5, 0.8e-5),
            explicitinertial=True,
        )
        finger.add_joint(
            name=joint,
            type=mujoco.mjtJoint.mjJNT_SLIDE,
            axis=(0, 1, 0),
            range=(0.0, FINGER_OPEN_M),
            limited=mujoco.mjtLimited.mjLIMITED_TRUE,
            solref_limit=(2 * TIMESTEP_S, 1.0),
            armature=ARMATURE_FINGER,
        )
        add_shell(spec, finger, "panda_finger", finger_points(), SHELL)
        for part, pos, tilt, size in FINGER_BOXES:
            _solid(
                finger,
                mujoco.mjtGeom.mjGEOM_BOX,
                HIDDEN,
                name=f"{body}_{part}",
                pos=pos,
                quat=euler_xyz_to_quat_wxyz((tilt, 0, 0)),
                size=size,
                group=3,
                friction=FINGER_FRICTION,
                priority=FINGER_PRIORITY,
                condim=4,
            )
        _visual(finger, mujoco.mjtGeom.mjGEOM_BOX, SHELL, pos=SEEN_PAD[0], size=SEEN_PAD[1])
    # A gear of ratio -1 keeps the original's fingers centred (erp 0.1, at most 50 N); here it is a soft
    # equality.
    spec.add_equality(
        type=mujoco.mjtEq.mjEQ_JOINT,
        name="panda_fingers_mirror",
        name1=FINGER_JOINTS[0],
        name2=FINGER_JOINTS[1],
        objtype=mujoco.mjtObj.mjOBJ_JOINT,
        data=[0, 1, *[0] * (mujoco.mjNEQDATA - 2)],  # their number depends on the version of MuJoCo
        solref=(0.02, 1.0),
    )


def _visual(body: mujoco.MjsBody, kind: mujoco.mjtGeom, rgba: tuple[float, ...], **kwargs: object) -> None:
    body.add_geom(type=kind, rgba=rgba, contype=0, conaffinity=0, group=2, **kwargs)


def _solid(body: mujoco.MjsBody, kind: mujoco.mjtGeom, rgba: tuple[float, ...], **kwargs: object) -> None:
    settings: dict[str, object] = {"friction": LINK_FRICTION, "group": 0} | kwargs
    body.add_geom(type=kind, rgba=rgba, contype=ROBOT_CONTYPE, conaffinity=ROBOT_CONAFFINITY, **settings)
