"""A small foreact policy with made-up windows, shared by the policy's tests."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from foreact.policies.gr1.foreact import ForeAct
from foreact.policies.gr1.foreact_config import ForeActConfig
from foreact.vla.batch import WindowBatch
from foreact.vla.training.synthetic import SyntheticWindows, synthetic_contract

TINY: dict[str, Any] = dict(
    history=3, history_stride=2, foresight_steps=4, chunk=3, execute_steps=2, width=32, layers=3, heads=2,
    vision_width=32, vision_heads=2, text_width=16, text_layers=1, text_heads=2, visual_count=2, resampler_heads=2,
    resampler_head_width=8, image_queries=2, decoder_width=16, decoder_layers=1, decoder_heads=2,
)  # fmt: skip


def _make(**changes) -> ForeAct:
    torch.manual_seed(0)
    contract = synthetic_contract({"front": (16, 16), "hand": (16, 16)})
    statistics = {"state": {"mean": [0.5, 0.5, 0.0], "std": [0.3, 0.3, 1.0]}}
    return ForeAct(ForeActConfig(**{**TINY, **changes}), contract, statistics)


@pytest.fixture
def make_policy() -> Callable[..., ForeAct]:
    """Makes policies with random weights for the synthetic contract; keywords change their config."""
    return _make


@pytest.fixture
def policy() -> ForeAct:
    """In evaluation mode."""
    return _make().eval()


@pytest.fixture
def batch(policy: ForeAct) -> WindowBatch:
    """Eight windows, some with missing frames, future, or robot."""
    return SyntheticWindows(policy.config, policy.contract, batch_size=8, seed=3).batch_at(0)
