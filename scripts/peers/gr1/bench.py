"""The authors' side of `foreact bench inference`: a control step of bytedance/GR-1, by its own `step`.

Run by that command with `--official DIR --official-python PYTHON`, an environment that can import it:

    git clone https://github.com/bytedance/GR-1
    python -m venv .venv-gr1
    .venv-gr1/bin/pip install torch torchvision transformers safetensors pillow numpy flamingo_pytorch==0.1.2 timm
    .venv-gr1/bin/pip install --no-deps clip-anytorch && .venv-gr1/bin/pip install ftfy regex

None of their code is here: models and `step` are imported from that folder. What its age asks for is filled in by
scripts/golden_gr1.py; CALVIN's base class, of which nothing is used, by an empty one. Pictures are resized as
torchvision 0.13 did, without antialiasing. Weights are random. It answers JSON lines, see `bench_data_loop.py`.
"""

# The authors' code is in an environment of its own.
# pyright: reportMissingImports=false

from __future__ import annotations

import importlib.util
import platform
import sys
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).parents[3]


def _load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_robot: dict[str, Any] = {}


def setup(request: dict[str, Any]) -> dict[str, Any]:
    """Build their evaluator around a full-size network as its constructor does, weights apart; only actions."""
    import clip
    from torchvision import transforms as T

    torch.set_num_threads(request["threads"])
    golden = _load(ROOT / "scripts/golden_gr1.py")
    assert clip.__file__ is not None
    model = golden.build_theirs(golden.FULL, Path(request["official"]), Path(clip.__file__).parents[1])
    model.fwd_pred = model.fwd_pred_hand = False  # as in their evaluation
    base = types.ModuleType("calvin_agent.models.calvin_base_model")
    vars(base).update(CalvinBaseModel=object)
    sys.modules.update({"calvin_agent": types.ModuleType("calvin_agent"), base.__name__: base})
    sys.modules["calvin_agent.models"] = types.ModuleType("calvin_agent.models")
    from evaluation.calvin_evaluation import GR1CalvinEvaluation

    device = torch.device(request["device"])
    if device.type == "cuda":
        clip.model.convert_weights(model.model_clip)  # clip.load does so
    robot = object.__new__(GR1CalvinEvaluation)
    resize = T.Resize((224, 224), interpolation=T.InterpolationMode.BICUBIC, antialias=False)
    vars(robot).update(
        policy=model.to(device).eval(), tokenizer=clip.tokenize, device=device, seq_len=10, act_dim=7, state_dim=7,
        preprocess=T.Compose([resize, T.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]),
    )  # fmt: skip
    robot.reset()
    _robot["robot"], _robot["rng"] = robot, np.random.default_rng(0)
    return {"torch": torch.__version__, "python": platform.python_version()}


def steps(request: dict[str, Any]) -> dict[str, Any]:
    """Wall and processor time [ms] of so many control steps, from two pictures to an action, all in host memory."""
    robot, rng = _robot["robot"], _robot["rng"]
    took = []
    for _ in range(request["count"]):
        images = {
            f"rgb_{name}": rng.integers(0, 256, (s, s, 3), dtype=np.uint8) for name, s in request["sizes"].items()
        }
        state = rng.normal(size=15)
        state[-1] = 1.0 if rng.random() < 0.5 else -1.0
        began, cpu = time.perf_counter(), time.process_time()
        action = robot.step({"rgb_obs": images, "robot_obs": state}, "push the red block to the left")
        took.append((1e3 * (time.perf_counter() - began), 1e3 * (time.process_time() - cpu)))
        assert action.shape == (7,) and action.device.type == "cpu"
    return {"took": took}


if __name__ == "__main__":
    _load(ROOT / "src/foreact/commands/bench_data_loop.py").serve({"setup": setup, "steps": steps})
