"""The published GR-1 against numbers of its authors' own code (written by scripts/golden_gr1.py)."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from foreact.policies.gr1.published import PublishedGR1
from foreact.policies.gr1.published_config import PublishedGR1Config
from foreact.policies.gr1.published_import import calvin_contract
from foreact.policies.gr1.published_losses import standardised
from foreact.vla.text import ClipText, clip_text_weights

GOLDEN = Path(__file__).parent / "golden_gr1"
SIZES: dict[str, Any] = dict(
    width=32, layers=2, heads=4, resampler_depth=2, resampler_heads=2, resampler_head_width=8, resampler_latents=3,
    vision_width=16, vision_layers=2, vision_heads=2, text_width=12,
)  # fmt: skip


def pictures(size: int, camera: int) -> np.ndarray:
    """(10, size, size, 3) uint8: the rule by which the authors' code got its frames."""
    t, h, w, c = np.ogrid[:10, :size, :size, :3]
    return ((h * 37 + w * 91 + c * 53 + t * 29 + (h * w) % 17 * 11 + camera * 71) % 256).astype(np.uint8)


def states() -> torch.Tensor:
    """(10, 7): arm, then gripper command."""
    t, i = np.ogrid[:10, :7]
    arm = ((t * 31 + i * 17) % 64 - 32) / 40.0
    return torch.from_numpy(np.where(i == 6, np.where(t % 3 == 0, 1.0, -1.0), arm).astype(np.float32))


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    """The authors' state dict, by their names."""
    files = sorted(GOLDEN.glob("weights_*.safetensors"))
    assert len(files) == 4
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


@pytest.fixture(scope="module")
def parts() -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / "parts.safetensors")


@pytest.fixture(scope="module")
def policy(weights: dict[str, torch.Tensor]) -> PublishedGR1:
    """Our network with their weights, loaded by name."""
    import transformers as hf

    clip = hf.CLIPTextModelWithProjection(
        hf.CLIPTextConfig(
            vocab_size=64, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
            projection_dim=12, bos_token_id=62, eos_token_id=63,
        )
    )  # fmt: skip
    prefix = "model_clip."
    clip.load_state_dict(clip_text_weights({k[len(prefix) :]: v for k, v in weights.items() if k.startswith(prefix)}))
    text = ClipText(clip, tokenizer=None)
    policy = PublishedGR1(PublishedGR1Config(**SIZES), calvin_contract(), {}, text=text)
    own = {name: tensor for name, tensor in weights.items() if not name.startswith(prefix)}
    policy.load_state_dict({**own, **{f"text.{k}": v for k, v in text.state_dict().items()}}, strict=True)
    return policy.eval()


def close(ours: torch.Tensor, theirs: torch.Tensor, bound: float = 1e-5) -> None:
    """Equal to `bound` of the largest reference value."""
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= bound * theirs.abs().max()


