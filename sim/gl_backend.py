"""Choosing how MuJoCo draws without a screen: EGL or OSMesa, found out in a child process.

This module does not import mujoco, because mujoco reads MUJOCO_GL when it is imported.
"""

from __future__ import annotations

import os
import subprocess
import sys

from foreact.vla.errors import ForeActError, did_you_mean

BACKENDS = ("egl", "osmesa")
_KNOWN = ("egl", "osmesa", "glfw")
_WORKS = "FOREACT_GL_WORKS"
"""Tells this process and its children which backend was found to work, so that it is tried only once."""
_PROBE = """
import mujoco
context = mujoco.GLContext(16, 16)
context.make_current()
model = mujoco.MjModel.from_xml_string("<mujoco/>")
mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_50)
context.free()
print("works")
"""


class NoGlBackend(ForeActError):
    """No way to draw without a screen works here."""


def pick_gl_backend(timeout_s: float = 60.0) -> str:
    """The name of a drawing backend that works, also set as MUJOCO_GL for this process and its children.

    The one that MUJOCO_GL names is tried, or else egl and osmesa in this order; each once, and in a child process
    because a broken driver can crash.

    Raises:
        NoGlBackend: If MUJOCO_GL names no backend, or if none works; the message names packages to install.
    """
    chosen = os.environ.get("MUJOCO_GL", "").strip().lower()
    if chosen and chosen not in _KNOWN:
        raise NoGlBackend(f"MUJOCO_GL={chosen!r} is no drawing backend; {did_you_mean(chosen, _KNOWN)}")
    if chosen and os.environ.get(_WORKS) == chosen:
        return chosen
    failures = []
    for name in [chosen] if chosen else BACKENDS:
        reason = _try_backend(name, timeout_s)
        if reason is None:
            os.environ["MUJOCO_GL"] = os.environ[_WORKS] = name
            return name
        failures.append(f"{name}: {reason}")
    if chosen:
        raise NoGlBackend(
            f"MUJOCO_GL={chosen} does not work here ({'; '.join(failures)}). Unset it to let ForeAct choose, or "
            "install what it needs: libosmesa6 for osmesa, libegl1 with libgl1-mesa-dri for egl, a display for glfw."
        )
    raise NoGlBackend(
        "camera images need OpenGL without a screen, and neither EGL nor OSMesa works here "
        f"({'; '.join(failures)}). On Debian or Ubuntu install libosmesa6, or libegl1 with libgl1-mesa-dri; "
        "with a GPU the driver's own EGL is used. Set MUJOCO_GL to egl, osmesa or glfw to choose yourself."
    )


def _try_backend(name: str, timeout_s: float) -> str | None:
    """None if the backend draws, else the reason in a few words."""
    env = {**os.environ, "MUJOCO_GL": name}
    try:
        child = subprocess.run(
            [sys.executable, "-c", _PROBE],
            env=env,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {timeout_s:g} s"
    if child.returncode == 0 and "works" in child.stdout:
        return None
    last = child.stderr.strip().splitlines()
    return last[-1][:200] if last else f"exit status {child.returncode}"
