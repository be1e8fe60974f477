"""GR-1's two stages as presets: films with captions, then demonstrations, on small real collections."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from foreact.commands.hydra_config import compose
from foreact.commands.main import app, run
from foreact.datasets.store import Store
from foreact.policies.gr1.published import PublishedGR1
from foreact.policies.gr1.published_config import PublishedGR1Config
from foreact.policies.gr1.published_losses import future_mask
from foreact.vla.batch import WindowBatch
from foreact.vla.checkpoint import load_policy
from foreact.vla.errors import ConfigError
from foreact.vla.rows import Rows
from foreact.vla.training.augment import augment_batch
from foreact.vla.training.config import AugmentConfig, TrainerConfig
from foreact.vla.training.pieces import cut
from foreact.vla.training.synthetic import SyntheticWindows, synthetic_contract

ROOT = Path(__file__).parents[2]
SIZES = {
    "width": 32, "layers": 1, "heads": 4, "image_size": 32, "vision_width": 16, "vision_layers": 1, "vision_heads": 2,
    "text_width": 12, "resampler_depth": 1, "resampler_heads": 2, "resampler_head_width": 8, "resampler_latents": 2,
    "decoder_layers": 1, "decoder_heads": 4, "towers": "random",
}  # fmt: skip
TINY = [
    *(f"policy.{name}={value}" for name, value in SIZES.items()), "trainer.batch_size=4", "trainer.max_steps=2",
    "trainer.warmup_steps=1", "trainer.threads=1", "trainer.precision=fp32", "trainer.log_every=1",
    "trainer.validate_batches=1", "trainer.tensorboard=false", "data.holdout=0",
]  # fmt: skip


def _page() -> str:
    return (ROOT / "docs/pretraining.md").read_text()


def _run(*words: str) -> None:
    assert run(app, list(words)) == 0, words


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """video: three episodes without a robot; desk: three demonstrations and a session of play; clips: the films of
    video, read as a folder of strangers' films is."""
    folder = tmp_path_factory.mktemp("gr1")
    common = ["tasks=[open_drawer]", "episodes_per_task=3", "workers=1"]
    _run("collect", f"out={folder}/video", "kind=video", *common)
    _run("collect", f"out={folder}/desk", *common, "play_frames=60", "session_steps=[60,120]")
    _run("data", "convert", f"{folder}/video", f"{folder}/films", "--to", "mp4")
    _run(
        "data", "convert", f"{folder}/films", f"{folder}/clips", "--set", "size=224x224", "--set", "rate_hz=10",
        "--set", "camera=rgb_static",
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def video(stores: Path) -> Path:
    """Pre-trained for two steps."""
    _run("train", "experiment=pretrain_gr1", *TINY, f"data.path={stores}/clips", f"out={stores}/video_run")
    return stores / "video_run/policy"


def test_pretraining_reads_films_with_captions(stores: Path, video: Path) -> None:
    clips = Store.open(stores / "clips")
    assert len(clips) == 6 and clips.contract.rate_hz == 10 and not clips.contract.action
    policy = load_policy(video)
    assert isinstance(policy, PublishedGR1)
    assert policy.config.history == 10 and policy.config.foresight_steps == 1
    assert [c.name for c in policy.contract.cameras] == ["rgb_static"]
    assert not policy.contract.state and not policy.contract.action


def test_finetuning_begins_with_what_video_taught(
    stores: Path, video: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    words = [f"data.path={stores}/desk", f"init_from={video}", f"out={stores}/desk_run"]
    _run("train", "experiment=finetune_gr1", *TINY, *words)
    said = capsys.readouterr().out.replace("\n", " ")
    taken, fresh, unused = re.findall(r"(?:taken|fresh|unused): \d+ tensors \(([^)]*)\)", said)
    assert {"transformer", "perceiver_resampler", "obs_queries", "decoder_blocks", "model_mae", "text"} <= set(
        taken.split(", ")
    )
    assert set(fresh.split(", ")) == {
        "embed_hand_img", "embed_hand_patch", "obs_hand_queries", "embed_arm_state", "embed_gripper_state",
        "embed_state", "action_queries", "pred_act_mlps", "pred_arm_act", "pred_gripper_act",
    }  # fmt: skip
    assert unused == "none"
    policy = load_policy(stores / "desk_run/policy")
    assert policy.config.foresight_steps == 3 and policy.contract.action_size == 7
    assert policy.provenance is not None and policy.provenance["step"] == 2
    # The frozen towers went through both stages untouched.
    before = load_policy(video).state_dict()
    for name, tensor in policy.state_dict().items():
        if name.startswith(("model_mae.", "text.")):
            assert torch.equal(tensor, before[name]), name


def test_video_play_and_language_train_in_one_run(
    stores: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [info.name for info in Store.open(stores / "desk").index]
    play = [name for name in names if "play" in name]
    assert len(play) == 1 and len(names) == 4
    entries = (
        f"{{path: {stores}/desk, weight: 2, episodes: ['*open_drawer*']}}",
        f"{{path: {stores}/desk, weight: 1, episodes: ['{play[0]}'], language: drop}}",
        f"{{path: {stores}/video, weight: 1}}",
    )
    _run("train", "experiment=finetune_gr1", *TINY, f"data.stores=[{', '.join(entries)}]", f"out={tmp_path}/run")
    said = capsys.readouterr().out
    assert "without sentences" in said.replace("\n", " ")
    log = [line for line in (tmp_path / "run/log.jsonl").read_text().splitlines() if '"train"' in line]
    assert len(log) == 2 and all('"video/rgb_gripper"' in line and "NaN" not in line for line in log)


def test_the_presets_are_the_published_settings() -> None:
    video = compose("train", ["experiment=pretrain_gr1"])
    actions = compose("train", ["experiment=finetune_gr1"])
    # arXiv 2312.13139, appendix: batch, peak learning rate, dropout; warm-up of 5 in 50 and 1 in 20 epochs.
    assert (video["trainer"]["batch_size"], video["trainer"]["learning_rate"]) == (1024, 3.6e-4)
    assert (actions["trainer"]["batch_size"], actions["trainer"]["learning_rate"]) == (512, 1e-3)
    for settings, share in ((video, 5 / 50), (actions, 1 / 20)):
        trainer = TrainerConfig.from_dict(settings["trainer"])
        assert trainer.warmup_steps == share * (trainer.max_steps or 0)
        assert settings["policy"]["dropout"] == 0.1 and settings["policy"]["history"] == 10
    assert video["policy"]["foresight_steps"] == 1 and actions["policy"]["foresight_steps"] == 3


def test_the_video_policy_is_the_published_one_without_a_robot() -> None:
    whole, part = (
        yaml.safe_load((ROOT / f"configs/policy/{name}.yaml").read_text())
        for name in ("gr1_published", "gr1_published_video")
    )
    own = {"cameras": {"rgb_static": [224, 224]}, "state": [], "actions": False, "foresight_steps": 1}
    assert part == {**whole, **own}


# --- masks -----------------------------------------------------------------------------------------------------------


def _policy_and_batch(**more: int) -> tuple[PublishedGR1, WindowBatch]:
    torch.manual_seed(0)
    contract = synthetic_contract({"eye": (24, 24)})
    config = PublishedGR1Config.from_dict({**SIZES, "history": 6, "foresight_steps": 1, "dropout": 0.0, **more})
    batch = SyntheticWindows(config, contract, batch_size=4, seed=0).batch_at(0)
    return PublishedGR1(config, contract, {}), batch


def _as_video(batch: WindowBatch, rows: list[int]) -> WindowBatch:
    """Take the robot out of some windows."""
    from dataclasses import replace

    masks = {name: getattr(batch, name).copy() for name in ("action_mask", "state_mask", "state", "action")}
    for array in masks.values():
        array[rows] = 0
    return replace(batch, **masks)


def test_a_window_without_a_robot_teaches_pictures_alone() -> None:
    policy, batch = _policy_and_batch()
    losses = policy.loss(_as_video(batch, [0, 1, 2, 3]))
    assert losses["arm"] == 0 and losses["gripper"] == 0
    assert losses["video/eye"] > 0 and torch.isfinite(losses["total"])
    torch.testing.assert_close(losses["total"], losses["video/eye"])
    losses["total"].backward()
    head = [*policy.pred_arm_act.parameters(), *policy.pred_gripper_act.parameters(), policy.action_queries.weight]
    assert all(p.grad is None or not p.grad.any() for p in head)
    assert policy.obs_queries.weight.grad is not None and policy.obs_queries.weight.grad.any()


def test_it_neither_teaches_nor_dilutes_actions() -> None:
    policy, batch = _policy_and_batch()
    policy.eval()
    mixed = _as_video(batch, [2, 3])
    with torch.no_grad():
        together, robot = policy.loss(mixed), policy.loss(cut(mixed, 0, 2))
        torch.testing.assert_close(together["arm"], robot["arm"])
        torch.testing.assert_close(together["gripper"], robot["gripper"])
        mixed.action[2:] = 0.7  # what a masked window holds does not matter
        torch.testing.assert_close(policy.loss(mixed)["arm"], together["arm"], rtol=0, atol=0)
        halves = [cut(mixed, first, first + 2) for first in (0, 2)]
        sums = [policy.loss(half)["video/eye"] * policy.loss_counts(half)["pictures"] for half in halves]
    torch.testing.assert_close(together["video/eye"], (sums[0] + sums[1]) / policy.loss_counts(mixed)["pictures"])


@pytest.mark.parametrize("offset", [1, 3])
def test_only_futures_within_the_window_count(offset: int) -> None:
    policy, batch = _policy_and_batch(foresight_steps=offset)
    batch.history_mask[:] = True
    batch.future_mask[:] = True
    batch.history_mask[3, 4:] = False  # a window at the end of its clip: four frames exist
    counted = future_mask(policy, batch)
    assert counted.sum(axis=1).tolist() == [6 - offset] * 3 + [4 - offset]


# --- random shifts ---------------------------------------------------------------------------------------------------


def test_shifts_are_whole_pixels_of_each_camera_and_the_same_in_a_window() -> None:
    rng = np.random.default_rng(0)
    contract = synthetic_contract({"big": (40, 40), "small": (16, 16)})
    config = PublishedGR1Config.from_dict({**SIZES, "history": 3})
    batch = SyntheticWindows(config, contract, batch_size=64, seed=0).batch_at(0)
    for pictures in (batch.images, batch.future):
        for name, array in pictures.items():
            pictures[name] = rng.integers(0, 255, array.shape, dtype=np.uint8)  # type: ignore[index]
    limits = {"big": 5.0, "small": 2.0}
    plain = AugmentConfig(shift_pixels=dict(limits), shift_whole=True, brightness=0, contrast=0, color=0)
    changed = augment_batch(batch, plain, Rows(3, 7, 0, 64, 64))
    for name, limit in limits.items():
        n = int(limit)
        seen = set()
        for window in range(64):
            before = np.concatenate([batch.images[name][window], batch.future[name][window]])
            after = np.concatenate([changed.images[name][window], changed.future[name][window]])
            # Independent: pad by repeating edges, cut out again (DrQ-v2's random shift).
            padded = np.pad(before, ((0, 0), (n, n), (n, n), (0, 0)), mode="edge")
            height, width = before.shape[1:3]
            fits = [
                (x, y)
                for y in range(2 * n + 1)
                for x in range(2 * n + 1)
                if np.array_equal(padded[:, y : y + height, x : x + width], after)
            ]
            assert len(fits) == 1, (name, window)
            seen.add(fits[0])
        assert {x for x, _ in seen} == set(range(2 * n + 1)) == {y for _, y in seen}, "all shifts occur"


def test_a_camera_without_a_shift_is_named() -> None:
    config = PublishedGR1Config.from_dict({**SIZES, "history": 2})
    batch = SyntheticWindows(config, synthetic_contract({"eye": (16, 16)}), batch_size=2, seed=0).batch_at(0)
    with pytest.raises(ConfigError, match="says nothing about the camera 'eye'"):
        augment_batch(batch, AugmentConfig(shift_pixels={"rgb_static": 2.0}), Rows(0, 0, 0, 2, 2))


# --- the page --------------------------------------------------------------------------------------------------------


def test_every_training_command_of_the_page_is_valid() -> None:
    import importlib.util

    spec = importlib.util.spec_from_file_location("doc_blocks", ROOT / "tests/doc_blocks.py")
    assert spec and spec.loader
    blocks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(blocks)
    lines = [
        line
        for language, text in blocks.fenced(_page())
        if language in ("bash", "console", "sh")
        for line in blocks.commands(text)
    ]
    trained = 0
    for line in lines:
        words = shlex.split(line, comments=True)
        assert words[0] in ("foreact", "accelerate"), line
        if "train" in words:
            settings = compose("train", words[words.index("train") + 1 :])
            TrainerConfig.from_dict(settings["trainer"])
            trained += 1
        elif words[1] == "evaluate":
            compose("evaluate", words[2:])
        else:
            assert words[1:3] in (["data", "convert"], ["data", "lint"], ["convert-checkpoint", words[2]])
    assert trained >= 4
