"""The probe, the roll-out and the gradients, each against something worked out by hand."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from foreact.vla import layers
from foreact.vla.attention_probe import AttentionProbe, ProbeError
from foreact.vla.errors import ConfigError
from foreact.vla.explain import choose_frames
from foreact.vla.explain_attention import roll_out
from foreact.vla.explain_numbers import _ranks
from foreact.vla.explain_pictures import compose, error_map, heat_colours, overlay
from foreact.vla.explain_saliency import (
    NoGradient,
    action_places,
    action_score,
    gradient,
    integrated_gradients,
    over_patches,
)
from foreact.vla.layers import Attention, Block
from foreact.vla.training.synthetic import synthetic_contract


def _softmax(scores: np.ndarray) -> np.ndarray:
    e = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


@torch.no_grad()
def test_the_probe_sees_the_softmax_and_changes_nothing() -> None:
    torch.manual_seed(0)
    attention = Attention(8, 2).eval()
    x, mask = torch.randn(3, 5, 8), torch.ones(5, 5).tril().bool()[None, None].repeat(3, 1, 1, 1)
    mask[1, :, :, 0] = False  # padded: nobody may look at it, and the first query may look at nothing
    before = attention(x, mask_B1NM=mask)
    with AttentionProbe(nn.ModuleDict({"a": attention}), ["a"]) as probe:
        within = attention(x, mask_B1NM=mask)
    assert torch.equal(before, within)
    assert layers.watcher is None and not attention._forward_hooks and not attention._forward_pre_hooks

    q = attention.to_q(x).numpy().reshape(3, 5, 2, 4)
    k = attention.to_kv(x).numpy()[..., :8].reshape(3, 5, 2, 4)
    scores = np.einsum("bnhe,bmhe->bhnm", q, k) / 2.0
    expected = _softmax(np.where(mask.numpy(), scores, -1e30)).mean(axis=1)
    found = probe.weights("a").numpy()
    assert (found[1, :, 0] == 0).all() and (found[1, 0] == 0).all()
    expected[1, 0] = 0.0
    np.testing.assert_allclose(found, expected, atol=1e-6)
    even = probe.weights("a", even=True).numpy()
    np.testing.assert_allclose(even[0], np.tril(np.ones((5, 5))) / np.arange(1, 6)[:, None], atol=1e-7)


def test_the_probe_closes_behind_an_error_and_refuses_what_it_cannot_do() -> None:
    model = nn.ModuleDict({"a": Attention(8, 2)})
    with pytest.raises(ProbeError, match="no module 'b'"):
        AttentionProbe(model, ["b"])
    with AttentionProbe(model, ["a"]) as probe:
        with pytest.raises(ProbeError, match="another"), AttentionProbe(model, ["a"]):
            pass
        with pytest.raises(RuntimeError):
            model["a"](torch.randn(1, 5, 7))
        assert not probe._running
    assert layers.watcher is None
    with pytest.raises(ProbeError, match="did not attend"):
        probe.weights("a")


def test_roll_out_is_the_product_of_full_matrices() -> None:
    """Two layers of a toy with 3 context tokens and 2 queries nobody looks at; the last layer drops the context."""
    rng = np.random.default_rng(0)
    first = rng.dirichlet(np.ones(3), size=(1, 5))
    second = rng.dirichlet(np.ones(3), size=(1, 2))
    found = roll_out([torch.from_numpy(first), torch.from_numpy(second)], torch.eye(5, dtype=torch.float64)[None])[0]
    whole = [np.zeros((5, 5)), np.eye(5)]
    whole[0][:, :3] = first[0]
    whole[1][3:] = np.hstack([second[0], np.zeros((2, 2))])
    expected = (0.5 * whole[1] + 0.5 * np.eye(5)) @ (0.5 * whole[0] + 0.5 * np.eye(5))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)
    np.testing.assert_allclose(found.sum(dim=-1), 1.0, atol=1e-12)


@torch.no_grad()
def test_roll_out_of_real_blocks_equals_the_product_worked_out_from_their_weights() -> None:
    torch.manual_seed(1)
    model = nn.ModuleList(Block(8, 2) for _ in range(2)).eval()
    x = torch.randn(1, 6, 8)
    mask = torch.ones(6, 4).tril().bool()[None, None]
    with AttentionProbe(model, ["0.attention", "1.attention"]) as probe:
        model[1](model[0](x, mask, n_keys=4), mask[:, :, 4:], n_keys=4, first=4)
    found = roll_out([probe.weights(f"{n}.attention") for n in (0, 1)], torch.eye(6)[None])[0, 4:].numpy()

    product, y = np.eye(6), x
    for block in model:
        assert isinstance(block, Block)
        h = block.norm_attention(y)
        q = block.attention.to_q(h)[0].numpy().reshape(6, 2, 4)
        k = block.attention.to_kv(h)[0].numpy()[:, :8].reshape(6, 2, 4)
        scores = np.einsum("nhe,mhe->hnm", q, k) / 2.0
        blind = np.ones((6, 6), bool)
        blind[:, :4] = ~mask[0, 0].numpy()
        weights = _softmax(np.where(blind, -1e30, scores)).mean(axis=0)
        product = (0.5 * weights + 0.5 * np.eye(6)) @ product
        y = block(y, mask, n_keys=4)
    np.testing.assert_allclose(found, product[4:], atol=1e-6)


def _score(pixels: Any) -> torch.Tensor:
    """(B,): smooth, and only in the camera "a"."""
    return (pixels["a"].flatten(1) / 50.0).sin().sum(dim=1) + 0.0 * pixels["b"].flatten(1).sum(dim=1)


def test_gradient_is_the_derivative_and_zero_where_nothing_depends() -> None:
    torch.manual_seed(2)
    pixels = {name: torch.randint(0, 256, (2, 1, 4, 4, 3)).to(torch.uint8) for name in ("a", "b")}
    value, slope = gradient(_score, pixels)
    np.testing.assert_allclose(slope["a"], (pixels["a"] / 50.0).cos() / 50.0, atol=1e-6)
    np.testing.assert_allclose(value, _score({name: image.float() for name, image in pixels.items()}), atol=1e-5)
    assert (slope["b"] == 0).all()


def test_what_cannot_be_differentiated_is_said() -> None:
    pixels = {"a": torch.zeros(1, 1, 2, 2, 3), "b": torch.zeros(1, 1, 2, 2, 3)}
    with pytest.raises(NoGradient, match="no gradient reaches the pixels"):
        gradient(lambda seen: _score({name: image.detach() for name, image in seen.items()}), pixels)


def test_integrated_gradients_add_up_to_the_difference() -> None:
    torch.manual_seed(3)
    pixels = {name: torch.randint(0, 256, (2, 1, 4, 4, 3)).float() for name in ("a", "b")}
    baseline = {name: torch.full_like(image, 100.0) for name, image in pixels.items()}
    found = integrated_gradients(_score, pixels, baseline, 200)
    difference = _score(pixels) - _score(baseline)
    np.testing.assert_allclose(found["a"].flatten(1).sum(dim=1), difference, atol=1e-3)
    assert (found["b"] == 0).all()


def test_patches_are_means_over_their_own_pixels() -> None:
    values = torch.zeros(1, 1, 4, 6, 3)
    values[0, 0, 0, 5, 0], values[0, 0, 1, 4, 2] = 4.0, -8.0  # both in the upper right patch
    assert over_patches(values, (2, 3), signed=False).tolist() == [[[0.0, 0.0, 3.0, 0.0, 0.0, 0.0]]]
    assert over_patches(values, (2, 3), signed=True).tolist() == [[[0.0, 0.0, 1.0, 0.0, 0.0, 0.0]]]


def test_parts_of_an_action_have_names() -> None:
    contract = synthetic_contract({"a": (8, 8)})
    assert action_places(contract, "arm") == [0, 1] == action_places(contract, "delta_place")
    assert action_places(contract, "delta_place.1") == [1] and action_places(contract, "gripper") == [2]
    with pytest.raises(ConfigError, match="did you mean 'gripper'"):
        action_places(contract, "griper")
    raw = torch.tensor([[[3.0, 4.0, -1.0], [0.0, 1.0, -2.0], [9.0, 9.0, 9.0]]])
    assert action_score(raw, [0, 1], 2).tolist() == [3.0]
    assert action_score(raw, [2], 2).tolist() == [-1.5]


def test_frames_are_chosen_as_slices() -> None:
    assert choose_frames(10, "", 4) == [0, 4, 8]
    assert choose_frames(10, "2:7", 2) == [2, 4, 6]
    assert choose_frames(10, "-3:", 1) == [7, 8, 9]
    for wrong in ("3", "a:b", "1:2:3"):
        with pytest.raises(ConfigError, match="expected a:b"):
            choose_frames(10, wrong, 1)
    with pytest.raises(ConfigError, match="frames 0 to 9"):
        choose_frames(10, "10:20", 1)


def test_ranks_share_what_is_equal() -> None:
    assert _ranks(np.array([[3.0, 1.0, 3.0, 2.0]])).tolist() == [[3.5, 1.0, 3.5, 2.0]]


def test_heat_is_drawn_where_it_is() -> None:
    frame = np.full((64, 64, 3), 128, np.uint8)
    heat = np.zeros(64)
    heat[8 * 6 + 1] = 2.0  # seventh row of patches, second column
    picture = overlay(frame, heat, (8, 8), 2.0).astype(int)
    saturation = picture.max(axis=-1) - picture.min(axis=-1)
    y, x = np.unravel_index(np.argmax(picture.sum(axis=-1)), saturation.shape)
    assert (y * 8 // 160, x * 8 // 160) == (6, 1)
    assert (heat_colours(np.array([[0.0, 1.0]])) == [[[0, 0, 4], [252, 253, 191]]]).all()
    predicted = frame.copy()
    predicted[10, 20] += 64
    shown = error_map(predicted, frame)
    assert (shown[10, 20] == [252, 253, 191]).all() and (shown[0, 0] == [0, 0, 4]).all()
    whole = compose({"a": [("a", frame), ("none", None)]}, title="t", status="s")
    assert whole.shape[0] % 2 == 0 and whole.shape[1] == 320
