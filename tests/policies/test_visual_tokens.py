"""Reductions of patch tokens against slow references."""

import numpy as np
import pytest
import scipy.fft
import torch

from foreact.policies.gr1.relative import ToolFrame
from foreact.policies.gr1.visual_tokens import build_visual_tokens
from foreact.sim.embodiment import desk_contract
from foreact.sim.rotations import euler_xyz_to_matrix


def _build(way: str, count: int, grid: tuple[int, int] = (4, 6)):
    return build_visual_tokens(way, grid, 8, count, depth=1, heads=2, head_width=4, told=False)


def test_dct_is_scipys() -> None:
    patches = torch.randn(3, 24, 8)
    found = _build("dct", 9)(patches, torch.zeros(3, 8)).numpy()
    expected = np.asarray(scipy.fft.dctn(patches.numpy().reshape(3, 4, 6, 8), axes=(1, 2), norm="ortho"))[:, :3, :3]
    np.testing.assert_allclose(found, expected.reshape(3, 9, 8), atol=1e-5)


def test_pooling_keeps_means() -> None:
    patches = torch.arange(16.0).reshape(1, 16, 1).expand(2, 16, 8)
    found = _build("pool", 4, (4, 4))(patches, torch.zeros(2, 8))
    assert found[0, :, 0].tolist() == [2.5, 4.5, 10.5, 12.5]


@pytest.mark.parametrize("count", [1, 5, 11, 23, 24])
def test_merging_keeps_every_patch_once(count: int) -> None:
    """Slow reference: merge by hand, one pair after the other, with sets of patches."""
    patches = torch.randn(2, 24, 8)
    found = _build("merge", count)(patches, torch.zeros(2, 8))
    assert found.shape == (2, count, 8)
    for row in range(2):
        groups: list[list[int]] = [[i] for i in range(24)]
        while len(groups) > count:
            means = [patches[row, g].mean(dim=0) for g in groups]
            unit = [m / m.norm() for m in means]
            even, odd = list(range(0, len(groups), 2)), list(range(1, len(groups), 2))
            best = {o: max((float(unit[o] @ unit[e]), -e) for e in even) for o in odd}
            pairs = min(len(groups) - count, len(groups) // 2)
            going = sorted(odd, key=lambda o: -best[o][0])[:pairs]
            for o in going:
                groups[-best[o][1]] = groups[-best[o][1]] + groups[o]
            groups = [groups[e] for e in even] + [groups[o] for o in odd if o not in going]
        expected = torch.stack([patches[row, g].mean(dim=0) for g in groups])
        torch.testing.assert_close(found[row], expected, rtol=1e-4, atol=1e-5)


def test_the_tools_frame_is_the_simulators() -> None:
    rng = np.random.default_rng(0)
    contract = desk_contract({"rgb_static": (32, 32)})
    tool = ToolFrame(contract)
    state = torch.from_numpy(rng.uniform(-3, 3, (50, contract.state_size))).double()
    action = torch.from_numpy(rng.uniform(-1, 1, (50, 7))).double()
    rotation = tool.rotation(state)
    for row in range(50):
        expected = euler_xyz_to_matrix(state[row, 3:6].numpy())
        np.testing.assert_allclose(rotation[row].numpy(), expected, atol=1e-5)
    turned = tool.to_tool(action, rotation)
    np.testing.assert_allclose(turned[0, :3].numpy(), rotation[0].numpy().T @ action[0, :3].numpy(), atol=1e-6)
    torch.testing.assert_close(tool.to_base(turned, rotation), action, rtol=1e-5, atol=1e-6)
    assert torch.equal(turned[:, 3:], action[:, 3:])
    norms = turned[:, :3].norm(dim=1), action[:, :3].norm(dim=1)
    torch.testing.assert_close(*norms, rtol=1e-5, atol=1e-6)
