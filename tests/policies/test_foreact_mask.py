"""The token mask of foreact with GR-1's parts, and what follows from it (reference: bytedance/GR-1, Apache-2.0)."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from einops import rearrange

from foreact.policies.gr1.foreact import ForeAct
from foreact.policies.gr1.foreact_config import ForeActConfig
from foreact.vla.batch import WindowBatch
from foreact.vla.errors import ConfigError
from foreact.vla.training.synthetic import synthetic_contract


def _encoded(policy: ForeAct, batch: WindowBatch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
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
def test_the_trunk_equals_gr1s_square_mask_in_gr1s_order(policy: ForeAct, batch: WindowBatch) -> None:
    """Slow reference: all tokens of a step in the original order, one N x N mask that hides queries and padding."""
    frames, language, exists = _encoded(policy, batch)
    B, T, _, D = frames.shape
    K, Q = policy.config.chunk, policy.config.image_queries
    answers = policy.answer(frames, language, exists, last_only=False, image_step_BI=torch.arange(T).expand(B, T))

    context = policy.context(frames, language)
    G = context.shape[2]
    per_step = G + K + 2 * Q
    tokens = torch.zeros(B, T, per_step, D)
    tokens[:, :, :G] = context + policy.embed_timestep_TD[:, None]
    tokens[:, :, G : G + K] = policy.action_query_D + policy.chunk_queries_KD
    tokens[:, :, G + K : G + K + Q] = policy.image_queries["front"]
    tokens[:, :, G + K + Q :] = policy.image_queries["hand"]
    x = policy.embed_norm(rearrange(tokens, "b t n d -> b (t n) d"))
    mask = torch.zeros(B, 1, T * per_step, T * per_step, dtype=torch.bool)
    for b in range(B):
        for row in range(T * per_step):
            for column in range(row + 1):
                step, place = divmod(column, per_step)
                mask[b, 0, row, column] = bool(exists[b, step]) and place < G
    for block in policy.blocks:
        x = block(x, mask)
    x = rearrange(policy.norm(x), "b (t n) d -> b t n d", t=T)
    expected = x[:, :, G : G + K]
    torch.testing.assert_close(answers.actions_BTKD[exists], expected[exists], rtol=1e-4, atol=1e-5)
    for name, start in (("front", G + K), ("hand", G + K + Q)):
        torch.testing.assert_close(
            answers.images[name][exists], x[:, :, start : start + Q][exists], rtol=1e-4, atol=1e-5
        )


@torch.no_grad()
def test_no_token_looks_at_a_query(policy: ForeAct, batch: WindowBatch) -> None:
    frames, language, exists = _encoded(policy, batch)
    last = exists.sum(1, keepdim=True) - 1
    before = policy.answer(frames, language, exists, last_only=True, image_step_BI=last)
    policy.chunk_queries_KD[1] += torch.randn(32)
    policy.image_queries["hand"] += torch.randn(2, 32)
    after = policy.answer(frames, language, exists, last_only=True, image_step_BI=last)
    was, now = before.actions_BTKD, after.actions_BTKD
    torch.testing.assert_close(now[:, :, [0, 2]], was[:, :, [0, 2]], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(after.images["front"], before.images["front"], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(now[:, :, 1], was[:, :, 1], atol=1e-3)
    assert not torch.allclose(after.images["hand"], before.images["hand"], atol=1e-3)


@torch.no_grad()
def test_the_past_does_not_see_the_future_and_the_future_sees_the_past(policy: ForeAct, batch: WindowBatch) -> None:
    frames, language, _ = _encoded(policy, batch)
    all_exist = torch.ones(frames.shape[:2], dtype=torch.bool)
    before = policy.answer(frames, language, all_exist, last_only=False, image_step_BI=None).actions_BTKD
    frames[:, 1] += torch.randn(32)
    after = policy.answer(frames, language, all_exist, last_only=False, image_step_BI=None).actions_BTKD
    torch.testing.assert_close(after[:, 0], before[:, 0], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(after[:, 1], before[:, 1], atol=1e-3)
    assert not torch.allclose(after[:, 2], before[:, 2], atol=1e-3)


@torch.no_grad()
def test_the_order_of_context_tokens_is_language_state_static_wrist(policy: ForeAct, batch: WindowBatch) -> None:
    frames, language, _ = _encoded(policy, batch)
    context = policy.context(frames, language)
    L = policy.config.visual_count
    assert context.shape[2] == 2 + 2 * (L + 1)

    def changed(frames: torch.Tensor, language: torch.Tensor) -> list[bool]:
        return ((policy.context(frames, language) - context).abs().amax(dim=(0, 1, 3)) > 1e-6).tolist()

    assert changed(frames, language + 1.0) == [True] + [False] * (1 + 2 * (L + 1))
    other = replace(batch, state=batch.state + 1.0)
    assert changed(_encoded(policy, other)[0], language) == [False, True] + [False] * 2 * (L + 1)
    for camera, expected in (("front", [True, False]), ("hand", [False, True])):
        other = replace(batch, images={**batch.images, camera: 255 - batch.images[camera]})
        blocks = [seen for seen in expected for _ in range(L + 1)]
        assert changed(_encoded(policy, other)[0], language) == [False, False, *blocks]


def test_plan_gives_commands_within_the_contract(policy: ForeAct, batch: WindowBatch) -> None:
    tensors = {n: torch.from_numpy(v) for n, v in batch.images.items()}
    with torch.no_grad():
        policy.get_parameter("action_head.answer.weight").mul_(100.0)
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
    contract = synthetic_contract({"a": (64, 64), "b": (64, 64)})
    policy = ForeAct(ForeActConfig(), contract, {"state": {"mean": [0.0] * 3, "std": [1.0] * 3}})
    assert sum(p.numel() for p in policy.parameters()) < 5_000_000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 33}, "policy.width \\(33\\) must be a multiple of policy.heads"),
        ({"execute_steps": 4}, "execute_steps must be 1 to policy.chunk=3"),
        ({"foresight_positions": "some"}, "policy.foresight_positions has no 'some'; known: all, one"),
        ({"history": 0}, "history must be at least 1"),
    ],
)
def test_impossible_sizes_are_refused(changes: dict, message: str, make_policy: Callable[..., ForeAct]) -> None:
    with pytest.raises(ConfigError, match=message):
        make_policy(**changes)


def test_config_refuses_unknown_names_and_wrong_types() -> None:
    assert ForeActConfig.from_dict(ForeActConfig(width=64, heads=2).to_dict()) == ForeActConfig(width=64, heads=2)
    with pytest.raises(ConfigError, match="'widht' is unknown.*did you mean 'width'"):
        ForeActConfig.from_dict({"widht": 3})
    with pytest.raises(ConfigError, match="policy.width must be int, found 'wide'"):
        ForeActConfig.from_dict({"width": "wide"})
    with pytest.raises(ConfigError, match="policy.layers must be int, found True"):
        ForeActConfig.from_dict({"layers": True})
