"""Training from kept frames and kept features of a frozen tower: the same numbers as looking at every step."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foreact.commands.main import app, run
from foreact.datasets import frame_table
from foreact.datasets.episode import EpisodeData
from foreact.datasets.reader import EpisodeReader
from foreact.datasets.recorder import Recorder
from foreact.datasets.store import Store
from foreact.datasets.windows import WindowSampler, WindowSpec
from foreact.policies.gr1.foreact import ForeAct
from foreact.policies.gr1.foreact_config import ForeActConfig
from foreact.policies.gr1.published import PublishedGR1
from foreact.policies.gr1.published_config import PublishedGR1Config
from foreact.vla.checkpoint import load_policy
from foreact.vla.contract import Camera, Contract, Field
from foreact.vla.errors import ConfigError
from foreact.vla.frozen_vision import FrozenVision, freeze_tower
from foreact.vla.training.pieces import cut
from foreact.vla.vision import PretrainedVision, to_pixels

CONTRACT = Contract(
    embodiment="desk_arm",
    rate_hz=30,
    cameras=(Camera(name="rgb_static", height=20, width=24), Camera(name="rgb_gripper", height=16, width=16)),
    state=(Field(name="tcp_position", size=3, unit="m"), Field(name="gripper_command", size=1, unit="1")),
    action=(
        Field(name="delta_position", size=3, unit="m", relative=True),
        Field(name="gripper", size=1, unit="1", low=-1, high=1),
    ),
    gripper="+1 open, -1 close",
)
CAMERAS = {"rgb_static": (16, 16), "rgb_gripper": (16, 16)}
REQUIRED = CONTRACT.model_copy(
    update={"cameras": tuple(Camera(name=n, height=h, width=w) for n, (h, w) in CAMERAS.items())}
)
STATISTICS = {"state": {"mean": [0.0] * 4, "std": [1.0] * 4}}
SIZES: dict[str, Any] = dict(
    history=3, history_stride=2, foresight_steps=2, chunk=2, execute_steps=1, width=32, layers=1, heads=2,
    resampler_heads=1, resampler_head_width=8, image_queries=1, decoder_width=8, decoder_layers=1, decoder_heads=2,
)  # fmt: skip
PUBLISHED: dict[str, Any] = dict(
    width=32, layers=1, heads=4, image_size=32, vision_width=16, vision_layers=1, vision_heads=2, text_width=12,
    resampler_depth=1, resampler_heads=2, resampler_head_width=8, resampler_latents=2, decoder_layers=1,
    decoder_heads=4, towers="random", history=3, foresight_steps=2, dropout=0.0,
)  # fmt: skip
HALF = 2.0**-11
"""Relative error of rounding to float16."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """desk: eight demonstrations of eleven frames; video: two episodes without a robot; vit: a tiny frozen tower."""
    folder = tmp_path_factory.mktemp("kept")
    video = CONTRACT.model_copy(update={"state": (), "action": (), "gripper": "none", "embodiment": "hands"})
    for name, contract, episodes in (("desk", CONTRACT, 8), ("video", video, 2)):
        recorder = Recorder(folder / name, contract, codec="zstd")
        for number in range(episodes):
            rng = np.random.default_rng(number)
            images = {
                c.name: rng.integers(0, 255, (11, c.height, c.width, 3), dtype=np.uint8) for c in contract.cameras
            }
            robot: dict[str, Any] = {}
            if contract.action:
                action = rng.uniform(-1, 1, (11, 4)).astype(np.float32)
                action[:, -1] = np.sign(action[:, -1])
                robot = {"state": rng.normal(size=(11, 4)).astype(np.float32), "action": action}
            recorder.write(EpisodeData(images=images, instruction=f"do {number % 2}", **robot), name=f"e{number}")
    model("vit").save_pretrained(folder / "vit")
    return folder


def model(family: str, seed: int = 0) -> Any:
    import transformers as hf

    torch.manual_seed(seed)
    sizes: dict[str, Any] = dict(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8
    )
    if family == "mae":
        return hf.ViTMAEModel(hf.ViTMAEConfig(**sizes, intermediate_size=32, mask_ratio=0.0))
    if family == "dino":
        return hf.Dinov2Model(hf.Dinov2Config(**sizes))
    return hf.ViTModel(hf.ViTConfig(**sizes, intermediate_size=32))


def make_policy(kind: str, family: str = "vit", **more: Any) -> Any:
    tower = PretrainedVision(model(family))
    torch.manual_seed(1)
    if kind == "gr1_published":
        return PublishedGR1(PublishedGR1Config(**PUBLISHED, **more), REQUIRED, STATISTICS)
    config = ForeActConfig(**{**SIZES, "vision": family, "visual_count": 2, **more})
    return ForeAct(config, REQUIRED, STATISTICS, vision=tower)


def sampler_for(policy: Any, store: Path, **more: Any) -> WindowSampler:
    config = policy.config
    spec = WindowSpec(
        cameras=CAMERAS, history=config.history, history_stride=config.history_stride,
        foresight_steps=config.foresight_steps, chunk=config.chunk,
    )  # fmt: skip
    return WindowSampler(Store.open(store), spec, seed=0, batch_size=8, contract=REQUIRED, **more)


@pytest.mark.parametrize(
    ("kind", "family", "more"),
    [
        ("foreact", "mae", {}),
        ("foreact", "vit", {"action_sees": "foresight"}),
        ("foreact", "dino", {"visual_tokens": "pool", "visual_count": 4}),
        ("gr1_published", "", {}),
    ],
)
def test_loss_and_gradients_are_those_of_looking_up_to_rounding(
    folder: Path, tmp_path: Path, kind: str, family: str, more: dict[str, Any]
) -> None:
    policy = make_policy(kind, family, **more)
    live, kept = sampler_for(policy, folder / "desk"), sampler_for(policy, folder / "desk")
    kept.keep_features(policy.frozen_vision(), tmp_path)
    policy.train()
    for step in range(3):
        losses, gradients = [], []
        for batch in (live.batch_at(step), kept.batch_at(step)):
            assert (batch.features is None) == (not losses)
            if batch.features is not None and kind == "gr1_published":  # which has no other use for the pictures
                batch.images = {name: np.zeros_like(image) for name, image in batch.images.items()}
            policy.zero_grad()
            torch.manual_seed(step)
            found = policy.loss(batch)
            found["total"].backward()
            losses.append({name: float(value.detach()) for name, value in found.items()})
            gradients.append({n: p.grad.clone() for n, p in policy.named_parameters() if p.grad is not None})
        assert losses[0].keys() == losses[1].keys() and gradients[0].keys() == gradients[1].keys()
        assert losses[0] != losses[1], "the rounding shows, so the kept ones were used"
        for name, value in losses[0].items():
            assert losses[1][name] == pytest.approx(value, rel=4 * HALF, abs=1e-6), name
        norm = torch.stack([g.norm() for g in gradients[0].values()]).norm()
        apart = torch.stack([(g - gradients[1][n]).norm() for n, g in gradients[0].items()]).norm()
        assert apart < 8 * HALF * norm


@pytest.mark.parametrize("family", ["mae", "dino", "vit"])
def test_what_is_kept_is_what_the_tower_sees_of_each_frame(folder: Path, tmp_path: Path, family: str) -> None:
    policy = make_policy("foreact", family)
    sampler = sampler_for(policy, folder / "desk", cache="disk", cache_folder=tmp_path)
    sampler.keep_features(policy.frozen_vision(), tmp_path)
    batch, store = sampler.batch_at(0), Store.open(folder / "desk")
    assert batch.features is not None and not batch.history_mask.all()
    for name, size in CAMERAS.items():
        found = batch.features[name]
        assert found.dtype == np.float16 and found.shape == (8, 3, 1 + policy.vision.patches, 32)
        assert not found[~batch.history_mask].any()
        for row, (episode, anchor) in enumerate(batch.index.tolist()):
            frames = [t for t in (anchor - 4, anchor - 2, anchor) if t >= 0]
            seen = store.read(episode, np.array(frames), (name,), {name: size}).images[name]
            with torch.no_grad():
                patches, summary = policy.vision(to_pixels(torch.from_numpy(seen)))
            expected = torch.cat([summary[:, None], patches], dim=1).numpy()
            np.testing.assert_allclose(found[row, : len(frames)], expected, rtol=1.01 * HALF, atol=2e-6)


def test_other_weights_or_settings_are_another_tower(folder: Path) -> None:
    names = {freeze_tower(PretrainedVision(model(family))).name for family in ("mae", "dino", "vit")}
    tower = PretrainedVision(model("vit"))
    name = freeze_tower(tower).name
    assert name in names and len(names) == 3
    from transformers import AutoModel

    stored = PretrainedVision(AutoModel.from_pretrained(folder / "vit"))
    assert freeze_tower(stored).name == name, "wherever its weights lie"
    with torch.no_grad():
        next(iter(tower.parameters())).view(-1)[0] += 1e-3
    assert freeze_tower(tower).name not in names
    assert freeze_tower(PretrainedVision(model("vit"))).shape == (17, 32)
    other = PretrainedVision(model("vit"))
    other.model.config.layer_norm_eps = 1e-3
    assert freeze_tower(other).name not in names


def test_trained_towers_and_numbers_beyond_float16_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"policy\.vision=small is trained: use data\.features=live"):
        ForeAct(ForeActConfig(**SIZES), REQUIRED, STATISTICS).frozen_vision()
    adapted = make_policy("foreact")
    adapted.vision.adapt(True)
    with pytest.raises(ConfigError, match=r"adapters that are trained \(policy\.lora_rank\)"):
        adapted.frozen_vision()
    thawed = make_policy("gr1_published")
    thawed.model_mae.cls_token.requires_grad_(True)
    with pytest.raises(ConfigError, match="the vision tower is trained"):
        thawed.frozen_vision()
    policy = make_policy("foreact")
    with torch.no_grad():
        policy.vision.model.layernorm.weight.mul_(1e6)
    with pytest.raises(ConfigError, match="float16 cannot hold"):
        sampler_for(policy, folder / "desk").keep_features(policy.frozen_vision(), tmp_path)
    assert list(tmp_path.glob("*.npy")) == []


def test_pieces_and_mixtures_carry_their_features(folder: Path, tmp_path: Path) -> None:
    policy = make_policy("gr1_published")
    contract = REQUIRED
    stores = [Store.open(folder / "desk"), Store.open(folder / "video")]
    spec = WindowSpec(cameras=CAMERAS, history=3, history_stride=1, foresight_steps=2, chunk=1)
    sampler = WindowSampler(stores, spec, seed=0, batch_size=12, weights=[1, 1], contract=contract)
    plain = sampler.batch_at(3)
    sampler.keep_features(policy.frozen_vision(), tmp_path)
    batch = sampler.batch_at(3)
    assert batch.features is not None and set(batch.index[:, 0] < 8) == {True, False}
    whole = policy.loss(batch)["total"].item()
    assert whole == pytest.approx(policy.loss(plain)["total"].item(), rel=4 * HALF)
    counts = policy.loss_counts(batch)
    parts = [cut(batch, *rows) for rows in ((0, 5), (5, 12))]
    assert sum(policy.loss(part, counts)["total"].item() for part in parts) == pytest.approx(whole, rel=1e-5)


# --- the command ------------------------------------------------------------------------------------------------------

Train = Callable[..., tuple[int, str, str]]
STILL = [f"trainer.augment.{name}=0" for name in ("shift_pixels", "brightness", "contrast", "color")]
FAST = [
    "trainer.batch_size=8", "trainer.max_steps=4", "trainer.threads=1", "trainer.precision=fp32", "data.holdout=0.3",
    "trainer.tensorboard=false", "trainer.validate_batches=1", "trainer.log_every=1", "trainer.warmup_steps=1",
    "policy.state=[tcp_position,gripper_command]",
]  # fmt: skip
SMALL = [
    "policy=foreact_debug", "policy.chunk=2", "policy.vision_width=32",
]  # fmt: skip


@pytest.fixture
def train(capsys: pytest.CaptureFixture[str]) -> Train:
    """Run the command in this process: (exit status, standard output, standard error)."""

    def call(*settings: object) -> tuple[int, str, str]:
        status = run(app, ["train", "experiment=finetune", *FAST, *map(str, settings)])
        said, wrong = capsys.readouterr()
        return status, said.replace("\n", " "), wrong.replace("\n", " ")

    return call


def losses(out: Path, kind: str = "train") -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    numbers = ("total", "arm", "gripper", "gradient_norm", "pixels/rgb_static")
    return [{name: line[name] for name in numbers if name in line} for line in lines if line["kind"] == kind]


def test_kept_frames_train_the_same_and_a_run_may_go_on_with_either(
    train: Train, folder: Path, tmp_path: Path, monkeypatch
) -> None:
    words = [*SMALL, f"data.path={folder}/desk"]
    kept = f"data.cache_folder={tmp_path}/kept"
    assert train(*words, f"out={tmp_path}/memory")[0] == 0
    assert train(*words, f"out={tmp_path}/disk", "data.cache=disk", kept, "trainer.max_steps=2")[0] == 0
    monkeypatch.setattr(EpisodeReader, "images", lambda *_: pytest.fail("decoded again"))
    more = ["resume=true", "data.cache=disk", kept, "trainer.max_steps=4"]
    # The end of the schedule is another one: the first two steps of it are compared, and the windows of all.
    status, said, wrong = train(*words, f"out={tmp_path}/disk", *more)
    assert (status, wrong) == (0, ""), wrong
    assert train(*words, f"out={tmp_path}/again", "data.cache=disk", kept)[0] == 0
    assert losses(tmp_path / "again") == losses(tmp_path / "memory") != []
    assert losses(tmp_path / "again", "validation") == losses(tmp_path / "memory", "validation") != []
    monkeypatch.undo()
    status, said, wrong = train(*words, f"out={tmp_path}/disk", "resume=true", "trainer.max_steps=5")
    assert status == 0 and "resumed" in said


@pytest.mark.parametrize("policy", ["foreact_debug", "gr1_published"])
def test_kept_features_train_the_same_up_to_rounding_and_a_killed_run_goes_on(
    train: Train, folder: Path, tmp_path: Path, monkeypatch, policy: str
) -> None:
    words = [f"policy={policy}", *STILL, f"data.path={folder}/desk", f"data.cache_folder={tmp_path}/kept"]
    if policy == "gr1_published":
        words += [f"policy.{name}={value}" for name, value in PUBLISHED.items()]
        words += ["policy.cameras={rgb_static: [16, 16], rgb_gripper: [16, 16]}"]
    else:
        words += ["policy.vision=vit", f"policy.vision_folder={folder}/vit"]
    disk = [*words, "data.features=disk"]
    status, _, wrong = train(*words, f"out={tmp_path}/live")
    assert status == 0, wrong
    status, _, wrong = train(*disk, f"out={tmp_path}/disk", "trainer.save_every=2", "trainer.keep=9")
    assert status == 0, wrong
    assert losses(tmp_path / "live") != losses(tmp_path / "disk")  # the rounding shows
    for live, kept in zip(losses(tmp_path / "live"), losses(tmp_path / "disk"), strict=True):
        assert kept == pytest.approx(live, rel=30 * HALF)
    names = sorted(path.name for path in (tmp_path / "kept").glob("features-*.npy"))
    assert len(names) == 2 and names[0].startswith("features-rgb_gripper-16x16-")

    # Another start reads what is there; a run that stopped at step 2 goes on as if it had not.
    monkeypatch.setattr(FrozenVision, "features", lambda *_: pytest.fail("looked again"))
    (tmp_path / "cut/checkpoints").mkdir(parents=True)
    (tmp_path / "disk/checkpoints/step_00000002").rename(tmp_path / "cut/checkpoints/step_00000002")
    status, said, wrong = train(*disk, f"out={tmp_path}/cut", "resume=true")
    assert status == 0 and "at step 2" in said, wrong
    assert losses(tmp_path / "cut") == losses(tmp_path / "disk")[2:]
    a, b = (load_policy(tmp_path / name / "policy").state_dict() for name in ("cut", "disk"))
    assert all(torch.equal(a[name], b[name]) for name in b)

    status, _, wrong = train(*words, f"out={tmp_path}/cut", "resume=true", "trainer.max_steps=5")
    assert status == 2 and "data.features: was 'disk', now 'live'" in wrong


def test_a_tower_that_came_with_init_from_has_features_of_its_own(train: Train, folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other_vit"
    model("vit", seed=5).save_pretrained(other)
    words = [
        "policy=foreact_debug", "policy.vision=vit", *STILL, f"data.path={folder}/desk", "data.features=disk",
        f"data.cache_folder={tmp_path}/kept", "trainer.max_steps=1",
    ]  # fmt: skip
    assert train(*words, f"policy.vision_folder={other}", f"out={tmp_path}/a")[0] == 0
    assert len(list((tmp_path / "kept").glob("features-*.npy"))) == 2
    first = [f"policy.vision_folder={folder}/vit", f"init_from={tmp_path}/a/policy"]
    assert train(*words, *first, f"out={tmp_path}/b")[0] == 0  # the weights are those of `other` again
    assert len(list((tmp_path / "kept").glob("features-*.npy"))) == 2
    assert train(*words, f"policy.vision_folder={folder}/vit", f"out={tmp_path}/c")[0] == 0
    assert len(list((tmp_path / "kept").glob("features-*.npy"))) == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["data.features=disk"], "trainer.augment changes them at every step"),
        (["data.features=disk", *STILL[:3]], "trainer.augment changes them at every step"),
        (["data.features=disk", *STILL, "trainer.shard=true"], "trainer.shard=false"),
        (["data.features=disk", *STILL], "policy.vision=small is trained"),
        (["data.features=memory"], "data.features must be live or disk, found 'memory'"),
        (["data.cache=disc"], "cache must be 'memory', 'disk' or 'none', found 'disc'"),
        (["data.cache_folder=7"], "data.cache_folder must be a folder"),
    ],
)
def test_what_cannot_be_kept_is_one_message(
    train: Train, folder: Path, tmp_path: Path, settings: list[str], message: str
) -> None:
    words = [*SMALL, f"data.path={folder}/desk", f"out={tmp_path}/run", *settings]
    status, _, wrong = train(*words)
    assert status == 2 and message in wrong and "Traceback" not in wrong
    assert frame_table.FOLDER not in [path.name for path in (folder / "desk").iterdir()]


def test_a_mapping_of_shifts_that_are_all_zero_shifts_nothing(train: Train, folder: Path, tmp_path: Path) -> None:
    words = [
        "policy=foreact_debug", "policy.vision=vit", f"policy.vision_folder={folder}/vit", *STILL[1:],
        "trainer.augment.shift_pixels={rgb_static: 0.0, rgb_gripper: 0.0}", f"data.path={folder}/desk",
        f"data.cache_folder={tmp_path}", "data.features=disk", "trainer.max_steps=1", f"out={tmp_path}/run",
    ]  # fmt: skip
    status, _, wrong = train(*words)
    assert status == 0, wrong
