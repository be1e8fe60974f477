"""The text tower `distilled`: understands words that no demonstration used, in 6 MB, offline.

A sentence is cut into word pieces; each has a frozen vector, taken from MiniLM's table. The sentence's vector has two
parts: the mean of its pieces' vectors, which keeps every word, and what two small transformer blocks make of them,
which knows who does what to whom. Those blocks were trained once, by `scripts/distil_text.py`, to agree with MiniLM's
sentence vectors and to tell the meanings of made-up requests apart. In a policy nothing of that changes: only an
adapter learns.

MiniLM: Wang et al., arXiv 2002.10957; weights sentence-transformers/all-MiniLM-L6-v2, Apache-2.0. See docs/language.md.

Shape legend: N sentences, S word pieces, V pieces of the vocabulary, P width of a piece, W width of the blocks.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from foreact.vla.errors import ConfigError
from foreact.vla.layers import Block
from foreact.vla.text import MAX_KEPT, TextTower

ASSET = Path(__file__).with_name("assets") / "text_distilled.safetensors"
MAX_PIECES = 64
"""Word pieces of a sentence that are read."""
MAX_LETTERS = 100
"""A longer word is unknown, as in BERT."""
HEADS = 4
UNKNOWN = "[UNK]"


def split_words(sentence: str) -> list[str]:
    """Words and punctuation marks in lower case without accents, as BERT's uncased tokeniser splits them
    (google-research/bert, tokenization.py, Apache-2.0)."""
    text: list[str] = []
    for letter in unicodedata.normalize("NFD", sentence.lower()):
        kind = unicodedata.category(letter)
        if kind == "Mn" or letter in "\0\ufffd" or (kind[0] == "C" and letter not in "\t\n\r"):
            continue
        alone = kind[0] == "P" or letter in "$+<=>^`|~" or _is_chinese(ord(letter))
        text.append(f" {letter} " if alone else letter)
    return "".join(text).split()


def _is_chinese(code: int) -> bool:
    """Ideographs, each of which stands alone; the ranges are BERT's."""
    return (
        0x4E00 <= code <= 0x9FFF or 0x3400 <= code <= 0x4DBF or 0x20000 <= code <= 0x2A6DF
        or 0x2A700 <= code <= 0x2CEAF or 0xF900 <= code <= 0xFAFF or 0x2F800 <= code <= 0x2FA1F
    )  # fmt: skip


