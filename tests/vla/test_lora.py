"""Adapters on frozen towers, with tiny towers of random weights built here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from foreact.commands.main import app, run
from foreact.policies.gr1.foreact import ForeAct
from foreact.policies.gr1.foreact_config import ForeActConfig
from foreact.vla.actors import load_checkpoint_actor
from foreact.vla.checkpoint import load_policy, save_policy
from foreact.vla.errors import ConfigError
from foreact.vla.lora import Lora, add_lora, merge_lora
from foreact.vla.runtime import StreamingActor
from foreact.vla.text import ClipText
from foreact.vla.training.synthetic import SyntheticWindows, synthetic_contract
from foreact.vla.vision import PretrainedVision

pytest.importorskip("peft", reason="needs peft: pip install '.[lora]'")

SIZES: dict[str, Any] = dict(
    history=2, history_stride=1, foresight_steps=2, chunk=2, execute_steps=1, width=16, layers=1, heads=2,
    visual_count=1, resampler_heads=1, resampler_head_width=8, image_queries=1, decoder_width=8, decoder_layers=1,
    decoder_heads=2,
)  # fmt: skip
STATISTICS = {"state": {"mean": [0.1, 0.2, 0.3], "std": [1.0, 2.0, 3.0]}}
CONTRACT = synthetic_contract({"eye": (16, 16)})


def _vision(family: str) -> Any:
    import transformers as hf

    torch.manual_seed(0)
    sizes: dict[str, Any] = dict(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8
    )
    if family == "mae":
        return hf.ViTMAEModel(hf.ViTMAEConfig(**sizes, intermediate_size=32, mask_ratio=0.0))
    if family == "dino":
        return hf.Dinov2Model(hf.Dinov2Config(**sizes))
    return hf.ViTModel(hf.ViTConfig(**sizes, intermediate_size=32))


def _text(folder: Path) -> ClipText:
    """CLIP's tower and tokenizer, as small as they get."""
    import transformers as hf
    from transformers.models.clip.tokenization_clip import CLIPTokenizer

    folder.mkdir()
    letters = [*"abcdefghijklmnopqrstuvwxyz", *(f"{c}</w>" for c in "abcdefghijklmnopqrstuvwxyz")]
    words = ["<|startoftext|>", "<|endoftext|>", *letters]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    torch.manual_seed(1)
    config = hf.CLIPTextConfig(
        vocab_size=len(words), hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=32, projection_dim=16, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    return ClipText(hf.CLIPTextModelWithProjection(config), CLIPTokenizer.from_pretrained(folder))


def _policy(tmp_path: Path, **more: Any) -> ForeAct:
    text = _text(tmp_path / "clip") if not (tmp_path / "clip").exists() else None
    config = ForeActConfig(**{**SIZES, "vision": "vit", "text": "clip", "lora_rank": 2, **more})
    vision = PretrainedVision(_vision(config.vision))
    torch.manual_seed(2)
    return ForeAct(config, CONTRACT, STATISTICS, vision=vision, text=text)


def _step(policy: Any) -> dict[str, torch.Tensor]:
    """A few optimiser steps; returns the losses."""
    batches = SyntheticWindows(policy.config, CONTRACT, batch_size=4, seed=0)
    optimizer = torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad], lr=1e-2)
    losses: dict[str, torch.Tensor] = {}
    policy.train()
    for number in range(3):
        optimizer.zero_grad()
        losses = policy.loss(batches.batch_at(number))
        losses["total"].backward()
        optimizer.step()
    policy.eval()
    return losses


# peft's wrapper, which serves as the reference here, asks transformers by an older name.
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")
@pytest.mark.parametrize("family", ["mae", "dino", "vit"])
def test_merged_the_numbers_are_the_same(family: str) -> None:
    from peft import LoraConfig, get_peft_model

    tower = PretrainedVision(_vision(family))
    pixels = torch.rand(2, 3, 16, 16)
    plain = tower(pixels)[0]
    assert add_lora(tower.model, Lora(rank=4, alpha=8.0)) == 4
    tower.adapt(True)
    torch.testing.assert_close(tower(pixels)[0], plain, rtol=0, atol=0)  # new adapters change nothing
    torch.manual_seed(5)
    for name, parameter in tower.model.named_parameters():
        assert parameter.requires_grad == ("lora_" in name), name
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    with torch.no_grad():
        adapted = tower(pixels)[0]
    assert (adapted - plain).abs().max() > 0.01

    # The same adapters in peft's own wrapper, merged by peft.
    layers = sorted({n.rsplit(".lora_", 1)[0] for n, _ in tower.model.named_parameters() if "lora_" in n})
    settings = LoraConfig(r=4, lora_alpha=8, target_modules=layers)
    theirs = get_peft_model(_vision(family), settings)
    own = tower.model.state_dict()
    theirs.load_state_dict({f"base_model.model.{name}": value for name, value in own.items()}, strict=True)
    reference = PretrainedVision(theirs.merge_and_unload())

    assert merge_lora(tower) == 4
    assert set(tower.model.state_dict()) == set(_vision(family).state_dict())
    torch.testing.assert_close(tower(pixels)[0], adapted, rtol=0, atol=1e-5)
    torch.testing.assert_close(tower(pixels)[0], reference(pixels)[0], rtol=0, atol=1e-6)


