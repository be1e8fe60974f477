"""Camera pictures from a MuJoCo state: one GL context for all cameras, opened at the first picture.

Colour, metric depth and the number of the geom in each pixel. Depth and numbers cost a drawing of their own,
only when asked for.
"""

from __future__ import annotations

import importlib
import weakref
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from foreact.sim.gl_backend import pick_gl_backend
from foreact.vla.errors import ForeActError, did_you_mean

Image = NDArray[np.uint8]
CAMERA_SIZES: Mapping[str, tuple[int, int]] = {"rgb_static": (200, 200), "rgb_gripper": (84, 84)}
"""Height and width of CALVIN's two colour cameras (mees/calvin_env, MIT)."""
CLIP_PLANES_M: Mapping[str, tuple[float, float]] = {"rgb_static": (0.01, 10.0), "rgb_gripper": (0.01, 2.0)}
"""Nearest and farthest depth per camera [m] (CALVIN, mees/calvin_env, MIT)."""
_FAR_M = 10.0
_MAX_GEOMS = 500
_texture_edition: weakref.WeakKeyDictionary[mujoco.MjModel, int] = weakref.WeakKeyDictionary()


class UnknownCamera(ForeActError):
    """A camera is not in the model, or no size was given for it."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(f"no camera {name!r}; {did_you_mean(name, known)}")


def textures_changed(model: mujoco.MjModel) -> None:
    """Tell the renderers of `model` that its texture pixels (`tex_data`) are different now."""
    _texture_edition[model] = _texture_edition.get(model, 0) + 1


class CameraRenderer:
    """Draws the cameras of one model as uint8 RGB.

    The context belongs to the thread that draws the first picture. Use it in a `with`, or call `close`.
    """

    def __init__(self, model: mujoco.MjModel, sizes: Mapping[str, tuple[int, int]] = CAMERA_SIZES) -> None:
        """`sizes` gives (height, width) per camera name.

        Raises:
            UnknownCamera: If a name is not a camera of `model`.
        """
        names = [model.camera(i).name for i in range(model.ncam)]
        for name in sizes:
            if name not in names:
                raise UnknownCamera(name, names)
        self._model = model
        self._sizes = {name: (int(height), int(width)) for name, (height, width) in sizes.items()}
        self._cameras: dict[str, mujoco.MjvCamera] = {}
        for name in sizes:
            camera = mujoco.MjvCamera()
            camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
            camera.fixedcamid = names.index(name)
            self._cameras[name] = camera
        self._buffers = {name: np.empty((h, w, 3), dtype=np.uint8) for name, (h, w) in self._sizes.items()}
        self._option = mujoco.MjvOption()
        self._edition = 0
        self._gl: Any = None
        self._context: mujoco.MjrContext | None = None
        self._scene: mujoco.MjvScene | None = None
        self._release: weakref.finalize | None = None

    def render(self, data: mujoco.MjData, camera: str) -> Image:
        """A new picture (height, width, 3) uint8 RGB, the top row first.

        Raises:
            UnknownCamera: If the renderer was not made for this camera.
            NoGlBackend: If nothing can draw on this machine (first call).
        """
        buffer = self._draw(data, camera, None)
        return buffer[::-1].copy()

    def render_all(self, data: mujoco.MjData) -> dict[str, Image]:
        """One picture per camera, see `render`."""
        return {name: self.render(data, name) for name in self._cameras}

    def depth(self, data: mujoco.MjData, camera: str) -> NDArray[np.float32]:
        """Distance along the optical axis (height, width) float32 [m], the top row first.

        What is nearer or farther than CLIP_PLANES_M (0.01 to 10 m for a camera not listed there) reads as that limit.

        Raises:
            UnknownCamera: If the renderer was not made for this camera.
            NoGlBackend: If nothing can draw on this machine (first call).
        """
        height, width = self._size(camera)
        # MuJoCo's buffer runs from 0 at the near plane of the model to 1 at its far plane, not linearly
        window = np.empty((height, width), dtype=np.float32)
        self._draw(data, camera, window)
        extent = self._model.stat.extent
        near, far = self._model.vis.map.znear * extent, self._model.vis.map.zfar * extent
        metres = near * far / (far - window[::-1].astype(np.float64) * (far - near))
        return np.clip(metres, *CLIP_PLANES_M.get(camera, (near, _FAR_M))).astype(np.float32)

    def geom_ids(self, data: mujoco.MjData, camera: str) -> NDArray[np.int32]:
        """Which geom is seen in each pixel, (height, width) int32; -1 where there is none.

        Raises:
            UnknownCamera: If the renderer was not made for this camera.
            NoGlBackend: If nothing can draw on this machine (first call).
        """
        self._size(camera)
        _, scene = self._open()
        flags = (mujoco.mjtRndFlag.mjRND_SEGMENT, mujoco.mjtRndFlag.mjRND_IDCOLOR)
        for flag in flags:
            scene.flags[flag] = 1
        try:
            colour = self._draw(data, camera, None)[::-1].astype(np.int32)
        finally:
            for flag in flags:
                scene.flags[flag] = 0
        segment = colour[..., 0] + (colour[..., 1] << 8) + (colour[..., 2] << 16)
        geom_of = np.full(scene.ngeom + 1, -1, dtype=np.int32)
        for geom in scene.geoms[: scene.ngeom]:
            if geom.objtype == mujoco.mjtObj.mjOBJ_GEOM and geom.segid >= 0:
                geom_of[geom.segid + 1] = geom.objid
        return geom_of[segment]

    def _size(self, camera: str) -> tuple[int, int]:
        if camera not in self._sizes:
            raise UnknownCamera(camera, list(self._sizes))
        return self._sizes[camera]

    def _draw(self, data: mujoco.MjData, camera: str, depth: NDArray[np.float32] | None) -> Image:
        """The camera's buffer, bottom row first, overwritten by the next picture; depth 0-1 into `depth`."""
        height, width = self._size(camera)
        context, scene = self._open()
        mujoco.mjv_updateScene(
            self._model, data, self._option, None, self._cameras[camera], mujoco.mjtCatBit.mjCAT_ALL, scene
        )
        view = mujoco.MjrRect(0, 0, width, height)
        buffer = self._buffers[camera]
        mujoco.mjr_render(view, scene, context)
        mujoco.mjr_readPixels(buffer, depth, view, context)
        return buffer

    def gl_renderer_name(self) -> str:
        """What draws, as the driver calls itself, for example "llvmpipe (LLVM 15.0.6, 256 bits)"."""
        self._open()
        gl = importlib.import_module("OpenGL.GL")
        name = gl.glGetString(gl.GL_RENDERER)
        return name.decode() if isinstance(name, bytes) else str(name)

    def close(self) -> None:
        """Give the context back; a later `render` opens a new one."""
        if self._release is not None:
            self._release()
        self._release = self._gl = self._context = self._scene = None

    def __enter__(self) -> CameraRenderer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> tuple[mujoco.MjrContext, mujoco.MjvScene]:
        if self._context is not None and self._scene is not None:
            self._gl.make_current()
            if self._edition != _texture_edition.get(self._model, 0):
                self._upload_textures(self._context)
            return self._context, self._scene
        height = max(h for h, _ in self._sizes.values())
        width = max(w for _, w in self._sizes.values())
        # the backend's own class, so that it does not matter when mujoco was imported
        backend = importlib.import_module(f"mujoco.{pick_gl_backend()}")
        self._gl = backend.GLContext(width, height)
        self._gl.make_current()
        self._model.vis.global_.offwidth = width
        self._model.vis.global_.offheight = height
        context = mujoco.MjrContext(self._model, mujoco.mjtFontScale.mjFONTSCALE_50)
        _sample_textures_cheaply(self._model, context)
        self._edition = _texture_edition.get(self._model, 0)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, context)
        scene = mujoco.MjvScene(self._model, maxgeom=_MAX_GEOMS)
        scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
        scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        scene.flags[mujoco.mjtRndFlag.mjRND_HAZE] = 0
        self._context, self._scene = context, scene
        # also runs when the renderer is forgotten or Python ends, while the GL library is still there
        self._release = weakref.finalize(self, _release, self._gl, context)
        return context, scene

    def _upload_textures(self, context: mujoco.MjrContext) -> None:
        for i in range(self._model.ntex):
            mujoco.mjr_uploadTexture(self._model, context, i)
        _sample_textures_cheaply(self._model, context)
        self._edition = _texture_edition.get(self._model, 0)


def _release(gl: Any, context: mujoco.MjrContext) -> None:
    gl.make_current()
    context.free()
    gl.free()


def _sample_textures_cheaply(model: mujoco.MjModel, context: mujoco.MjrContext) -> None:
    """Read one mipmap level instead of two: a third of the drawing time in software, half a grey level off."""
    gl = importlib.import_module("OpenGL.GL")
    for i in range(context.ntexture):
        if model.tex_type[i] == mujoco.mjtTexture.mjTEXTURE_2D:
            gl.glBindTexture(gl.GL_TEXTURE_2D, int(context.texture[i]))
            gl.glTexParameteri(gl.GL_TEXTURE_2D, gl.GL_TEXTURE_MIN_FILTER, gl.GL_LINEAR_MIPMAP_NEAREST)
    gl.glBindTexture(gl.GL_TEXTURE_2D, 0)
