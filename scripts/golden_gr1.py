"""Golden numbers of the published GR-1, made with its authors' own code, and a comparison at full size.

    python scripts/golden_gr1.py GR1 CLIP                write tests/policies/golden_gr1/*.safetensors (small networks)
    python scripts/golden_gr1.py GR1 CLIP --compare      compare our network with theirs at full size, and write nothing

GR1 is a checkout of https://github.com/bytedance/GR-1 (Apache-2.0), CLIP one of https://github.com/openai/CLIP (MIT).
Beside foreact[train] this needs flamingo_pytorch==0.1.2 and torchvision. Their code is neither kept nor imported here:
it is loaded from these folders. It was written for transformers 4.5; what later versions dropped is filled in below.
All weights are random, from a fixed seed.

Shape legend: N frames, T = 10 frames of a window, H x W pixels.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import types
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

OUT = Path(__file__).parents[1] / "tests/policies/golden_gr1"
VALID = (1, 4, 10)
FULL: dict[str, Any] = dict(
    width=384, layers=12, heads=12, resampler_depth=3, resampler_heads=4, resampler_head_width=128, latents=9,
    vision_width=768, vision_layers=12, vision_heads=12, text_width=512, clip_width=512, clip_layers=12, clip_heads=8,
    clip_words=49408,
)  # fmt: skip
SMALL: dict[str, Any] = dict(
    width=32, layers=2, heads=4, resampler_depth=2, resampler_heads=2, resampler_head_width=8, latents=3,
    vision_width=16, vision_layers=2, vision_heads=2, text_width=12, clip_width=16, clip_layers=2, clip_heads=2,
    clip_words=64,
)  # fmt: skip


# --- the authors' code -----------------------------------------------------------------------------------------------


def _decorator(*_: Any, **__: Any) -> Any:
    return lambda function: function


class _PreTrainedModel(nn.Module):
    """As much of transformers 4.5's base class as a forward pass needs."""

    config_class: Any = None

    def __init__(self, config: Any):
        super().__init__()
        self.config = config

    def init_weights(self) -> None:
        """Weights are replaced by ours anyway."""

    def get_head_mask(self, _mask: Any, layers: int) -> list[None]:
        """No head is masked."""
        return [None] * layers

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return next(self.parameters()).dtype


class _Config(types.SimpleNamespace):
    """GPT2Config of transformers 4.5: its defaults, overridden by what the authors set."""

    def __init__(self, **settings: Any):
        super().__init__(
            **{
                "n_ctx": 1024, "layer_norm_epsilon": 1e-5, "embd_pdrop": 0.1, "n_inner": None,
                "add_cross_attention": False, "output_attentions": False, "output_hidden_states": False,
                "use_cache": False, "use_return_dict": True, "gradient_checkpointing": False, **settings,
            }
        )  # fmt: skip


def load_authors(gr1: Path, clip: Path) -> tuple[Any, Any, Any]:
    """The authors' GR1 class, their vision_transformer module and OpenAI's CLIP class."""
    import transformers
    from transformers import modeling_utils, pytorch_utils
    from transformers.utils.generic import ModelOutput

    decorators = (
        "add_code_sample_docstrings", "add_start_docstrings", "add_start_docstrings_to_model_forward",
        "replace_return_docstrings",
    )  # fmt: skip
    file_utils = types.ModuleType("transformers.file_utils")
    vars(file_utils).update(dict.fromkeys(decorators, _decorator), ModelOutput=ModelOutput)
    parallel = types.ModuleType("transformers.utils.model_parallel_utils")
    vars(parallel).update(assert_device_map=None, get_device_map=None)
    sys.modules.update({module.__name__: module for module in (file_utils, parallel)})
    kept = dict(vars(modeling_utils))
    modeling_utils.__dict__.update(
        Conv1D=pytorch_utils.Conv1D, PreTrainedModel=_PreTrainedModel, SequenceSummary=None,
        find_pruneable_heads_and_indices=None, prune_conv1d_layer=None,
    )  # fmt: skip
    transformers.GPT2Config = _Config
    if not torch.cuda.is_available():
        Tensor.cuda = lambda self, *_, **__: self  # their masks ask for a GPU
    sys.path.insert(0, str(gr1))
    from models import gr1 as module  # pyright: ignore[reportMissingImports]
    from models import vision_transformer  # pyright: ignore[reportMissingImports]

    modeling_utils.__dict__.update(kept)  # our network uses transformers too
    spec = importlib.util.spec_from_file_location("openai_clip_model", clip / "clip/model.py")
    assert spec is not None and spec.loader is not None
    clip_module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(clip_module)
    return module.GR1, vision_transformer, clip_module.CLIP


