"""A frozen text tower computes each sentence once, and again when its weights change."""

import torch
from transformers import BatchEncoding, CLIPTextConfig, CLIPTextModelWithProjection

from foreact.vla.text import ClipText


def _tower() -> tuple[ClipText, list[str]]:
    """A small CLIP that reads bytes, and the sentences that it has read."""
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=260, hidden_size=16, intermediate_size=32, projection_dim=8, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=32, eos_token_id=259, bos_token_id=258, pad_token_id=259,
    )  # fmt: skip
    read: list[str] = []

    def tokens(sentences: list[str], *, max_length: int, **_: object) -> BatchEncoding:
        read.extend(sentences)
        rows = [[258, *text.encode()[: max_length - 2], 259] for text in sentences]
        longest = max(map(len, rows))
        padded = torch.tensor([row + [259] * (longest - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        return BatchEncoding({"input_ids": padded, "attention_mask": mask})

    return ClipText(CLIPTextModelWithProjection(config), tokens), read


def test_each_sentence_is_read_once_and_alone() -> None:
    tower, read = _tower()
    first = tower(["open the drawer", "push", "open the drawer"])
    again = tower(["push", "lift"])
    assert read == ["open the drawer", "push", "lift"]
    assert torch.equal(first[0], first[2]) and torch.equal(first[1], again[0])
    assert not torch.allclose(first[0], first[1])
    other, _ = _tower()
    assert torch.equal(other(["push"])[0], again[0])
    torch.testing.assert_close(other._embed(["open the drawer", "push"]), first[:2])


def test_other_weights_or_arithmetic_are_never_answered_from_memory() -> None:
    tower, read = _tower()
    before = tower(["push"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = tower(["push"])
    assert not torch.equal(rounded, before)
    assert torch.equal(tower(["push"]), before)
    state = {name: value + 0.05 * torch.randn(value.shape) for name, value in tower.state_dict().items()}
    tower.load_state_dict(state)
    assert not torch.allclose(tower(["push"]), before)
    assert len(read) == 4
