"""Camera pictures from a MuJoCo state: one GL context for all cameras, opened at the first picture."""

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
_MAX_GEOMS = 500


class UnknownCamera(ForeActError):
    """A camera is not in the model, or no size was given for it."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(f"no camera {name!r}; {did_you_mean(name, known)}")


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
        if camera not in self._cameras:
            raise UnknownCamera(camera, list(self._cameras))
        context, scene = self._open()
        mujoco.mjv_updateScene(
            self._model, data, self._option, None, self._cameras[camera], mujoco.mjtCatBit.mjCAT_ALL, scene
        )
        height, width = self._sizes[camera]
        view = mujoco.MjrRect(0, 0, width, height)
        buffer = self._buffers[camera]
        mujoco.mjr_render(view, scene, context)
        mujoco.mjr_readPixels(buffer, None, view, context)
        return buffer[::-1].copy()

    def render_all(self, data: mujoco.MjData) -> dict[str, Image]:
        """One picture per camera, see `render`."""
        return {name: self.render(data, name) for name in self._cameras}

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
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, context)
        scene = mujoco.MjvScene(self._model, maxgeom=_MAX_GEOMS)
        scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
        scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        scene.flags[mujoco.mjtRndFlag.mjRND_HAZE] = 0
        self._context, self._scene = context, scene
        # also runs when the renderer is forgotten or Python ends, while the GL library is still there
        self._release = weakref.finalize(self, _release, self._gl, context)
        return context, scene


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