def build_theirs(sizes: dict[str, Any], gr1: Path, clip: Path) -> Any:
    """Their network with random weights in which every part matters."""
    GR1, vits, CLIP = load_authors(gr1, clip)
    torch.manual_seed(0)
    text = CLIP(
        embed_dim=sizes["text_width"], image_resolution=32, vision_layers=1, vision_width=64, vision_patch_size=32,
        context_length=77, vocab_size=sizes["clip_words"], transformer_width=sizes["clip_width"],
        transformer_heads=sizes["clip_heads"], transformer_layers=sizes["clip_layers"],
    )  # fmt: skip
    mae = vits.VisionTransformer(
        patch_size=16, embed_dim=sizes["vision_width"], depth=sizes["vision_layers"], num_heads=sizes["vision_heads"],
        mlp_ratio=4, qkv_bias=True, norm_layer=partial(nn.LayerNorm, eps=1e-6),
    )  # fmt: skip
    model = GR1(
        model_clip=text, model_mae=mae, state_dim=7, act_dim=7, hidden_size=sizes["width"], sequence_length=10,
        training_target=["act_pred", "fwd_pred", "fwd_pred_hand"], img_feat_dim=sizes["vision_width"],
        lang_feat_dim=sizes["text_width"], patch_feat_dim=sizes["vision_width"],
        resampler_params=dict(
            depth=sizes["resampler_depth"], dim_head=sizes["resampler_head_width"], heads=sizes["resampler_heads"],
            num_latents=sizes["latents"], num_media_embeds=1,
        ),
        without_norm_pixel_loss=False, use_hand_rgb=True, n_layer=sizes["layers"], n_head=sizes["heads"],
        n_inner=4 * sizes["width"], activation_function="relu", n_positions=1024, resid_pdrop=0.1, attn_pdrop=0.1,
    )  # fmt: skip
    randomise(model)
    return model.eval()


def randomise(model: nn.Module) -> None:
    """Weights that keep numbers of size one, let attention choose, and leave no bias or scale at its default."""
    generator = torch.Generator().manual_seed(1)
    norms = {id(m.weight) for m in model.modules() if isinstance(m, nn.LayerNorm)}
    for name, parameter in model.named_parameters():
        if name == "decoder_pos_embed":
            continue
        noise = torch.randn(parameter.shape, generator=generator)
        if id(parameter) in norms:
            value = 1.0 + 0.2 * noise
        elif parameter.ndim == 2 and not name.endswith(("queries.weight", "timestep.weight", "embedding", "latents")):
            fan_in = parameter.shape[0] if ".c_" in name and name.startswith("transformer") else parameter.shape[1]
            value = noise * 1.3 * fan_in**-0.5
        elif parameter.ndim == 4 and parameter.shape[-1] > 1:
            value = noise * parameter[0].numel() ** -0.5
        else:
            value = noise * 0.3
        parameter.data.copy_(value)


# --- inputs: whole numbers by a rule, so that a test makes the very same ---------------------------------------------


def pictures(size: int, camera: int) -> np.ndarray:
    """(T, size, size, 3) uint8 with sharp edges, so that bicubic interpolation overshoots."""
    t, h, w, c = np.ogrid[:10, :size, :size, :3]
    return ((h * 37 + w * 91 + c * 53 + t * 29 + (h * w) % 17 * 11 + camera * 71) % 256).astype(np.uint8)


def states() -> np.ndarray:
    """(T, 7) float32: arm, then gripper command."""
    t, i = np.ogrid[:10, :7]
    arm = ((t * 31 + i * 17) % 64 - 32) / 40.0
    return np.where(i == 6, np.where(t % 3 == 0, 1.0, -1.0), arm).astype(np.float32)


def sentence(words: int) -> Tensor:
    """(1, 77) tokens as OpenAI's tokenizer makes them: start, words, end, zeros."""
    tokens = torch.zeros(1, 77, dtype=torch.long)
    body = [words - 2, *((7 * k + 3) % (words - 2) for k in range(6)), words - 1]
    tokens[0, : len(body)] = torch.tensor(body)
    return tokens


