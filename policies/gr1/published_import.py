"""Published weights of the GR-1 family become a checkpoint folder, offline; `foreact convert-checkpoint` runs it.

The file of strangers is read by `published_unpack` in a confined process, its kind named and every tensor checked by
`published_kinds`. Frozen towers come out of the file if it has them, else from where the caller says.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from foreact.policies.gr1 import published_unpack
from foreact.policies.gr1.published import PublishedGR1
from foreact.policies.gr1.published_card import model_card
from foreact.policies.gr1.published_config import PublishedGR1Config
from foreact.policies.gr1.published_kinds import Family, WrongWeights, check, config_of, recognise
from foreact.policies.gr1.published_towers import build_towers
from foreact.vla.checkpoint import policy_files, read_tensors
from foreact.vla.contract import Camera, Contract, Field
from foreact.vla.errors import ConfigError, ForeActError
from foreact.vla.files import sha256_of, write_folder
from foreact.vla.text import ClipText, build_text, clip_text_weights

TIMEOUT_S = 600.0
_MAE, _CLIP = "model_mae.", "model_clip."


class ForeignFileError(ForeActError):
    """A checkpoint of strangers cannot be read."""


@dataclass(frozen=True)
class Converted:
    """What became of a file."""

    title: str
    """Which of the published files it was."""
    sha256: str
    taken: int
    """Tensors that the network took from it, towers included."""
    ignored: list[str]
    """Tensors that it has and the network has not."""
    towers: list[str]
    """Where each tower came from."""
    trainable: int
    """Parameters of the network that training changes."""


def convert_checkpoint(
    source: Path,
    target: Path,
    *,
    towers: Path | None = None,
    clip: Path | None = None,
    mae: Path | None = None,
    base: PublishedGR1Config | None = None,
    timeout_s: float = TIMEOUT_S,
) -> Converted:
    """Read `source` and write the checkpoint folder `target`.

    Args:
        source: A file of one of the kinds of `published_kinds`.
        target: Folder to write; it must not exist yet.
        towers: A converted checkpoint, or any of ours that has CLIP and MAE, to take both towers from.
        clip: Folder of CLIP ViT-B/32 as transformers keeps it: the tokenizer, and weights unless the file has them.
        mae: MAE's own file (mae_pretrain_vit_base.pth), unless the source has it.
        base: Sizes that a file does not tell; by default those of the released weights.
        timeout_s: How long reading a file may take.

    Raises:
        ForeignFileError: If a file cannot be read as plain tensors.
        WrongWeights: If they are not those of a published network.
        ConfigError: If a tower is neither in the file nor named, or `target` exists.
    """
    if target.exists():
        raise ConfigError(f"{target} exists already; name a new folder")
    tensors = read_foreign(source, target.parent, timeout_s)
    family = recognise(tensors, str(source))
    config = config_of(family, base or PublishedGR1Config())
    clip_part = {n.removeprefix(_CLIP): t for n, t in family.weights.items() if n.startswith(_CLIP)}
    rest = {name: tensor for name, tensor in family.weights.items() if not name.startswith(_CLIP)}
    has_clip = any(not name.startswith(("visual.", "logit_scale")) for name in clip_part)
    has_mae = any(name.startswith(_MAE) for name in rest)

    contract = calvin_contract()
    if family.kind == "grmg_video":
        cameras = contract.cameras[:1]
        contract = contract.model_copy(update={"cameras": cameras, "state": (), "action": (), "gripper": "none"})
    policy = PublishedGR1(config, contract, {}, text=_text_tower(config, towers, clip, clip_part if has_clip else {}))
    own = {name: tensor for name, tensor in policy.state_dict().items() if not name.startswith("text.")}
    if family.kind == "mae":
        own = {name: tensor for name, tensor in own.items() if name.startswith(_MAE)}
    expected = {name: tensor for name, tensor in own.items() if has_mae or not name.startswith(_MAE)}
    taken, ignored = check(Family(family.kind, rest), expected, str(source))
    ignored += [f"{_CLIP}{name}" for name in clip_part if name.startswith(("visual.", "logit_scale"))]

    origin = "the file itself"
    places = [f"text (CLIP): {origin if has_clip else towers or clip}"]
    if not has_mae:
        taken |= _mae_weights(config, policy, towers, mae, target.parent, timeout_s)
    places.append(f"pictures (MAE): {origin if has_mae else towers or mae}")
    taken.setdefault("transformer.wte.weight", torch.zeros_like(policy.transformer.wte.weight))
    if family.kind == "mae":
        taken = {**{name: tensor.detach() for name, tensor in policy.state_dict().items()}, **taken}
    else:
        taken |= {f"text.{name}": tensor for name, tensor in policy.text.state_dict().items()}
    policy.load_state_dict(taken, strict=True)

    converted = Converted(
        title=family.title,
        sha256=sha256_of(source),
        taken=len(expected) + (len(clip_part) if has_clip else 0),
        ignored=sorted(ignored),
        towers=places,
        trainable=sum(parameter.numel() for parameter in policy.parameters() if parameter.requires_grad),
    )
    card = model_card(family.kind, source.name, converted)
    write_folder(target, {**policy_files(policy), "README.md": card.encode()})
    return converted


# --- towers -----------------------------------------------------------------------------------------------------------


def _text_tower(
    config: PublishedGR1Config, towers: Path | None, clip: Path | None, original: Mapping[str, Tensor]
) -> ClipText:
    """CLIP's text tower with weights; those of the file, `original`, win.

    Raises:
        ConfigError: If there is no tokenizer, or no weights.
        WrongWeights: If the file's part is not CLIP's.
    """
    if towers is not None:
        tower = build_towers(dataclasses.replace(config, towers=str(towers)), None)
    elif clip is not None:
        if not clip.is_dir():
            raise ConfigError(
                f"--clip {clip}: no such folder; it must hold openai/clip-vit-base-patch32 as transformers keeps it"
            )
        tower = build_text("clip", width=0, depth=0, heads=0, folder=str(clip))
    else:
        raise ConfigError(
            "CLIP's tokenizer is in none of these files (and most lack its weights): download "
            "openai/clip-vit-base-patch32 (MIT licence) into a folder and name it with --clip FOLDER"
        )
    if not isinstance(tower, ClipText) or tower.width != config.text_width:
        raise ConfigError(f"{towers or clip} has no CLIP text tower of width {config.text_width}")
    if original:
        try:
            weights = clip_text_weights({name: tensor.float() for name, tensor in original.items()})
            tower.model.load_state_dict(weights, strict=True)
        except (KeyError, RuntimeError) as error:
            lines = "\n".join(f"  - {line.strip()}" for line in str(error).splitlines()[:40])
            raise WrongWeights(f"the file's model_clip is not CLIP ViT-B/32:\n{lines}") from error
    return tower


def _mae_weights(
    config: PublishedGR1Config, policy: PublishedGR1, towers: Path | None, mae: Path | None, stage: Path,
    timeout_s: float,
) -> dict[str, Tensor]:  # fmt: skip
    """MAE's weights by our names.

    Raises:
        ConfigError: If nobody said where they are.
        WrongWeights: If the file is another.
    """
    if towers is not None:
        build_towers(dataclasses.replace(config, towers=str(towers)), policy.model_mae)
        return {f"{_MAE}{name}": tensor.clone() for name, tensor in policy.model_mae.state_dict().items()}
    if mae is None:
        raise ConfigError(
            "the file lacks MAE's picture encoder: download mae_pretrain_vit_base.pth "
            "(https://github.com/facebookresearch/mae; licence CC BY-NC 4.0, not for commercial use) and name it with "
            "--mae FILE, or name a converted checkpoint with --towers DIR"
        )
    family = recognise(read_foreign(mae, stage, timeout_s), str(mae))
    if family.kind != "mae":
        raise WrongWeights(f"--mae {mae} is {family.title}, expected MAE's encoder (mae_pretrain_vit_base.pth)")
    expected = {f"{_MAE}{name}": tensor for name, tensor in policy.model_mae.state_dict().items()}
    return check(family, expected, str(mae))[0]


# --- files of strangers -----------------------------------------------------------------------------------------------


def read_foreign(source: Path, stage: Path, timeout_s: float = TIMEOUT_S) -> dict[str, Tensor]:
    """Tensors of a PyTorch file by name, read by another process that can do little else.

    Args:
        source: The file.
        stage: Folder in which a temporary copy may be made.
        timeout_s: How long that may take.

    Raises:
        ForeignFileError: Naming the file and what is wrong with it.
    """
    if not source.is_file():
        raise ForeignFileError(f"{source} is {'a folder' if source.is_dir() else 'not there'}; expected a .pt file")
    stage.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=stage, prefix=".foreign-") as folder:
        plain = Path(folder) / "tensors.safetensors"
        command = [sys.executable, "-I", "-B", published_unpack.__file__, str(source.resolve()), str(plain.resolve())]
        keep = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "HOME") if name in os.environ}
        try:
            done = subprocess.run(
                command, capture_output=True, timeout=timeout_s, env={**keep, "OMP_NUM_THREADS": "1"}, cwd=folder
            )
        except subprocess.TimeoutExpired as error:
            raise ForeignFileError(f"{source}: reading it took longer than {timeout_s:g} s and was stopped") from error
        try:
            answer = json.loads(done.stdout.decode(errors="replace").strip().splitlines()[-1])
        except (ValueError, IndexError):
            last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
            raise ForeignFileError(
                f"{source}: reading it ended with status {done.returncode}: {' '.join(last)[:200]}"
            ) from None
        if "error" in answer:
            raise ForeignFileError(f"{source}: {answer['error']}")
        return read_tensors(plain)


def calvin_contract() -> Contract:
    """What the published policy requires: CALVIN's Panda, its cameras in their sizes, relative actions
    (mees/calvin_env, MIT; the policy's inputs: bytedance/GR-1, evaluation/calvin_evaluation.py)."""
    euler = "euler_xyz"
    return Contract(
        embodiment="panda_long_finger",
        rate_hz=30.0,
        cameras=(
            Camera(name="rgb_static", height=200, width=200),
            Camera(name="rgb_gripper", height=84, width=84),
        ),
        state=(
            Field(name="tcp_position", size=3, unit="m", frame="world"),
            Field(name="tcp_euler", size=3, unit="rad", frame="world", rotation=euler),
            Field(name="gripper_command", size=1, unit="1", low=-1.0, high=1.0),
        ),
        action=(
            Field(name="delta_position", size=3, unit="0.02 m", frame="world", low=-1, high=1, relative=True),
            Field(
                name="delta_euler", size=3, unit="0.05 rad", frame="world", low=-1, high=1, rotation=euler,
                relative=True,
            ),
            Field(name="gripper", size=1, unit="1", low=-1.0, high=1.0),
        ),
        gripper="+1 open, -1 close",
    )  # fmt: skip
