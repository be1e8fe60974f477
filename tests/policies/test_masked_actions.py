"""Action components that a window does not teach: no loss, no gradient, whatever stands in their place."""

from dataclasses import replace

import numpy as np
import torch

from foreact.policies.gr1.foreact import ForeAct
from foreact.vla.batch import WindowBatch
from foreact.vla.training.pieces import cut

USED = np.array([[True, False, True], [True, True, True], [True, True, False], [False, True, False]] * 2)


def gradients(policy: ForeAct, batch: WindowBatch) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    policy.zero_grad(set_to_none=True)
    torch.manual_seed(0)
    losses = policy.loss(batch)
    losses["total"].backward()
    grads = {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}
    return {name: float(value.detach()) for name, value in losses.items()}, grads


def test_no_gradient_depends_on_a_masked_component(policy: ForeAct, batch: WindowBatch) -> None:
    masked = replace(batch, action_used=USED)
    assert 0 < masked.action_numbers.sum() < replace(batch, action_used=None).action_numbers.sum()
    noise = np.random.default_rng(0).normal(0, 100, batch.action.shape).astype(np.float32)
    other = replace(masked, action=np.where(masked.action_numbers, batch.action, noise))
    losses, grads = gradients(policy, masked)
    same_losses, same_grads = gradients(policy, other)
    assert losses == same_losses
    assert grads.keys() == same_grads.keys() and all(torch.equal(grads[name], same_grads[name]) for name in grads)
    whole_losses, _ = gradients(policy, batch)
    assert whole_losses["arm"] != losses["arm"] and whole_losses["gripper"] != losses["gripper"]


def test_everything_used_is_no_mask(policy: ForeAct, batch: WindowBatch) -> None:
    full = replace(batch, action_used=np.ones((8, 3), bool))
    assert gradients(policy, full)[0] == gradients(policy, batch)[0]


def test_a_batch_without_any_learned_component_teaches_no_action(policy: ForeAct, batch: WindowBatch) -> None:
    losses, grads = gradients(policy, replace(batch, action_used=np.zeros((8, 3), bool)))
    assert losses["arm"] == losses["gripper"] == 0.0
    assert float(grads["action_head.answer.weight"].abs().max()) == 0.0


def test_a_piece_of_a_batch_keeps_its_masks(batch: WindowBatch) -> None:
    piece = cut(replace(batch, action_used=USED), 3, 4)
    assert piece.action_used is not None
    np.testing.assert_array_equal(piece.action_used, USED[3:4])
    assert cut(batch, 3, 4).action_used is None