def preprocess(images: np.ndarray) -> Tensor:
    """Pictures as the authors' evaluation prepares them, under torchvision 0.13: (T, 3, 224, 224)."""
    from torchvision import transforms as T  # pyright: ignore[reportMissingImports]

    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float().div(255)
    resize = T.Resize((224, 224), interpolation=T.InterpolationMode.BICUBIC, antialias=False)
    return T.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))(resize(pixels))


@torch.no_grad()
def run_theirs(model: Any, tokens: Tensor, valid: int) -> dict[str, Tensor]:
    """Their outputs for a window whose first `valid` frames exist; those behind are filled as in their evaluation."""
    mask = torch.zeros(1, 10, dtype=torch.long)
    mask[0, :valid] = 1
    views = []
    for camera, size in enumerate((200, 84)):
        pixels = torch.zeros(1, 10, 3, 224, 224)
        pixels[0, :valid] = preprocess(pictures(size, camera))[:valid]
        views.append(pixels)
    state = torch.from_numpy(states())
    arm, gripper = torch.zeros(1, 10, 6), -torch.ones(1, 10)
    arm[0, :valid], gripper[0, :valid] = state[:valid, :6], state[:valid, 6]
    onehot = nn.functional.one_hot(((gripper + 1) / 2).long(), 2).float()
    out = model(
        rgb=views[0], hand_rgb=views[1], state={"arm": arm, "gripper": onehot}, language=tokens, attention_mask=mask
    )
    return {name: value[0, :valid] for name, value in out.items()}


# --- ours ------------------------------------------------------------------------------------------------------------


def build_ours(sizes: dict[str, Any], theirs: Any) -> tuple[Any, Any]:
    """Our network with their weights, and the language vector's tower in transformers' form."""
    import transformers

    from foreact.policies.gr1.published import PublishedGR1
    from foreact.policies.gr1.published_config import PublishedGR1Config
    from foreact.policies.gr1.published_import import calvin_contract
    from foreact.vla.text import ClipText, clip_text_weights

    ours = (
        "width", "layers", "heads", "resampler_depth", "resampler_heads", "resampler_head_width", "vision_width",
        "vision_layers", "vision_heads", "text_width",
    )  # fmt: skip
    config = PublishedGR1Config(**{name: sizes[name] for name in ours}, resampler_latents=sizes["latents"])
    text = transformers.CLIPTextModelWithProjection(
        transformers.CLIPTextConfig(
            vocab_size=sizes["clip_words"], hidden_size=sizes["clip_width"], num_hidden_layers=sizes["clip_layers"],
            num_attention_heads=sizes["clip_heads"], intermediate_size=4 * sizes["clip_width"],
            projection_dim=sizes["text_width"], bos_token_id=sizes["clip_words"] - 2,
            eos_token_id=sizes["clip_words"] - 1,
        )
    )  # fmt: skip
    weights = theirs.state_dict()
    prefix = "model_clip."
    text.load_state_dict(clip_text_weights({k[len(prefix) :]: v for k, v in weights.items() if k.startswith(prefix)}))
    tower = ClipText(text, tokenizer=None)
    policy = PublishedGR1(config, calvin_contract(), {}, text=tower)
    own = {k: v for k, v in weights.items() if not k.startswith(prefix) and not k.endswith((".attn.bias", "ed_bias"))}
    own |= {f"text.{name}": value for name, value in tower.state_dict().items()}
    policy.load_state_dict(own, strict=True)
    return policy.eval(), tower


@torch.no_grad()
def run_ours(policy: Any, tower: Any, tokens: Tensor, valid: int) -> dict[str, Tensor]:
    """Our outputs for the same window."""
    images = {
        name: torch.from_numpy(pictures(size, camera)[:valid])
        for camera, (name, size) in enumerate((("rgb_static", 200), ("rgb_gripper", 84)))
    }
    state = torch.from_numpy(states()[:valid])
    frames = policy.encode_frames(images, state, torch.ones(valid, dtype=torch.bool))
    padded = torch.zeros(1, 10, *frames.shape[1:])
    padded[0, :valid] = frames
    mask = torch.arange(10)[None] < valid
    language = policy.embed_lang(tower.embed_tokens(tokens))
    raw, painted = policy.answer(
        padded, language, mask, step_BI=torch.arange(10)[None], actions=True, images=True
    )  # fmt: skip
    return {
        "arm_action_preds": raw[0, :valid, 0, :6],
        "gripper_action_preds": raw[0, :valid, 0, 6:],
        "obs_preds": painted["rgb_static"][0, :valid],
        "obs_hand_preds": painted["rgb_gripper"][0, :valid],
    }


