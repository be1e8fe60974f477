"""What draws and steps on this machine, for results and reports."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

import mujoco

from foreact.sim.rendering import CameraRenderer

_ONE_CAMERA = """<mujoco><worldbody><camera name="eye"/></worldbody></mujoco>"""


@cache
def gl_renderer() -> str:
    """What draws, as the driver calls itself, such as "llvmpipe (LLVM 15.0.6, 256 bits)".

    Raises:
        NoGlBackend: If nothing can draw here.
    """
    with CameraRenderer(mujoco.MjModel.from_xml_string(_ONE_CAMERA), {"eye": (16, 16)}) as renderer:
        return renderer.gl_renderer_name()


@cache
def cpu_name() -> str:
    """The processor as Linux calls it, such as "AMD EPYC"; else its architecture."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
