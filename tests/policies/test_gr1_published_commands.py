"""The published GR-1 on the command line: trained, converted, judged."""

from pathlib import Path

import pytest
import torch

from foreact.commands.main import app, run
from foreact.policies.gr1.published import PublishedGR1
from foreact.policies.gr1.published_config import PublishedGR1Config
from foreact.policies.gr1.published_import import calvin_contract
from foreact.vla.checkpoint import load_policy
from foreact.vla.results import read_results

SMALL = (
    "history=3", "foresight_steps=1", "width=32", "layers=1", "heads=4", "image_size=32", "vision_width=16",
    "vision_layers=1", "vision_heads=2", "text_width=12", "resampler_depth=1", "resampler_heads=2",
    "resampler_head_width=8", "resampler_latents=2", "decoder_layers=1", "decoder_heads=4", "towers=random",
    "cameras={rgb_static: [24, 24], rgb_gripper: [16, 16]}",
)  # fmt: skip


def test_it_can_be_trained_and_stays_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"policy.{word}" for word in SMALL]
    trainer = "max_steps=2,max_minutes=null,batch_size=4,warmup_steps=1,threads=1,precision=fp32,log_every=1"
    more = "validate_every=2,validate_batches=1,save_every=2,tensorboard=false"
    words += [f"trainer.{word}" for word in f"{trainer},{more}".split(",")]
    assert run(app, ["train", "policy=gr1_published", "data=synthetic", *words, f"out={tmp_path / 'run'}"]) == 0
    assert "the policy is in" in capsys.readouterr().out
    policy = load_policy(tmp_path / "run/policy")
    assert isinstance(policy, PublishedGR1) and policy.config.towers == ""


def test_the_yaml_says_what_the_code_defaults_to() -> None:
    import yaml

    text = (Path(__file__).parents[2] / "configs/policy/gr1_published.yaml").read_text()
    settings = yaml.safe_load(text)
    for name in ("name", "cameras", "state", "actions"):
        settings.pop(name)
    assert settings == PublishedGR1Config().to_dict()


def test_a_checkpoint_is_judged_on_the_desk(tmp_path: Path) -> None:
    """End to end: pictures in CALVIN's sizes, the state's seven numbers, one action per plan."""
    torch.manual_seed(0)
    sizes: dict[str, object] = {}
    for word in SMALL[:-2]:
        name, value = word.split("=")
        sizes[name] = int(value)
    config = PublishedGR1Config.from_dict({**sizes, "towers": "random"})
    PublishedGR1(config, calvin_contract(), {}).save_pretrained(tmp_path / "mine")
    words = ["benchmark.tasks=[open_drawer,turn_on_led]", "benchmark.starts_per_task=1", "benchmark.max_steps=5"]
    arguments = ["evaluate", f"checkpoint={tmp_path / 'mine'}", *words, "workers=0", f"out={tmp_path / 'out'}"]
    assert run(app, arguments) == 0
    results = read_results(tmp_path / "out/results.json")
    assert results.actor == "mine" and results.notes == ("state: take 7 of 15 numbers",)


def test_convert_says_in_one_message_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"state_dict": {"transformer.ln_f.bias": torch.zeros(7)}}, tmp_path / "a.pt")
    source, target = str(tmp_path / "a.pt"), str(tmp_path / "out")
    assert run(app, ["convert-checkpoint", source, target, "--towers", "x", "--clip", "y"]) == 2
    assert "--towers brings both towers" in capsys.readouterr().err
    assert run(app, ["convert-checkpoint", source, target]) == 2
    assert "--clip FOLDER" in capsys.readouterr().err
    assert run(app, ["convert-checkpoint", str(tmp_path), target]) == 1
    assert "is a folder; expected a .pt file" in capsys.readouterr().err
    assert not Path(target).exists()
