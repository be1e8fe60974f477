"""The token mask of GR-1 and what follows from it (reference: bytedance/GR-1, Apache-2.0)."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from einops import rearrange

from foreact.policies.gr1.model import GR1
from foreact.vla.batch import WindowBatch
from foreact.vla.errors import ConfigError


def _encoded(policy: GR1, batch: WindowBatch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    B, T = batch.history_mask.shape
    flat = {n: rearrange(torch.from_numpy(v), "b t h w c -> (b t) h w c") for n, v in batch.images.items()}
    state, known = torch.from_numpy(batch.state), torch.from_numpy(batch.state_mask)
    frames = policy.encode_frames(flat, state.reshape(B * T, -1), known.reshape(B * T))
    return (
        rearrange(frames, "(b t) f d -> b t f d", t=T),
        policy.encode_text(batch.instruction),
        torch.from_numpy(batch.history_mask),
    )


@torch.no_grad()
def test_the_trunk_equals_gr1s_square_mask_in_gr1s_order(policy: GR1, batch: WindowBatch) -> None:
    """Slow reference: all tokens of a step in the original order, one N x N mask that hides queries and padding."""
    frames, language, exists = _encoded(policy, batch)
    B, T, F, D = frames.shape
    K, Q = policy.config.chunk, policy.config.image_queries
    actions, pictures = policy.answer(
        frames, language, exists, last_only=False, image_step_BI=torch.arange(T).expand(B, T)
    )

    per_step = 1 + F + K + 2 * Q
    tokens = torch.zeros(B, T, per_step, D)
    tokens[:, :, 0] = language[:, None] + policy.embed_timestep_TD
    tokens[:, :, 1 : 1 + F] = frames + policy.embed_timestep_TD[:, None]
    tokens[:, :, 1 + F : 1 + F + K] = policy.action_query_D + policy.chunk_queries_KD
    tokens[:, :, 1 + F + K : 1 + F + K + Q] = policy.image_queries["front"]
    tokens[:, :, 1 + F + K + Q :] = policy.image_queries["hand"]
    x = policy.embed_norm(rearrange(tokens, "b t n d -> b (t n) d"))
    mask = torch.zeros(B, 1, T * per_step, T * per_step, dtype=torch.bool)
    for b in range(B):
        for row in range(T * per_step):
            for column in range(row + 1):
                step, place = divmod(column, per_step)
                mask[b, 0, row, column] = bool(exists[b, step]) and place < 1 + F
    for block in policy.blocks:
        x = block(x, mask)
    x = rearrange(policy.norm(x), "b (t n) d -> b t n d", t=T)
    expected = policy.action_head(x[:, :, 1 + F : 1 + F + K])
    torch.testing.assert_close(actions[exists], expected[exists], rtol=1e-4, atol=1e-5)
    for name, start in (("front", 1 + F + K), ("hand", 1 + F + K + Q)):
        torch.testing.assert_close(pictures[name][exists], x[:, :, start : start + Q][exists], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_no_token_looks_at_a_query(policy: GR1, batch: WindowBatch) -> None:
    frames, language, exists = _encoded(policy, batch)
    last = exists.sum(1, keepdim=True) - 1
    before = policy.answer(frames, language, exists, last_only=True, image_step_BI=last)
    policy.chunk_queries_KD[1] += torch.randn(32)
    policy.image_queries["hand"] += torch.randn(2, 32)
    after = policy.answer(frames, language, exists, last_only=True, image_step_BI=last)
    torch.testing.assert_close(after[0][:, :, [0, 2]], before[0][:, :, [0, 2]], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(after[1]["front"], before[1]["front"], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(after[0][:, :, 1], before[0][:, :, 1], atol=1e-3)
    assert not torch.allclose(after[1]["hand"], before[1]["hand"], atol=1e-3)


@torch.no_grad()
def test_padded_frames_are_invisible(policy: GR1, batch: WindowBatch) -> None:
    frames, language, exists = _encoded(policy, batch)
    assert not exists.all()
    before = policy.answer(frames, language, exists, last_only=True, image_step_BI=None)[0]
    poisoned = torch.where(exists[..., None, None], frames, torch.full_like(frames, 7.0))
    after = policy.answer(poisoned, language, exists, last_only=True, image_step_BI=None)[0]
    torch.testing.assert_close(after, before, rtol=0, atol=0)


@torch.no_grad()
def test_the_past_does_not_see_the_future_and_the_future_sees_the_past(policy: GR1, batch: WindowBatch) -> None:
    frames, language, _ = _encoded(policy, batch)
    all_exist = torch.ones(frames.shape[:2], dtype=torch.bool)
    before = policy.answer(frames, language, all_exist, last_only=False, image_step_BI=None)[0]
    frames[:, 1] += torch.randn(32)
    after = policy.answer(frames, language, all_exist, last_only=False, image_step_BI=None)[0]
    torch.testing.assert_close(after[:, 0], before[:, 0], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(after[:, 1], before[:, 1], atol=1e-3)
    assert not torch.allclose(after[:, 2], before[:, 2], atol=1e-3)


@torch.no_grad()
def test_within_a_step_earlier_tokens_do_not_see_later_ones(policy: GR1, batch: WindowBatch) -> None:
    frames, language, exists = _encoded(policy, batch)
    hidden: list[torch.Tensor] = []
    layer = policy.blocks[1]
    layer.register_forward_hook(lambda *call: hidden.append(call[2]))
    policy.answer(frames, language, exists, last_only=True, image_step_BI=None)
    frames[:, 0, -1] += torch.randn(32)  # the hand camera's summary, last context token of step 0
    policy.answer(frames, language, exists, last_only=True, image_step_BI=None)
    changed = (hidden[0] - hidden[1]).abs().amax(dim=(0, 2)) > 1e-6
    first_step = 1 + frames.shape[2]
    assert changed[:first_step].tolist() == [False] * (first_step - 1) + [True]
    assert changed[first_step : 2 * first_step].all()


def test_the_order_of_context_tokens_is_state_then_static_then_wrist(policy: GR1, batch: WindowBatch) -> None:
    frames, *_ = _encoded(policy, batch)
    L = policy.config.resampler_latents
    assert frames.shape[2] == 1 + 2 * (L + 1)
    moved = {**batch.images, "hand": 255 - batch.images["hand"]}
    batch.images = moved
    other, *_ = _encoded(policy, batch)
    same = (frames - other).abs().amax(dim=(0, 1, 3)) < 1e-6
    assert same.tolist() == [True] * (1 + L + 1) + [False] * (L + 1)


def test_plan_gives_commands_within_the_contract(policy: GR1, batch: WindowBatch) -> None:
    tensors = {n: torch.from_numpy(v) for n, v in batch.images.items()}
    with torch.no_grad():
        policy.action_head.weight.mul_(100.0)
    plan = policy.plan(
        tensors, torch.from_numpy(batch.state), torch.from_numpy(batch.state_mask),
        torch.from_numpy(batch.history_mask), batch.instruction, foresight=True,
    )  # fmt: skip
    assert plan.actions.shape == (8, 3, 3)
    assert np.abs(plan.actions[..., :2]).max() == 1.0
    assert set(np.unique(plan.actions[..., 2])) <= {-1.0, 1.0}
    assert plan.foresight_steps == 4
    assert plan.foresight is not None
    assert plan.foresight["hand"].shape == (8, 16, 16, 3)
    assert plan.foresight["hand"].dtype == np.uint8


def test_the_default_size_is_tiny() -> None:
    from foreact.policies.gr1.config import GR1Config
    from foreact.vla.training.synthetic import synthetic_contract

    contract = synthetic_contract({"a": (64, 64), "b": (64, 64)})
    policy = GR1(GR1Config(), contract, {"state": {"mean": [0.0] * 3, "std": [1.0] * 3}})
    assert sum(p.numel() for p in policy.parameters()) < 5_000_000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 33}, "policy.width \\(33\\) must be a multiple of policy.heads"),
        ({"execute_steps": 4}, "execute_steps must be 1 to policy.chunk=3"),
        ({"foresight_positions": "some"}, "must be 'one' or 'all'"),
        ({"history": 0}, "history must be at least 1"),
    ],
)
def test_impossible_sizes_are_refused(changes: dict, message: str, make_policy: Callable[..., GR1]) -> None:
    with pytest.raises(ConfigError, match=message):
        make_policy(**changes)


def test_config_refuses_unknown_names_and_wrong_types() -> None:
    from foreact.policies.gr1.config import GR1Config

    assert GR1Config.from_dict(GR1Config(width=64, heads=2).to_dict()) == GR1Config(width=64, heads=2)
    with pytest.raises(ConfigError, match="'widht' is unknown.*did you mean 'width'"):
        GR1Config.from_dict({"widht": 3})
    with pytest.raises(ConfigError, match="policy.width must be int, found 'wide'"):
        GR1Config.from_dict({"width": "wide"})
    with pytest.raises(ConfigError, match="policy.layers must be int, found True"):
        GR1Config.from_dict({"layers": True})