class WordPieces:
    """Greedy longest-match pieces of words (WordPiece: Schuster and Nakajima, 2012), numbered by the vocabulary."""

    def __init__(self, vocabulary: Sequence[str]):
        self.numbers = {piece: number for number, piece in enumerate(vocabulary)}
        self.unknown = self.numbers[UNKNOWN]

    def word(self, word: str) -> list[int]:
        """The pieces of one word, or the unknown one alone."""
        pieces: list[int] = []
        start = 0
        while start < len(word) <= MAX_LETTERS:
            mark = "##" if start else ""
            ends = (end for end in range(len(word), start, -1) if mark + word[start:end] in self.numbers)
            end = next(ends, 0)
            if not end:
                return [self.unknown]
            pieces.append(self.numbers[mark + word[start:end]])
            start = end
        return pieces or [self.unknown]

    def __call__(self, sentence: str) -> list[int]:
        """Numbers of a sentence's pieces; an empty sentence is one unknown piece."""
        return [piece for word in split_words(sentence) for piece in self.word(word)] or [self.unknown]

    def batch(self, sentences: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Numbers (N, S), padded on the right with 0, and the mask of real ones (N, S)."""
        rows = [self(sentence)[:MAX_PIECES] for sentence in sentences]
        longest = max(map(len, rows))
        mask = torch.tensor([[position < len(row) for position in range(longest)] for row in rows])
        return torch.tensor([row + [0] * (longest - len(row)) for row in rows]), mask


class SentenceBlocks(nn.Module):
    """Vectors of pieces (N, S, P) to one vector per sentence (N, W): two transformer blocks, then the mean."""

    def __init__(self, piece_width: int, width: int, depth: int):
        super().__init__()
        self.embed = nn.Linear(piece_width, width)
        self.positions_SW = nn.Parameter(torch.randn(MAX_PIECES, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, HEADS) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, pieces_NSP: Tensor, mask_NS: Tensor) -> Tensor:
        x = self.embed(pieces_NSP) + self.positions_SW[: pieces_NSP.shape[1]]
        for block in self.blocks:
            x = block(x, mask_NS[:, None, None, :])
        return masked_mean(self.norm(x), mask_NS)


def masked_mean(x_NSD: Tensor, mask_NS: Tensor) -> Tensor:
    """Mean over the real pieces, (N, D)."""
    weight = mask_NS[..., None].to(x_NSD.dtype)
    return (x_NSD * weight).sum(dim=1) / weight.sum(dim=1)


class SentenceEncoder(nn.Module):
    """The frozen part: sentences to vectors (N, P + W), every number of which has about mean 0 and spread 1."""

    def __init__(self, tensors: Mapping[str, Tensor]):
        """From the tensors of the asset; `scripts/distil_text.py` says what each one is."""
        super().__init__()
        self.pieces = WordPieces(bytes(tensors["vocabulary"].tolist()).decode().split("\n"))
        self.table_VP = tensors["table"].float() * tensors["table_scale"].float()[:, None]
        weights = {name.removeprefix("blocks."): value.float() for name, value in tensors.items()
                   if name.startswith("blocks.")}  # fmt: skip
        width, piece_width = weights["embed.weight"].shape
        depth = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
        self.blocks = SentenceBlocks(piece_width, width, depth)
        self.blocks.load_state_dict(weights)
        self.middle_D, self.spread_D = tensors["middle"].float(), tensors["spread"].float()
        self.eval().requires_grad_(False)

    @property
    def width(self) -> int:
        """P + W."""
        return len(self.middle_D)

    @torch.no_grad()
    def forward(self, sentences: Sequence[str]) -> Tensor:
        ids_NS, mask_NS = self.pieces.batch(sentences)
        pieces_NSP = self.table_VP[ids_NS]
        vectors_ND = torch.cat([masked_mean(pieces_NSP, mask_NS), self.blocks(pieces_NSP, mask_NS)], dim=1)
        return (vectors_ND - self.middle_D) / self.spread_D


class DistilledText(TextTower):
    """The frozen encoder, which stays on the CPU in float32 and outside the weights, and an adapter that learns.

    The encoder's file travels in the checkpoint (`files`), so nothing else is needed to build the tower again.
    """

    def __init__(self, asset: bytes, width: int = 0, source: str = "text tower 'distilled'"):
        """Args:
            asset: Content of `text_distilled.safetensors`.
            width: Length of a sentence's vector after the adapter, one affine layer; 0 for none.
            source: Where the asset came from, for messages.

        Raises:
            ConfigError: If the asset is damaged.
        """
        super().__init__()
        self._asset = asset
        try:
            encoder = SentenceEncoder(load(asset))
        except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
            raise ConfigError(f"{source} is no distilled text tower: {error}; fetch the file again") from error
        # In a tuple torch does not see it: it is no part of the weights, is never moved, cast, averaged or trained.
        self._frozen = (encoder,)
        self.width = width or encoder.width
        self.adapter = nn.Linear(encoder.width, width) if width else nn.Identity()
        self.register_buffer("_here", torch.empty(0), persistent=False)
        self._here: Tensor
        self._kept: dict[str, Tensor] = {}

    @property
    def encoder(self) -> SentenceEncoder:
        """The frozen part."""
        return self._frozen[0]

    def frozen(self, sentences: Sequence[str]) -> Tensor:
        """Vectors before the adapter, (N, P + W) float32 on the CPU, each computed once and by itself, so that it does
        not depend on which others came with it."""
        # What is kept while a policy acts (inference mode) must also serve it while it learns.
        with torch.inference_mode(False), torch.autocast("cpu", enabled=False):
            for sentence in sentences:
                if sentence not in self._kept:
                    if len(self._kept) >= MAX_KEPT:
                        self._kept.pop(next(iter(self._kept)))
                    self._kept[sentence] = self.encoder([sentence])[0]
        return torch.stack([self._kept[sentence] for sentence in sentences])

    def forward(self, sentences: Sequence[str]) -> Tensor:
        return self.adapter(self.frozen(sentences).to(self._here.device))

    def files(self) -> dict[str, bytes]:
        """The encoder's file, as it was read."""
        return {ASSET.name: self._asset}

    @classmethod
    def from_files(cls, folder: Path, width: int = 0) -> DistilledText:
        """The tower from what `files` returned; the adapter's weights are unset.

        Raises:
            ConfigError: If the file is missing or damaged.
        """
        path = folder / ASSET.name
        try:
            return cls(path.read_bytes(), width, source=str(path))
        except OSError as error:
            raise ConfigError(f"text tower 'distilled' cannot be read: {error}") from error
