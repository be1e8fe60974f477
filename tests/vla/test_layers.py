"""Layers against plain loops and against PyTorch's own attention."""

import math

import pytest
import torch
import torch.nn.functional as F

from foreact.vla.layers import Attention, Block, PerceiverResampler, attend, sincos_positions


@pytest.mark.parametrize("masked", [False, True])
def test_the_plain_products_equal_pytorchs_attention(masked: bool) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 5, 8), torch.randn(3, 2, 7, 8), torch.randn(3, 2, 7, 8)
    mask = (torch.rand(3, 1, 5, 7) < 0.5) | (torch.arange(7) == 0) if masked else None
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    torch.testing.assert_close(attend(q, k, v, mask), expected, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(attend(q, k, v, mask), expected, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_attention_equals_a_loop_over_heads_and_tokens() -> None:
    torch.manual_seed(1)
    layer = Attention(8, 2)
    x = torch.randn(1, 3, 8)
    q, kv = layer.to_q(x)[0], layer.to_kv(x)[0]
    expected = torch.zeros(3, 8)
    for head in range(2):
        pick = slice(4 * head, 4 * head + 4)
        for token in range(3):
            scores = torch.tensor([float(q[token, pick] @ kv[other, :8][pick]) / math.sqrt(4) for other in range(3)])
            weights = torch.exp(scores) / torch.exp(scores).sum()
            expected[token, pick] = sum(w * kv[other, 8:][pick] for other, w in enumerate(weights))
    torch.testing.assert_close(layer(x)[0], layer.out(expected), rtol=1e-4, atol=1e-6)


def test_leaving_queries_out_of_the_keys_equals_masking_them() -> None:
    torch.manual_seed(2)
    block, x = Block(16, 2, activation="relu"), torch.randn(2, 6, 16)
    keys = (torch.arange(6) < 4).expand(2, 1, 6, 6)
    torch.testing.assert_close(block(x, n_keys=4), block(x, keys), rtol=1e-5, atol=1e-6)


def test_a_last_layer_computes_only_what_is_read() -> None:
    torch.manual_seed(3)
    block, x = Block(16, 2), torch.randn(2, 6, 16)
    torch.testing.assert_close(block(x, n_keys=4, first=4), block(x, n_keys=4)[:, 4:], rtol=1e-5, atol=1e-6)


def test_sincos_positions_are_those_of_mae() -> None:
    table = sincos_positions(3, 5, 8)
    for row in range(3):
        for column in range(5):
            expected = [
                f(axis / 10000 ** (i / 2)) for axis in (column, row) for f in (math.sin, math.cos) for i in range(2)
            ]
            assert table[row * 5 + column].tolist() == pytest.approx(expected, abs=1e-6)


def test_sincos_positions_need_a_multiple_of_four() -> None:
    with pytest.raises(ValueError, match="multiple of 4"):
        sincos_positions(2, 2, 6)


def test_the_resampler_gives_latents_that_do_not_depend_on_the_order_of_patches() -> None:
    torch.manual_seed(4)
    resampler = PerceiverResampler(16, depth=2, latents=3, heads=2, head_width=8)
    patches = torch.randn(2, 10, 16)
    latents = resampler(patches)
    assert latents.shape == (2, 3, 16)
    torch.testing.assert_close(resampler(patches[:, torch.randperm(10)]), latents, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(resampler(patches.flip(-1)), latents, atol=1e-3)