@torch.no_grad()
def forward(policy: PublishedGR1, tokens: torch.Tensor, valid: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Raw actions (valid, 7) and patches of both cameras (valid, P, Y) of a window with `valid` frames."""
    images = {
        camera.name: torch.from_numpy(pictures(camera.height, number)[:valid])
        for number, camera in enumerate(policy.contract.cameras)
    }
    frames = policy.encode_frames(images, states()[:valid], torch.ones(valid, dtype=torch.bool))
    padded = torch.randn(1, 10, *frames.shape[1:])  # whatever stands in padding, it must not matter
    padded[0, :valid] = frames
    assert isinstance(policy.text, ClipText)
    raw, painted = policy.answer(
        padded, policy.embed_lang(policy.text.embed_tokens(tokens)), torch.arange(10)[None] < valid,
        step_BI=torch.arange(10)[None], actions=True, images=True,
    )  # fmt: skip
    return raw[0, :valid, 0], {name: patches[0, :valid] for name, patches in painted.items()}


@pytest.mark.parametrize("valid", [1, 4, 10])
def test_actions_and_future_frames_are_those_of_the_authors_code(
    policy: PublishedGR1, parts: dict[str, torch.Tensor], valid: int
) -> None:
    every = load_file(GOLDEN / "forward.safetensors")
    golden = {name.split("/")[1]: tensor for name, tensor in every.items() if name.startswith(f"{valid}/")}
    raw, painted = forward(policy, parts["clip_tokens"], valid)
    close(raw[:, :6], golden["arm_action_preds"])
    close(raw[:, 6:], golden["gripper_action_preds"])
    close(painted["rgb_static"][-1, ::14, ::3], golden["obs_preds"])
    close(painted["rgb_gripper"][-1, ::14, ::3], golden["obs_hand_preds"])
    for number, name in enumerate(("obs_targets", "obs_hand_targets")):
        camera = policy.contract.cameras[number]
        pixels = policy.preprocess(torch.from_numpy(pictures(camera.height, number)[valid - 1 : valid]))
        close(standardised(policy.patches(pixels))[0, ::14, ::3], golden[name])


@pytest.mark.parametrize(("name", "size", "camera"), [("resize_static", 200, 0), ("resize_wrist", 84, 1)])
def test_resizing_is_torchvisions_and_overshoots(
    policy: PublishedGR1, parts: dict[str, torch.Tensor], name: str, size: int, camera: int
) -> None:
    ours = policy.preprocess(torch.from_numpy(pictures(size, camera)[:1]))[0]
    close(ours[:, ::7], parts[name])
    pixels = ours * policy.std + policy.mean
    assert pixels.min() < -0.05 and pixels.max() > 1.05


def test_resizing_is_keys_cubic_kernel_with_minus_three_quarters(policy: PublishedGR1) -> None:
    """Slow reference in float64: four taps per axis, borders repeated, nothing clamped."""
    picture = pictures(84, 1)[0].astype(np.float64) / 255.0
    a, centre = -0.75, (np.arange(224) + 0.5) * 84 / 224 - 0.5
    matrix = np.zeros((224, 84))
    for tap in range(-1, 3):
        at = np.floor(centre) + tap
        x = np.abs(centre - at)
        near = (a + 2) * x**3 - (a + 3) * x**2 + 1
        far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
        np.add.at(matrix, (np.arange(224), np.clip(at, 0, 83).astype(int)), np.where(x <= 1, near, far))
    expected = np.einsum("ih,jw,hwc->cij", matrix, matrix, picture)
    ours = policy.preprocess(torch.from_numpy(pictures(84, 1)[:1]))[0] * policy.std + policy.mean
    np.testing.assert_allclose(ours.numpy(), expected, atol=2e-5)


@torch.no_grad()
def test_each_part_alone(policy: PublishedGR1, parts: dict[str, torch.Tensor]) -> None:
    picture, patches = policy.encode_camera(torch.from_numpy(pictures(200, 0)[:2]))
    close(picture, parts["mae_picture"])
    close(patches[:, ::7], parts["mae_patches"])
    close(policy.resample(patches), parts["resampled"])
    close(policy.decode(parts["decoder_queries"])[:, ::7], parts["decoded"])
    assert isinstance(policy.text, ClipText)
    close(policy.text.embed_tokens(parts["clip_tokens"]), parts["clip_unit"])


@torch.no_grad()
def test_the_encoder_is_a_plain_pre_norm_transformer(weights: dict[str, torch.Tensor], policy: PublishedGR1) -> None:
    """A third implementation, of PyTorch's own layers, with the same weights."""
    mae = {name.removeprefix("model_mae."): w for name, w in weights.items() if name.startswith("model_mae.")}
    pixels = policy.preprocess(torch.from_numpy(pictures(200, 0)[:2]))
    kernel = mae["patch_embed.proj.weight"].flatten(1)
    patches = (
        torch.nn.functional.unfold(pixels, 16, stride=16).transpose(1, 2) @ kernel.T + mae["patch_embed.proj.bias"]
    )
    x = torch.cat([mae["cls_token"].expand(2, -1, -1), patches], dim=1) + mae["pos_embed"]
    names = {"in_proj_": "self_attn.in_proj_", "out_proj.": "self_attn.out_proj."}
    theirs = {"qkv.": "in_proj_", "proj.": "out_proj.", "fc1.": "linear1.", "fc2.": "linear2."}
    for number in range(2):
        layer = torch.nn.TransformerEncoderLayer(
            16, 2, 64, 0.0, "gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
        )
        own = {}
        for name, tensor in mae.items():
            if name.startswith(f"blocks.{number}."):
                name = name.removeprefix(f"blocks.{number}.").removeprefix("attn.").removeprefix("mlp.")
                for old, new in (*theirs.items(), *names.items()):
                    name = name.replace(old, new, 1) if name.startswith(old) else name
                own[name] = tensor
        layer.load_state_dict(own)
        x = layer.eval()(x)
    x = torch.nn.functional.layer_norm(x, (16,), mae["norm.weight"], mae["norm.bias"], 1e-6)
    picture, features = policy.model_mae(pixels)
    close(picture, x[:, 0])
    close(features, x[:, 1:])
