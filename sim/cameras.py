"""Intrinsics and extrinsics of the simulated cameras, in the convention of OpenCV.

A camera frame has x to the right in the picture, y down and z forward; pixel (u, v) = (0, 0) is the outer corner
of the first pixel, so pixel centres are at .5. The camera of the hand moves with `panda_hand`; the static
camera stands in the world. Poses and view angles: CALVIN, mees/calvin_env (MIT).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NotRequired, TypedDict

import mujoco
import numpy as np
from numpy.typing import ArrayLike, NDArray

from foreact.sim.rendering import CAMERA_SIZES, CLIP_PLANES_M, UnknownCamera

Array = NDArray[np.float64]
# MuJoCo's cameras look along -z with y up; OpenCV's look along +z with y down.
_HAND = "panda_hand"
_FLIP = np.diag([1.0, -1.0, -1.0])


class CameraMetadata(TypedDict):
    """One camera at one moment."""

    K: Array
    """Intrinsics (3, 3) [px]."""
    T_world_camera: Array
    """Pose of the camera in the world (4, 4), now."""
    T_hand_camera: NotRequired[Array]
    """Pose of the camera in `panda_hand` (4, 4), if that carries it; it never changes."""
    width: int
    height: int
    fovy_deg: float
    """Vertical view angle [deg]."""
    near_m: float
    far_m: float


def project(camera: CameraMetadata, points_world: ArrayLike) -> tuple[Array, Array]:
    """Pixels (..., 2) as (u, v) and depths (...) [m] of world points (..., 3); a depth below 0 is behind."""
    T = camera["T_world_camera"]
    in_camera = (np.asarray(points_world, dtype=np.float64) - T[:3, 3]) @ T[:3, :3]
    depth = in_camera[..., 2]
    return (in_camera @ camera["K"].T)[..., :2] / depth[..., None], depth


def camera_metadata(
    model: mujoco.MjModel, data: mujoco.MjData, sizes: Mapping[str, tuple[int, int]] = CAMERA_SIZES
) -> dict[str, CameraMetadata]:
    """K, poses and clip planes per camera name; `sizes` gives (height, width) per name.

    Poses are those of the last `mj_forward`. Clip planes are CALVIN's, 0.01 to 10 m for other cameras.

    Raises:
        UnknownCamera: If a name is not a camera of `model`.
    """
    names = [model.camera(i).name for i in range(model.ncam)]
    found = {}
    for name, (height, width) in sizes.items():
        if name not in names:
            raise UnknownCamera(name, names)
        at = names.index(name)
        fovy = float(model.cam_fovy[at])
        focal = height / 2.0 / np.tan(np.radians(fovy) / 2.0)
        near, far = CLIP_PLANES_M.get(name, (0.01, 10.0))
        camera = CameraMetadata(
            K=np.array([[focal, 0.0, width / 2.0], [0.0, focal, height / 2.0], [0.0, 0.0, 1.0]]),
            T_world_camera=_pose(data.cam_xmat[at].reshape(3, 3), data.cam_xpos[at]),
            width=int(width),
            height=int(height),
            fovy_deg=fovy,
            near_m=near,
            far_m=far,
        )
        if model.body(model.cam_bodyid[at]).name == _HAND:
            local = np.empty(9)
            mujoco.mju_quat2Mat(local, model.cam_quat[at])
            camera["T_hand_camera"] = _pose(local.reshape(3, 3), model.cam_pos[at])
        found[name] = camera
    return found


def _pose(R: Array, origin: Array) -> Array:
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = R @ _FLIP, origin
    return T
