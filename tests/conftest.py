"""What every test gets: a way to draw, one thread, and markers that say what they need."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from contextlib import suppress

import pytest

# Read by libraries when they are first imported; worker processes inherit them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("LP_NUM_THREADS", "0")  # Mesa's software renderer: draw in the calling thread


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options that let the tests in that a plain run leaves out."""
    parser.addoption("--slow", action="store_true", help="also run tests marked slow (as `make nightly` does)")
    parser.addoption("--network", action="store_true", help="also run tests that download from a model hub")


def pytest_configure(config: pytest.Config) -> None:
    """Pick a drawing backend once, for worker processes too."""
    from foreact.sim.gl_backend import NoGlBackend, pick_gl_backend

    with suppress(NoGlBackend):  # the tests that draw will fail with this reason, the others need none
        pick_gl_backend()


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages hold long temporary paths; no line of theirs is wrapped, whatever the terminal."""
    monkeypatch.setenv("COLUMNS", "300")


def _has_gpu() -> bool:
    if not importlib.util.find_spec("torch"):
        return False
    import torch

    return torch.cuda.is_available()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip, with the reason, what this run cannot or was not asked to do."""
    needs: dict[str, tuple[Callable[[], bool], str]] = {
        "slow": (lambda: bool(config.getoption("--slow")), "slow; `make nightly` or `pytest --slow` runs it"),
        "network": (lambda: bool(config.getoption("--network")), "needs a model hub; `pytest --network` runs it"),
        "gpu": (_has_gpu, "torch sees no CUDA device; runs by itself where it does"),
        "ros": (lambda: importlib.util.find_spec("rclpy") is not None, "no rclpy; runs in a sourced ROS 2 shell"),
    }
    for name, (available, reason) in needs.items():
        marked = [item for item in items if item.get_closest_marker(name)]
        if marked and not available():
            for item in marked:
                item.add_marker(pytest.mark.skip(reason=reason))
