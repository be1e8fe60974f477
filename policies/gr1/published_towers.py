"""Where the published GR-1's frozen towers come from: MAE's ViT-B/16 for pictures, CLIP ViT-B/32 for sentences."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from foreact.policies.gr1.published_config import PublishedGR1Config
from foreact.policies.gr1.published_parts import MaeEncoder
from foreact.vla.checkpoint import CheckpointError, read_tensors
from foreact.vla.errors import ConfigError
from foreact.vla.files import verify_folder
from foreact.vla.text import ClipText, SmallText, TextTower

_MAE, _TEXT = "model_mae.", "text."


def build_towers(config: PublishedGR1Config, mae: MaeEncoder | None) -> TextTower:
    """Fill `mae` (unless it is None) and return the text tower, both from `config.towers`.

    Raises:
        ConfigError: If it names nothing, or something that has no such towers.
    """
    if config.towers == "random":
        return small_text(config.text_width)
    if not config.towers:
        raise ConfigError(
            "gr1_published needs its frozen towers: policy.towers=DIR, the folder of a checkpoint that has them "
            "(`foreact convert-checkpoint` writes one), or policy.towers=random for a quick test"
        )
    folder = Path(config.towers)
    verify_folder(folder)
    weights = read_tensors(folder / "model.safetensors")
    if mae is not None:
        _load(mae, {name.removeprefix(_MAE): t for name, t in weights.items() if name.startswith(_MAE)}, folder)
    if not (folder / "text").is_dir():
        raise ConfigError(f"policy.towers={folder}: there is no text tower in it; take a converted checkpoint")
    text = ClipText.from_files(folder / "text")
    _load(text, {name.removeprefix(_TEXT): t for name, t in weights.items() if name.startswith(_TEXT)}, folder)
    return text


def _load(module: MaeEncoder | TextTower, weights: dict[str, Tensor], folder: Path) -> None:
    try:
        module.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:3]]
        raise CheckpointError(f"policy.towers={folder} has no towers of these sizes: {' '.join(lines)}") from error


def small_text(width: int) -> TextTower:
    """The stand-in for CLIP of `towers=random`: reads bytes, so it needs no vocabulary."""
    return SmallText(width=width, depth=1, heads=4)