def test_only_adapters_and_the_policy_are_trained(tmp_path: Path) -> None:
    policy = _policy(tmp_path)
    before = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    losses = _step(policy)
    assert torch.isfinite(losses["total"])
    changed = {name for name, tensor in policy.state_dict().items() if not torch.equal(tensor, before[name])}
    towers = {name for name in changed if name.startswith(("vision.", "text."))}
    assert towers and all("lora_" in name for name in towers)
    assert {name.split(".")[0] for name in towers} == {"vision", "text"}
    adapters = [p for n, p in policy.named_parameters() if "lora_" in n]
    # 2 layers x (queries, values) x 2 towers x (A, B) of 32 x 2.
    assert len(adapters) == 16 and sum(p.numel() for p in adapters) == 16 * 64


def test_a_checkpoint_keeps_adapters_and_acts_merged(tmp_path: Path) -> None:
    policy = _policy(tmp_path)
    _step(policy)
    save_policy(policy, tmp_path / "kept")
    again = load_policy(tmp_path / "kept")
    assert again.config.lora_rank == 2
    for name, tensor in policy.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    assert [n for n, p in again.named_parameters() if p.requires_grad] == [
        n for n, p in policy.named_parameters() if p.requires_grad
    ]
    actor = load_checkpoint_actor(tmp_path / "kept")
    assert isinstance(actor, StreamingActor) and not any("lora_" in n for n, _ in actor.policy.named_parameters())
    images = {"eye": torch.randint(0, 255, (3, 16, 16, 3), dtype=torch.uint8)}
    state, known = torch.randn(3, 3), torch.ones(3, dtype=torch.bool)
    with torch.no_grad():
        for sentences in (["open it"], ["close", "it"]):
            torch.testing.assert_close(
                actor.policy.encode_text(sentences), again.encode_text(sentences), rtol=0, atol=1e-5
            )
        torch.testing.assert_close(
            actor.policy.encode_frames(images, state, known), again.encode_frames(images, state, known),
            rtol=0, atol=1e-5,
        )  # fmt: skip
    save_policy(actor.policy, tmp_path / "plain")
    assert load_policy(tmp_path / "plain").config.lora_rank == 0, "merged, it is a policy without adapters"


def test_kept_sentences_are_forgotten_when_adapters_change(tmp_path: Path) -> None:
    policy = _policy(tmp_path)
    first = policy.text(["open"]).detach().clone()
    _step(policy)
    with torch.no_grad():
        assert not torch.equal(policy.text(["open"]), first)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lora_rank": 4}, "are none: set policy.vision"),
        ({"lora_rank": -1}, "must be 0"),
        ({"lora_rank": 4, "lora_alpha": 0.0, "vision": "mae"}, "lora_alpha more than 0"),
        ({"lora_targets": "query"}, "without adapters: set policy.lora_rank"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ForeActConfig(**settings)


def test_layers_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no tower has a linear layer called quer; there are .*fc1"):
        _policy(tmp_path, lora_targets="quer")
    with pytest.raises(ConfigError, match="the smallest adapted layer has 32 rows"):
        add_lora(_vision("vit"), Lora(rank=33, alpha=16.0))


def test_one_tower_alone_can_be_adapted(tmp_path: Path) -> None:
    policy = _policy(tmp_path, lora_targets="fc1")
    assert {n.split(".")[0] for n, _ in policy.named_parameters() if "lora_" in n} >= {"text"}
    assert policy.text.adapted


def test_training_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _vision("vit").save_pretrained(tmp_path / "vit")
    words = ["experiment=debug", "policy.vision=vit", f"policy.vision_folder={tmp_path / 'vit'}", "trainer.max_steps=2"]
    assert run(app, ["train", *words, "policy.lora_rank=2", f"out={tmp_path / 'run'}"]) == 0
    weights = load_policy(tmp_path / "run/policy").state_dict()
    assert any("lora_B" in name and tensor.abs().max() > 0 for name, tensor in weights.items())
    capsys.readouterr()
    assert run(app, ["train", "experiment=debug", "policy.lora_rank=2", f"out={tmp_path / 'no'}"]) == 2
    assert "adapts pretrained towers" in capsys.readouterr().err
