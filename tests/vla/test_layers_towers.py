"""Text and vision towers, the pretrained ones built here with random weights and read back from a folder."""

from pathlib import Path
from typing import Any

import pytest
import torch

from foreact.vla.errors import ConfigError
from foreact.vla.text import SmallText, build_text, sentence_bytes
from foreact.vla.vision import PretrainedVision, SmallVision, build_vision


@pytest.mark.parametrize("sentence", ["push the button", "", "Öffne die Schublade", "打开抽屉", "🤖" * 128])
def test_any_sentence_runs(sentence: str) -> None:
    vector = SmallText(width=16, depth=1, heads=2)([sentence])
    assert vector.shape == (1, 16)
    assert torch.isfinite(vector).all()


def test_bytes_are_those_of_utf8() -> None:
    ids, mask = sentence_bytes(["Äb", ""])
    assert ids.tolist() == [[1 + 0xC3, 1 + 0xA4, 1 + ord("b")], [257, 0, 0]]
    assert mask.tolist() == [[True, True, True], [True, False, False]]


def test_the_order_of_words_matters_and_case_does_not() -> None:
    torch.manual_seed(0)
    text = SmallText(width=16, depth=1, heads=2)
    a, b, c = text(["left of right", "right of left", " LEFT of right "])
    assert not torch.allclose(a, b, atol=1e-4)
    torch.testing.assert_close(a, c, rtol=1e-5, atol=1e-6)


def test_a_sentence_does_not_depend_on_its_neighbours_in_the_batch() -> None:
    torch.manual_seed(0)
    text = SmallText(width=16, depth=2, heads=2)
    alone = text(["open"])[0]
    together = text(["open", "a much longer sentence stands beside it"])[0]
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-6)


def test_a_sentence_beyond_512_bytes_is_refused() -> None:
    with pytest.raises(ConfigError, match="513 bytes, at most 512"):
        SmallText(width=16, depth=1, heads=2)(["x" * 513])


def test_small_vision_sees_where_things_are() -> None:
    torch.manual_seed(0)
    tower = SmallVision((32, 48), width=32, depth=1, heads=2)
    pixels = torch.zeros(2, 3, 32, 48)
    pixels[1, :, 8:16, 8:16] = 1.0
    patches, summary = tower(pixels)
    assert patches.shape == (2, 24, 32)
    assert summary.shape == (2, 32)
    assert not torch.allclose(summary[0], summary[1], atol=1e-4)


def test_small_vision_refuses_sides_that_do_not_divide() -> None:
    with pytest.raises(ConfigError, match="multiples of 8, found 60x64"):
        SmallVision((60, 64))


def test_unknown_towers_are_named_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'dino'"):
        build_vision("dinno", (64, 64), width=32, depth=1, heads=2)
    with pytest.raises(ConfigError, match="did you mean 'clip'"):
        build_text("clp", width=32, depth=1, heads=2)


def test_a_missing_folder_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no folder .*nowhere; download facebook/vit-mae-base"):
        build_vision("mae", (64, 64), width=32, depth=1, heads=2, folder=str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="(?s)could not be loaded.*policy.text=small"):
        build_text("clip", width=32, depth=1, heads=2, folder=str(tmp_path))


def _save_tiny(name: str, folder: Path) -> None:
    import transformers as hf

    sizes: dict[str, Any] = dict(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=8
    )
    torch.manual_seed(0)
    if name == "mae":
        model = hf.ViTMAEModel(hf.ViTMAEConfig(**sizes, intermediate_size=32))
    elif name == "dino":
        model = hf.Dinov2Model(hf.Dinov2Config(**sizes))
    else:
        model = hf.ViTModel(hf.ViTConfig(**sizes, intermediate_size=32), add_pooling_layer=False)
    model.save_pretrained(folder)


@pytest.mark.parametrize(("name", "patches"), [("mae", 16), ("dino", 256), ("vit", 16)])
def test_pretrained_vision_is_frozen_repeatable_and_comes_back_from_its_files(
    name: str, patches: int, tmp_path: Path
) -> None:
    _save_tiny(name, tmp_path / "hub")
    tower = build_vision(name, (64, 64), width=99, depth=9, heads=9, folder=str(tmp_path / "hub"))
    assert isinstance(tower, PretrainedVision)
    tower.train()
    assert not any(p.requires_grad for p in tower.parameters())
    assert not tower.model.training
    pixels = torch.rand(2, 3, 64, 64)
    tokens, summary = tower(pixels)
    assert tokens.shape == (2, patches, 16)
    assert summary.shape == (2, 16)
    torch.testing.assert_close(tower(pixels)[0], tokens, rtol=0, atol=0)

    (tmp_path / "saved").mkdir()
    for file, content in tower.files().items():
        (tmp_path / "saved" / file).write_bytes(content)
    again = PretrainedVision.from_files(tmp_path / "saved")
    again.load_state_dict(tower.state_dict())
    torch.testing.assert_close(again(pixels)[0], tokens, rtol=0, atol=0)


def test_a_config_of_another_family_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ConfigError, match="family 'bert'"):
        PretrainedVision.from_files(tmp_path)