def compare(gr1: Path, clip: Path) -> None:
    """Print the largest difference of every output, relative to the largest value of theirs, at full size."""
    from foreact.policies.gr1.published_losses import standardised

    theirs = build_theirs(FULL, gr1, clip)
    policy, tower = build_ours(FULL, theirs)
    trainable = sum(p.numel() for p in policy.parameters() if p.requires_grad)
    print(f"trainable parameters: theirs {count(theirs):,}, ours {trainable:,}")
    tokens = sentence(FULL["clip_words"])
    for valid in VALID:
        reference, ours = run_theirs(theirs, tokens, valid), run_ours(policy, tower, tokens, valid)
        for camera, (name, size) in enumerate((("obs_targets", 200), ("obs_hand_targets", 84))):
            pixels = policy.preprocess(torch.from_numpy(pictures(size, camera)[:valid]))
            ours[name] = standardised(policy.patches(pixels))
        for name, value in sorted(ours.items()):
            scale = reference[name].abs().max().item()
            error = (value - reference[name]).abs().max().item()
            print(f"{valid:2d} valid frames  {name:22s} max|theirs| {scale:8.4f}  max difference {error / scale:.2e}")


def count(model: nn.Module) -> int:
    """Trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


# --- golden files ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def write(gr1: Path, clip: Path, out: Path) -> None:
    """Small networks' weights and outputs; frames are thinned out so that each file stays below 300 kB."""
    theirs = build_theirs(SMALL, gr1, clip)
    tokens = sentence(SMALL["clip_words"])
    weights = {
        name: value
        for name, value in theirs.state_dict().items()
        if not name.startswith("model_clip.visual") and not name.endswith((".attn.bias", ".masked_bias"))
    }
    files: dict[str, dict[str, Tensor]] = {"forward": {}}
    for name, value in weights.items():
        part = name.split(".")[0].split("_")[0]
        files.setdefault(f"weights_{part if part in ('transformer', 'decoder', 'model') else 'rest'}", {})[name] = value
    for valid in VALID:
        for name, value in run_theirs(theirs, tokens, valid).items():
            thin = value if "action" in name else value[-1, ::14, ::3]
            files["forward"][f"{valid}/{name}"] = thin

    normalised = [preprocess(pictures(size, camera)) for camera, size in enumerate((200, 84))]
    static = normalised[0][:2]
    picture, patches = theirs.model_mae(static)
    queries = torch.sin(torch.arange(4 * SMALL["width"]).float()).reshape(1, 4, -1)
    mask_tokens = (theirs.mask_token + theirs.decoder_pos_embed)[0]
    x = torch.cat([theirs.decoder_embed(queries), mask_tokens], dim=1)
    for block in theirs.decoder_blocks:
        x = block(x)
    decoded = theirs.decoder_pred(theirs.decoder_norm(x))[:, 4:]
    text = theirs.model_clip.encode_text(tokens)
    files["parts"] = {
        "resize_static": normalised[0][0, :, ::7],
        "resize_wrist": normalised[1][0, :, ::7],
        "mae_picture": picture, "mae_patches": patches[:, ::7],
        "resampled": theirs.perceiver_resampler(patches[:, None])[:, 0],
        "decoder_queries": queries, "decoded": decoded[:, ::7],
        "clip_tokens": tokens, "clip": text, "clip_unit": text / (text.norm(dim=1, keepdim=True) + 1e-6),
    }  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    for name, tensors in files.items():
        save_file({key: value.contiguous() for key, value in tensors.items()}, out / f"{name}.safetensors")
        print(f"{out / name}.safetensors: {(out / f'{name}.safetensors').stat().st_size:,} bytes")


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gr1", type=Path, help="checkout of bytedance/GR-1")
    parser.add_argument("clip", type=Path, help="checkout of openai/CLIP")
    parser.add_argument("--compare", action="store_true", help="compare at full size instead of writing")
    parser.add_argument("--out", type=Path, default=OUT, help="where the golden files go")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.compare:
        compare(options.gr1, options.clip)
    else:
        write(options.gr1, options.clip, options.out)


if __name__ == "__main__":
    main()
