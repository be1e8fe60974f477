"""Losses against NumPy, masks, and that the policy learns what there is to learn."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from foreact.policies.gr1.foreact import ForeAct
from foreact.policies.gr1.foreact_losses import choose_steps, pixel_losses
from foreact.policies.gr1.heads import build_head
from foreact.policies.gr1.published_losses import action_losses
from foreact.policies.gr1.state import StateEncoding
from foreact.vla.batch import WindowBatch
from foreact.vla.contract import Field
from foreact.vla.training.synthetic import SyntheticWindows, synthetic_contract
from foreact.vla.training.validate import with_ratios


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_action_losses_equal_numpy(beta: float) -> None:
    """Of the point head, and (where the arm's error turns linear at 1) of the published policy; masks per number."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    features, target = torch.randn(6, 4, 8), rng.normal(size=(6, 4, 3)).astype(np.float32)
    target[..., 2] = np.sign(target[..., 2])
    mask = rng.random((6, 4, 3)) < 0.6
    head = build_head("linear", 8, 3, 2, beta=beta, chunk=4, heads=2, steps=1)
    counts = {"arm": float(mask[..., :2].sum()), "gripper": float(mask[..., 2].sum())}
    raw = head(features).detach()
    found = [head.losses(features, torch.tensor(target), torch.tensor(mask), counts, None)]
    if beta == 1.0:
        recorded, exists = torch.tensor(target)[:, None], torch.tensor(mask)[:, None]
        found.append(action_losses(raw[:, None], recorded, exists, counts))
    raw = raw.numpy()
    error = np.abs(raw - target)[..., :2][mask[..., :2]]
    assert (error < beta).any() and (error > beta).any()
    smooth = np.where(error < beta, error**2 / (2 * beta), error - beta / 2)
    logit, wanted = raw[..., 2][mask[..., 2]], target[..., 2][mask[..., 2]] > 0
    entropy = np.log1p(np.exp(-np.where(wanted, logit, -logit)))
    for parts in found:
        assert float(parts["arm"].detach()) == pytest.approx(smooth.mean(), rel=1e-5)
        assert float(parts["arm_error"]) == pytest.approx(error.mean(), rel=1e-5)
        assert float(parts["gripper"].detach()) == pytest.approx(entropy.mean(), rel=1e-5)
        assert float(parts["gripper_accuracy"]) == pytest.approx(((logit > 0) == wanted).mean())


def test_pixel_losses_equal_numpy() -> None:
    rng = np.random.default_rng(1)
    now = rng.random((3, 3, 4, 4)).astype(np.float32)
    then = now.copy()
    then[:, :, :2] += rng.choice([0.02, 0.2], (3, 1, 2, 4)).astype(np.float32)
    painted = rng.random((3, 3, 4, 4)).astype(np.float32)
    valid = np.array([True, False, True])
    parts = pixel_losses(
        torch.tensor(painted), torch.tensor(now), torch.tensor(then), torch.tensor(valid), moved_weight=3.0, count=2
    )
    moved = (np.abs(then - now).max(axis=1, keepdims=True) > 16 / 255) & valid[:, None, None, None]
    assert 0 < moved.sum() < moved.size
    square = (painted - then) ** 2
    expected = ((1 + 3 * moved) * square)[valid].mean() / 0.0625
    assert float(parts["pixels"]) == pytest.approx(expected, rel=1e-5)
    assert float(parts["moved_error"]) == pytest.approx((square * moved).sum(), rel=1e-5)
    assert float(parts["moved_copy_error"]) == pytest.approx((((now - then) ** 2) * moved).sum(), rel=1e-5)


def test_one_random_valid_frame_is_chosen_per_window() -> None:
    valid = torch.tensor([[True, True, False]] * 200 + [[False, False, False]])
    torch.manual_seed(0)
    chosen = choose_steps(valid, "one")
    assert chosen.shape == (201, 1)
    assert valid[:200].gather(1, chosen[:200]).all()
    assert 60 < int((chosen[:200] == 0).sum()) < 140
    assert choose_steps(valid, "all").tolist() == [[0, 1, 2]] * 201


def _garbled(batch: WindowBatch) -> WindowBatch:
    """The same windows with large numbers wherever a mask is false."""
    rng = np.random.default_rng(5)

    def outside(array: np.ndarray, mask: np.ndarray) -> np.ndarray:
        noise = rng.integers(0, 255, array.shape).astype(array.dtype)
        return np.where(mask.reshape(mask.shape + (1,) * (array.ndim - mask.ndim)), array, noise)

    return replace(
        batch,
        images={n: outside(v, batch.history_mask) for n, v in batch.images.items()},
        future={n: outside(v, batch.future_mask) for n, v in batch.future.items()},
        state=outside(batch.state, batch.state_mask),
        action=outside(batch.action, batch.action_mask),
    )


@pytest.mark.parametrize("positions", ["one", "all"])
def test_what_is_masked_does_not_change_the_loss(
    positions: str, batch: WindowBatch, make_policy: Callable[..., ForeAct]
) -> None:
    policy = make_policy(foresight_positions=positions).eval()
    for mask in (batch.history_mask, batch.future_mask, batch.state_mask, batch.action_mask):
        assert 0 < mask.sum() < mask.size
    losses = []
    for windows in (batch, _garbled(batch)):
        torch.manual_seed(0)
        losses.append({name: float(value.detach()) for name, value in policy.loss(windows).items()})
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_action_free_video_trains_pictures_but_no_actions(policy: ForeAct, batch: WindowBatch) -> None:
    video = replace(batch, state_mask=batch.state_mask & False, action_mask=batch.action_mask & False)
    losses = policy.loss(video)
    assert float(losses["arm"].detach()) == float(losses["gripper"].detach()) == 0.0
    losses["total"].backward()

    def largest(name: str) -> float:
        grad = policy.get_parameter(name).grad
        assert grad is not None
        return float(grad.abs().max())

    assert largest("action_head.answer.weight") == largest("embed_state.weight") == 0.0
    assert largest("no_state_D") > 0.0
    assert largest("decoder.paint.weight") > 0.0


def test_a_policy_for_video_alone_needs_no_state_and_no_action(make_policy: Callable[..., ForeAct]) -> None:
    example = make_policy()
    contract = example.contract.model_copy(update={"state": (), "action": ()})
    policy = ForeAct(example.config, contract, {})
    batch = SyntheticWindows(policy.config, contract, batch_size=4, seed=0).batch_at(0)
    losses = policy.loss(batch)
    assert "arm" not in losses
    losses["total"].backward()
    assert not any(name.startswith(("action", "embed_state", "no_state")) for name in policy.state_dict())


def test_the_total_is_the_weighted_sum_of_the_parts(batch: WindowBatch, make_policy: Callable[..., ForeAct]) -> None:
    policy = make_policy(arm_weight=2.0, gripper_weight=0.5, foresight_weight=0.25)
    parts = {name: float(value.detach()) for name, value in policy.loss(batch).items()}
    pixels = parts["pixels/front"] + parts["pixels/hand"]
    assert parts["total"] == pytest.approx(2 * parts["arm"] + 0.5 * parts["gripper"] + 0.25 * pixels, rel=1e-5)


def test_angles_that_jump_by_a_full_turn_look_the_same() -> None:
    fields = (Field(name="place", size=1, unit="m"), Field(name="turn", size=2, unit="rad", rotation="euler_xyz"))
    encode = StateEncoding(fields, mean=[2.0, 0.0, 0.0], std=[0.5, 1.0, 1.0])
    a, b = encode(torch.tensor([[3.0, np.pi - 1e-4, 0.3], [3.0, -np.pi - 1e-4, 0.3]]))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
    assert a.tolist() == pytest.approx(
        [2.0, np.sin(np.pi - 1e-4), np.sin(0.3), np.cos(np.pi - 1e-4), np.cos(0.3)], abs=1e-5
    )


def test_a_number_that_never_changes_in_the_data_is_not_blown_up() -> None:
    encode = StateEncoding((Field(name="width", size=1, unit="m"),), mean=[0.0], std=[0.0])
    assert abs(float(encode(torch.tensor([[0.005]])))) <= 10.0


def test_it_learns_to_go_where_the_sentence_says_and_to_foresee_it(make_policy: Callable[..., ForeAct]) -> None:
    """In a few hundred steps: actions far better than at first, and predicted frames better than no change."""
    torch.manual_seed(0)
    contract = synthetic_contract({"front": (16, 16)})
    config = make_policy(
        history=1, width=64, layers=2, decoder_width=32, decoder_blend=True, foresight_weight=1.0
    ).config
    policy = ForeAct(config, contract, {"state": {"mean": [0.5, 0.5, 0.0], "std": [0.3, 0.3, 1.0]}})
    windows = SyntheticWindows(config, contract, batch_size=32, seed=0)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=3e-3, fused=True)
    held_out = SyntheticWindows(config, contract, batch_size=256, seed=1).batch_at(0)

    def judge() -> dict[str, float]:
        with torch.no_grad():
            return with_ratios({name: float(value) for name, value in policy.loss(held_out).items()})

    before = judge()
    for step in range(150):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * (1 - step / 150)
        optimizer.zero_grad()
        policy.loss(windows.batch_at(step))["total"].backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
    after = judge()
    print(before, after)
    assert after["arm_error"] < 0.6 * before["arm_error"]
    assert before["foresight_ratio"] > 0.8  # it begins close to copying the current frame
    assert after["foresight_ratio"] < 0.5
