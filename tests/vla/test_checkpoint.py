"""Checkpoint folders: nothing is lost, nothing damaged is loaded, nothing half written is seen."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foreact.policies.gr1.foreact import ForeAct
from foreact.policies.gr1.foreact_config import ForeActConfig
from foreact.vla.checkpoint import CheckpointError, load_policy, save_policy, to_json
from foreact.vla.contract import ContractError
from foreact.vla.errors import ConfigError, ForeActError
from foreact.vla.files import DamagedFolder, sweep, verify_folder, write_folder
from foreact.vla.registry import policy_class, policy_names
from foreact.vla.training.synthetic import synthetic_contract

SIZES: dict[str, Any] = dict(
    chunk=2, execute_steps=1, width=16, layers=1, heads=2, vision_width=16, vision_heads=2, text_width=8, text_layers=1,
    text_heads=2, visual_count=1, resampler_heads=1, resampler_head_width=8, image_queries=1, decoder_width=8,
    decoder_layers=1, decoder_heads=2,
)  # fmt: skip
STATISTICS = {"state": {"mean": [0.1, 0.2, 0.3], "std": [1.0, 2.0, 3.0]}}


def _policy(**changes) -> ForeAct:
    torch.manual_seed(7)
    return ForeAct(ForeActConfig(**{**SIZES, **changes}), synthetic_contract({"eye": (16, 16)}), STATISTICS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    _policy().save_pretrained(tmp_path / "policy")
    return tmp_path / "policy"


def test_a_checkpoint_gives_the_same_policy_back(folder: Path) -> None:
    policy, again = _policy(), load_policy(folder)
    assert type(again) is ForeAct
    assert not again.training
    assert again.config == policy.config
    assert again.contract == policy.contract
    assert again.statistics == STATISTICS
    for name, tensor in policy.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    assert sorted(p.name for p in folder.iterdir()) == [
        "README.md", "config.json", "contract.yaml", "manifest.json", "model.safetensors", "statistics.json",
    ]  # fmt: skip


def test_saving_twice_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    load_policy(folder).save_pretrained(tmp_path / "again")
    for path in folder.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes(), path.name


def test_every_flipped_byte_is_found(folder: Path) -> None:
    rng = np.random.default_rng(0)
    flips = 0
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        for position in rng.integers(len(content), size=40):
            damaged = bytearray(content)
            damaged[position] ^= 1 << int(rng.integers(8))
            path.write_bytes(damaged)
            with pytest.raises(ForeActError):
                load_policy(folder)
            flips += 1
        path.write_bytes(content)
    assert flips == 240
    load_policy(folder)


@pytest.mark.parametrize(
    "name", ["config.json", "contract.yaml", "model.safetensors", "statistics.json", "manifest.json"]
)
def test_a_missing_or_cut_file_is_named(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    if name != "manifest.json":
        (folder / name).write_bytes(content[:-3])
        with pytest.raises(DamagedFolder, match=f"{name} has {len(content) - 3} bytes, {len(content)} were written"):
            load_policy(folder)
    (folder / name).unlink()
    with pytest.raises(DamagedFolder, match=f"(lacks|has no) {name}"):
        load_policy(folder)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DamagedFolder, match="nowhere does not exist"):
        load_policy(tmp_path / "nowhere")


def _rewrite(folder: Path, name: str, content: bytes) -> None:
    """Change a file so that the manifest agrees."""
    files = {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "manifest.json"}
    write_folder(folder, {**files, name: content})


def test_parts_that_do_not_fit_together_are_named(folder: Path) -> None:
    head = json.loads((folder / "config.json").read_text())
    _rewrite(folder, "config.json", to_json({**head, "config": {**head["config"], "layers": 2, "chunk": 3}}))
    with pytest.raises(
        CheckpointError, match=r"(?s)chunk_queries_KD has shape \(2, 16\), expected \(3, 16\).*lacks blocks.1"
    ):
        load_policy(folder)


def test_weights_of_a_larger_policy_are_refused(folder: Path, tmp_path: Path) -> None:
    _policy(layers=2).save_pretrained(tmp_path / "deep")
    _rewrite(folder, "model.safetensors", (tmp_path / "deep" / "model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match="has unknown blocks.1.attention.out.bias"):
        load_policy(folder)


def test_statistics_of_another_robot_are_refused(folder: Path) -> None:
    _rewrite(folder, "statistics.json", to_json({"state": {"mean": [0.1], "std": [1.0]}}))
    with pytest.raises(CheckpointError, match="statistics need 3 numbers"):
        load_policy(folder)
    _rewrite(folder, "statistics.json", to_json({"state": {"mean": [9.0, 0.2, 0.3], "std": [1.0, 2.0, 3.0]}}))
    with pytest.raises(CheckpointError, match="statistics.json is not what the weights were trained with"):
        load_policy(folder)


def test_other_formats_policies_and_contracts_are_refused(folder: Path) -> None:
    head = json.loads((folder / "config.json").read_text())
    _rewrite(folder, "config.json", to_json({**head, "format": 99}))
    with pytest.raises(CheckpointError, match="checkpoint format 99; this ForeAct reads 1"):
        load_policy(folder)
    _rewrite(folder, "config.json", to_json({**head, "policy": "os:system"}))
    with pytest.raises(ConfigError, match="no policy 'os:system'; known: foreact, .*gr1_published"):
        load_policy(folder)
    _rewrite(folder, "config.json", to_json({**head, "policy": "gr1"}))
    with pytest.raises(ConfigError, match="'gr1' is no longer part of ForeAct; its successor is 'foreact': take check"):
        load_policy(folder)
    _rewrite(folder, "config.json", b"[1, 2]")
    with pytest.raises(CheckpointError, match="expected an object, found list"):
        load_policy(folder)
    _rewrite(folder, "config.json", to_json(head))
    _rewrite(folder, "contract.yaml", b"version: 1\nembodiment: x\n")
    with pytest.raises(ContractError, match="not a valid contract"):
        load_policy(folder)


def test_a_file_that_is_no_safetensors_is_refused(folder: Path) -> None:
    _rewrite(folder, "model.safetensors", b"\x80\x04nothing to unpickle here")
    with pytest.raises(DamagedFolder, match="is not a safetensors file"):
        load_policy(folder)


def test_a_manifest_cannot_point_outside(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["../secret"] = {"bytes": 0, "sha256": ""}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DamagedFolder, match="outside of the folder"):
        verify_folder(folder)


def test_from_pretrained_of_another_class_says_so(folder: Path) -> None:
    class Other(ForeAct):
        name = "other"

    with pytest.raises(CheckpointError, match="holds a 'foreact' policy, not 'other'"):
        Other.from_pretrained(folder)
    assert isinstance(ForeAct.from_pretrained(folder), ForeAct)


def test_the_registry_knows_its_names() -> None:
    assert policy_class("foreact") is ForeAct
    assert {"foreact", "gr1_published"} <= set(policy_names()) and "gr1" not in policy_names()
    with pytest.raises(ConfigError, match="did you mean 'foreact'"):
        policy_class("foract")


def test_pretrained_towers_travel_with_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frozen CLIP and MAE with random weights; the folder they came from is gone when the checkpoint is read."""
    import transformers as hf

    torch.manual_seed(0)
    sizes: dict[str, Any] = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    hf.ViTMAEModel(hf.ViTMAEConfig(**sizes, image_size=16, patch_size=8)).save_pretrained(tmp_path / "mae")
    letters = [*"abcdefghijklmnopqrstuvwxyz", *(f"{c}</w>" for c in "abcdefghijklmnopqrstuvwxyz")]
    vocab = {word: i for i, word in enumerate([*letters, "<|startoftext|>", "<|endoftext|>"])}
    clip = hf.CLIPTextConfig(
        **sizes, vocab_size=len(vocab), projection_dim=8, max_position_embeddings=77,
        bos_token_id=vocab["<|startoftext|>"], eos_token_id=vocab["<|endoftext|>"],
    )  # fmt: skip
    hf.CLIPTextModelWithProjection(clip).save_pretrained(tmp_path / "clip")
    (tmp_path / "clip" / "vocab.json").write_text(json.dumps(vocab))
    (tmp_path / "clip" / "merges.txt").write_text("#version: 0.2\n")
    hf.CLIPTokenizer.from_pretrained(tmp_path / "clip").save_pretrained(tmp_path / "clip")

    policy = _policy(vision="mae", vision_folder=str(tmp_path / "mae"), text="clip", text_folder=str(tmp_path / "clip"))
    assert all(not name.startswith(("vision", "text")) for name, p in policy.named_parameters() if p.requires_grad)
    policy.save_pretrained(tmp_path / "policy")
    for name in ("mae", "clip"):
        (tmp_path / name).rename(tmp_path / f"{name}_gone")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    again = load_policy(tmp_path / "policy")
    sentences = ["open the drawer", "close it", ""]
    torch.testing.assert_close(again.encode_text(sentences), policy.eval().encode_text(sentences), rtol=0, atol=0)
    assert not torch.allclose(again.encode_text(["open"]), again.encode_text(["close"]), atol=1e-5)


