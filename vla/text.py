"""Text towers: a sentence becomes one vector. `small` reads UTF-8 bytes, so any sentence in any script runs;
`clip` is CLIP's frozen text tower through transformers; `distilled` (`foreact.vla.text_distilled`) is small, frozen and
knows words that were never trained on.

Shape legend: N sentences, S bytes, D width.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from foreact.vla.errors import ConfigError, did_you_mean
from foreact.vla.layers import Block

MAX_BYTES = 512
MAX_KEPT = 20_000
"""Sentences whose vectors a frozen tower keeps."""
CLIP_HUB_NAME = "openai/clip-vit-base-patch32"
TOWERS = ("small", "distilled", "clip")


class TextTower(nn.Module):
    """What a policy asks of a text tower: `forward` maps N sentences to (N, D)."""

    width: int
    """Length of a sentence's vector, D."""

    def files(self) -> dict[str, bytes]:
        """What a checkpoint must keep besides weights, to build the tower again offline."""
        return {}


def sentence_bytes(sentences: Sequence[str], device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """UTF-8 bytes of N sentences, right-padded: (N, S) int64 with 1 + byte (0 is padding), and the mask (N, S).

    Upper and lower case and surrounding blanks do not matter. An empty sentence is one unused symbol (257).

    Raises:
        ConfigError: If a sentence is longer than 512 bytes.
    """
    rows = [[1 + byte for byte in sentence.strip().lower().encode()] or [257] for sentence in sentences]
    for sentence, row in zip(sentences, rows, strict=True):
        if len(row) > MAX_BYTES:
            raise ConfigError(
                f"an instruction has {len(row)} bytes, at most {MAX_BYTES} are read: {sentence[:60]!r}..."
            )
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], dtype=torch.long, device=device)
    return ids, ids != 0


class SmallText(TextTower):
    """A character-level transformer over UTF-8 bytes, trained from scratch; the sentence is the mean of its tokens."""

    def __init__(self, *, width: int = 96, depth: int = 2, heads: int = 4):
        super().__init__()
        self.width = width
        self.embed = nn.Embedding(258, width, padding_idx=0)
        self.positions_SD = nn.Parameter(torch.randn(MAX_BYTES, width) * 0.02)
        # Letters mean little alone: a convolution joins neighbours before attention sees them.
        self.join = nn.Conv1d(width, width, 5, padding=2)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        nn.init.normal_(self.embed.weight, std=0.2)

    def forward(self, sentences: Sequence[str]) -> Tensor:
        ids_NS, mask_NS = sentence_bytes(sentences, self.positions_SD.device)
        x = self.embed(ids_NS) * mask_NS[..., None]
        x = x + torch.relu(self.join(x.transpose(1, 2)).transpose(1, 2)) + self.positions_SD[: ids_NS.shape[1]]
        for block in self.blocks:
            x = block(x, mask_NS[:, None, None, :])
        x = self.norm(x)
        weight = mask_NS[..., None].to(x.dtype)
        return (x * weight).sum(dim=1) / weight.sum(dim=1)


class ClipText(TextTower):
    """CLIP's frozen text tower: the projected end-of-text feature, scaled to unit length as in GR-1."""

    def __init__(self, model: Any, tokenizer: Any):
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.width = int(model.config.projection_dim)
        self._kept: dict[str, Tensor] = {}
        self._kept_for: object = None
        self.adapted = False
        """Whether adapters inside are trained (`foreact.vla.lora`)."""

    def adapt(self, adapted: bool) -> None:
        """Say whether adapters stand inside; what was kept without, or with them, is forgotten."""
        self.adapted, self._kept, self._kept_for = adapted, {}, None

    def train(self, mode: bool = True) -> ClipText:
        """Stays in evaluation mode: the tower is frozen."""
        return super().train(False)

    def forward(self, sentences: Sequence[str]) -> Tensor:
        """Vectors (N, D), each computed once: the tower is frozen, and a data set has few different sentences.

        A sentence is computed by itself, so that its vector does not depend on which others came with it. What was
        computed is forgotten when weights, device or arithmetic change. Adapters in training keep nothing.
        """
        if self.adapted and torch.is_grad_enabled():
            return torch.stack([self._embed([sentence])[0] for sentence in sentences])
        weights = list(self.model.parameters())
        device = weights[0].device
        arithmetic = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
        valid_for = (device, arithmetic, weights[0].dtype, [weight._version for weight in weights])
        if valid_for != self._kept_for or len(self._kept) > MAX_KEPT:
            self._kept, self._kept_for = {}, valid_for
        for sentence in sentences:
            if sentence not in self._kept:
                self._kept[sentence] = self._embed([sentence])[0]
        return torch.stack([self._kept[sentence] for sentence in sentences])

    def _embed(self, sentences: Sequence[str]) -> Tensor:
        device = next(self.model.parameters()).device
        longest = self.model.config.max_position_embeddings
        tokens = self.tokenizer(
            list(sentences), padding=True, truncation=True, max_length=longest, return_tensors="pt"
        ).to(device)
        return self.embed_tokens(tokens["input_ids"], tokens["attention_mask"])

    def embed_tokens(self, tokens_NS: Tensor, mask_NS: Tensor | None = None) -> Tensor:
        """Sentence vectors (N, D) of unit length from tokens (N, S); attention is causal, so padding on the right
        changes nothing."""
        with torch.set_grad_enabled(self.adapted and torch.is_grad_enabled()):
            vectors = self.model(input_ids=tokens_NS, attention_mask=mask_NS).text_embeds.float()
        return vectors / (vectors.norm(dim=-1, keepdim=True) + 1e-6)

    def files(self) -> dict[str, bytes]:
        """Tokenizer and config files, from which `from_files` builds the tower without weights."""
        with tempfile.TemporaryDirectory() as folder:
            self.tokenizer.save_pretrained(folder)
            self.model.config.save_pretrained(folder)
            return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir()) if path.is_file()}

    @classmethod
    def from_files(cls, folder: Path) -> ClipText:
        """The tower with unset weights, offline."""
        from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

        config = CLIPTextConfig.from_pretrained(folder, local_files_only=True)
        return cls(CLIPTextModelWithProjection(config), CLIPTokenizer.from_pretrained(folder, local_files_only=True))


