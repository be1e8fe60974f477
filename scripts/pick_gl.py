"""Print how MuJoCo can draw here without a screen, or explain why it cannot (exit status 1)."""

from __future__ import annotations

import sys

from foreact.sim.gl_backend import NoGlBackend, pick_gl_backend

if __name__ == "__main__":
    try:
        print(f"rendering: MUJOCO_GL={pick_gl_backend()}")
    except NoGlBackend as error:
        sys.exit(str(error))