_WRITER = """
import sys
from pathlib import Path
from foreact.vla.files import write_folder
number = 0
while True:
    number += 1
    content = str(number).encode() * 20000
    write_folder(Path(sys.argv[1]), {"a": content, "sub/b": content})
    print(number, flush=True)
"""


def test_a_killed_writer_leaves_the_old_or_the_new_folder_whole(tmp_path: Path) -> None:
    """Killed at random instants: what is found is complete, and never older than what was said to be written."""
    target = tmp_path / "folder"
    rng = np.random.default_rng(int.from_bytes(os.urandom(4), "little"))
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    for _ in range(8):
        child = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(target)], stdout=subprocess.PIPE, text=True, env=env
        )
        assert child.stdout is not None
        said = int(child.stdout.readline())
        time.sleep(float(rng.uniform(0, 0.05)))
        child.send_signal(signal.SIGKILL)
        said = max([said, *(int(line) for line in child.stdout.read().split())])
        child.stdout.close()
        child.wait()
        sweep(tmp_path)
        assert verify_folder(target) == ["a", "sub/b"]
        content = (target / "a").read_bytes()
        assert (target / "sub/b").read_bytes() == content
        found = int(content[: len(content) // 20000])
        assert found in (said, said + 1)
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_a_full_disk_is_one_clear_error_and_the_old_folder_stays(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_path: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(ForeActError, match="No space left on device; what was there before is unchanged"):
        write_folder(folder, {"model.safetensors": full})
    load_policy(folder)
    assert [p.name for p in folder.parent.iterdir()] == ["policy"]


def test_saving_over_a_checkpoint_replaces_it(folder: Path) -> None:
    policy = load_policy(folder)
    with torch.no_grad():
        next(policy.parameters()).add_(1.0)
    save_policy(policy, folder)
    assert torch.equal(next(load_policy(folder).parameters()), next(policy.parameters()))


FIXTURE = Path(__file__).parent / "fixtures" / "checkpoint_v1"
"""A policy folder as format version 1 wrote it, and what that policy answered; both must hold for ever.
Written once by `_policy().save_pretrained(FIXTURE)`, and rid of what was added later (model card, settings of
adapters); a new format version gets a fixture of its own beside it."""


def test_the_fixture_of_format_version_1_opens_and_answers_as_it_did() -> None:
    policy = load_policy(FIXTURE)
    expected = json.loads((FIXTURE.parent / "checkpoint_v1_answer.json").read_text())
    plan = policy.plan(*fixture_input(policy), ["open the drawer"], foresight=True)
    assert plan.foresight is not None
    np.testing.assert_allclose(plan.actions, expected["actions"], atol=1e-5)
    assert {name: float(frames.mean()) for name, frames in plan.foresight.items()} == pytest.approx(
        expected["foresight_means"], abs=0.5
    )


def fixture_input(policy: Any) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor, torch.Tensor]:
    """One window of ramps: images, state, and both masks."""
    frames = policy.config.history
    images = {
        camera.name: torch.arange(frames * camera.height * camera.width * 3)
        .remainder(251)
        .to(torch.uint8)
        .reshape(1, frames, camera.height, camera.width, 3)
        for camera in policy.contract.cameras
    }
    state = torch.linspace(-1, 1, frames * policy.contract.state_size).reshape(1, frames, -1)
    exists = torch.ones(1, frames, dtype=torch.bool)
    return images, state, exists, exists