def clip_text_weights(original: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The text tower of OpenAI's CLIP (openai/CLIP, MIT: clip/model.py) under the names that transformers uses.

    Args:
        original: State dict of the whole model; the image tower and the temperature are left out.
    """
    names = {
        "token_embedding.weight": "embeddings.token_embedding.weight",
        "positional_embedding": "embeddings.position_embedding.weight",
        "ln_final.weight": "final_layer_norm.weight",
        "ln_final.bias": "final_layer_norm.bias",
    }
    parts = {
        "attn.out_proj": "self_attn.out_proj", "ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
    }  # fmt: skip
    weights = {"text_projection.weight": original["text_projection"].T.contiguous()}
    weights |= {f"text_model.{ours}": original[theirs] for theirs, ours in names.items()}
    for name, tensor in original.items():
        if not name.startswith("transformer.resblocks."):
            continue
        number, part = name.removeprefix("transformer.resblocks.").split(".", 1)
        layer = f"text_model.encoder.layers.{number}"
        module, _, kind = part.rpartition(".")
        if part.startswith("attn.in_proj_"):
            kind = part.removeprefix("attn.in_proj_")
            for which, third in zip("qkv", tensor.chunk(3), strict=True):
                weights[f"{layer}.self_attn.{which}_proj.{kind}"] = third.clone()
        else:
            weights[f"{layer}.{parts[module]}.{kind}"] = tensor
    return weights


def build_text(name: str, *, width: int, depth: int, heads: int, folder: str = "") -> TextTower:
    """The tower called `name`: one of `TOWERS`.

    Args:
        name: "small", "distilled" or "clip".
        width: Width of "small", and of what the adapter of "distilled" makes; CLIP brings its own.
        depth: Transformer blocks of "small".
        heads: Attention heads of "small".
        folder: Local folder of CLIP; empty for the hub.

    Raises:
        ConfigError: If there is no such tower, or its weights cannot be had.
    """
    if name == "small":
        return SmallText(width=width, depth=depth, heads=heads)
    if name == "distilled":
        from foreact.vla.text_distilled import ASSET, DistilledText

        return DistilledText.from_files(ASSET.parent, width)
    if name != "clip":
        raise ConfigError(f"no text tower {name!r}; {did_you_mean(name, TOWERS)}")
    source = folder or CLIP_HUB_NAME
    try:
        from transformers import CLIPTextModelWithProjection, CLIPTokenizer

        model = CLIPTextModelWithProjection.from_pretrained(source, use_safetensors=True)
        return ClipText(model, CLIPTokenizer.from_pretrained(source))
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(
            f"text tower 'clip' could not be loaded from {source}: {str(error).splitlines()[0]}\n"
            f"Download {CLIP_HUB_NAME} into a folder and name it with policy.text_folder=DIR, or use policy.text=small."
        ) from error


def text_from_files(name: str, folder: Path, *, width: int) -> TextTower | None:
    """The tower called `name` with unset weights, from what its `files` said; None for "small", which needs no files.

    Args:
        name: One of `TOWERS`.
        folder: Where a checkpoint keeps the tower's files.
        width: As in `build_text`.

    Raises:
        ConfigError: If a file is missing or damaged, or there is no such tower.
    """
    if name == "small":
        return None
    if name == "distilled":
        from foreact.vla.text_distilled import DistilledText

        return DistilledText.from_files(folder, width)
    if name != "clip":
        raise ConfigError(f"no text tower {name!r}; {did_you_mean(name, TOWERS)}")
    return ClipText.from_files(folder)
