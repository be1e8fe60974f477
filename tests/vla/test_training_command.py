"""`foreact train` from the command line: experiments on a small store, and one readable line for every mistake."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from foreact.commands.main import app, run
from foreact.commands.train_data import held_out
from foreact.datasets.episode import EpisodeData
from foreact.datasets.recorder import Recorder
from foreact.datasets.store import Store
from foreact.vla.checkpoint import load_policy
from foreact.vla.contract import Camera, Contract, Field
from foreact.vla.policy import Observation
from foreact.vla.runtime import StreamingActor

CONTRACT = Contract(
    embodiment="test_arm",
    rate_hz=30,
    cameras=(Camera(name="rgb_static", height=20, width=24), Camera(name="rgb_gripper", height=16, width=16)),
    state=(
        Field(name="tcp_position", size=3, unit="m"),
        Field(name="tcp_euler", size=3, unit="rad", rotation="euler_xyz"),
        Field(name="joint_position", size=2, unit="rad"),
        Field(name="gripper_width", size=1, unit="m"),
        Field(name="gripper_command", size=1, unit="1"),
    ),
    action=(
        Field(name="delta_position", size=3, unit="0.02 m", low=-1, high=1, relative=True),
        Field(name="gripper", size=1, unit="1", low=-1, high=1),
    ),
    gripper="+1 open, -1 close",
)
FAST = (
    "experiment=finetune", "policy=foreact_debug", "trainer.batch_size=4", "trainer.max_steps=2", "trainer.threads=1",
    "trainer.precision=fp32", "trainer.tensorboard=false", "trainer.validate_batches=1", "data.holdout=0.3",
)  # fmt: skip

Train = Callable[..., tuple[int, str, str]]


@pytest.fixture
def train(capsys: pytest.CaptureFixture[str]) -> Train:
    """Run the command in this process: (exit status, standard output, standard error)."""

    def call(*settings: object) -> tuple[int, str, str]:
        status = run(app, ["train", *map(str, settings)])
        said, wrong = capsys.readouterr()
        return status, said, wrong

    return call


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Ten episodes with a robot, and ten of action-free video under the same contract."""
    folder = tmp_path_factory.mktemp("stores")
    for kind in ("desk", "video"):
        recorder = Recorder(folder / kind, CONTRACT, codec="zstd")
        for number in range(10):
            rng = np.random.default_rng(number)
            images = {c.name: rng.integers(0, 255, (8, c.height, c.width, 3), dtype=np.uint8) for c in CONTRACT.cameras}
            state = (rng.normal(size=(8, 10)) * 3 + np.arange(10)).astype(np.float32)
            action = np.concatenate([rng.uniform(-1, 1, (8, 3)), np.ones((8, 1))], axis=1).astype(np.float32)
            robot: dict[str, Any] = {"state": state, "action": action} if kind == "desk" else {}
            recorder.write(EpisodeData(images=images, instruction=f"do {number % 2}", **robot), name=f"e{number}")
    return {kind: folder / kind for kind in ("desk", "video")}


def test_finetuning_on_a_store_gives_a_policy_that_acts(train: Train, stores: dict[str, Path], tmp_path: Path) -> None:
    status, said, wrong = train(*FAST, f"data.path={stores['desk']}", f"out={tmp_path}/run")
    assert (status, wrong.strip()) == (0, "")
    assert "resize rgb_static from 20x24 to 16x16 pixels" in said
    assert "state: take 8 of 10 numbers" in said
    assert "windows/s" in said
    assert "validation at step 2" in said

    policy = load_policy(tmp_path / "run/policy")
    store = Store.open(stores["desk"])
    rows = [store.reader(i).array("state") for i, info in enumerate(store.index) if not held_out(info.name, 0.3)]
    assert 0 < len(rows) < 10
    used = np.concatenate(rows)[:, [0, 1, 2, 3, 4, 5, 8, 9]].astype(np.float64)
    np.testing.assert_allclose(policy.statistics["state"]["mean"], used.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(policy.statistics["state"]["std"], used.std(axis=0), rtol=1e-9)
    assert [field.name for field in policy.contract.state] == [
        "tcp_position",
        "tcp_euler",
        "gripper_width",
        "gripper_command",
    ]

    actor = StreamingActor(policy)
    images = {c.name: np.zeros((2, c.height, c.width, 3), np.uint8) for c in policy.contract.cameras}
    seen = Observation(slots=[0, 1], images=images, state=np.zeros((2, 8), np.float32), instruction=["do 0", "do 1"])
    assert actor.plan(seen).actions.shape == (2, 4, 4)
    info = json.loads((tmp_path / "run/checkpoints/step_00000002/training/state.json").read_text())
    assert info["identity"]["data"] == [store.hash, "holdout=0.3"]
    assert info["provenance"]["settings"]["policy"]["chunk"] == 4


def test_a_video_pretrained_policy_is_a_beginning(train: Train, stores: dict[str, Path], tmp_path: Path) -> None:
    video = [word if word != "experiment=finetune" else "experiment=pretrain_video" for word in FAST]
    status, said, wrong = train(*video, f"data.path={stores['video']}", f"out={tmp_path}/video")
    assert (status, wrong.strip()) == (0, "")
    before = load_policy(tmp_path / "video/policy")
    assert before.contract.action == before.contract.state == ()

    status, said, wrong = train(
        *FAST, f"data.path={stores['desk']}", f"out={tmp_path}/run", f"init_from={tmp_path}/video/policy",
        "trainer.learning_rate=1e-12", "trainer.min_learning_rate=0.0",
    )  # fmt: skip
    assert (status, wrong.strip()) == (0, "")
    lines = {line.split(":")[0].strip(): line for line in said.splitlines() if ":" in line}
    assert "vision" in lines["taken"] and "decoder" in lines["taken"]
    assert "action_head" in lines["fresh"] and "embed_state" in lines["fresh"]
    after = load_file(tmp_path / "run/policy/model.safetensors")
    for name, tensor in before.state_dict().items():
        torch.testing.assert_close(after[name], tensor, rtol=0, atol=1e-8)


def test_demonstrations_and_video_train_together(train: Train, stores: dict[str, Path], tmp_path: Path) -> None:
    paths = f"[{stores['desk']},{stores['video']}]"
    status, _, wrong = train(*FAST, f"data.path={paths}", "data.weights=[1,3]", f"out={tmp_path}/run")
    assert (status, wrong.strip()) == (0, "")
    assert load_policy(tmp_path / "run/policy").contract.action_size == 4


def test_video_without_a_robot_cannot_teach_a_state(train: Train, stores: dict[str, Path], tmp_path: Path) -> None:
    status, _, wrong = train(*FAST, f"data.path={stores['video']}", f"out={tmp_path}/run")
    assert status == 2
    assert "no training episode has a state; use policy.state=[] for action-free video" in wrong


@pytest.mark.parametrize(
    ("settings", "status", "message"),
    [
        (["trainer.max_stepz=3"], 2, "did you mean 'trainer.max_steps'"),
        (["experiment=finetuen"], 2, "did you mean 'experiment/finetune'"),
        (["policy.widht=3"], 2, "did you mean 'policy.width'"),
        (["trainer.max_steps=many"], 2, "trainer.max_steps"),
        (["trainer.max_minutes=null"], 2, "say how long to train"),
        (["policy.heads=7"], 2, "policy.width (192) must be a multiple of policy.heads (7)"),
        (
            ["policy.cameras={rgb_static: 64}"],
            2,
            "policy.cameras.rgb_static must be [height, width] in pixels, found 64",
        ),
        (["policy.name=gr3"], 2, "no policy 'gr3'"),
        (["data.holdout=2"], 2, "data.holdout must be at least 0 and less than 1, found 2"),
        (["data.path=/nowhere"], 1, "/nowhere"),
        (["experiment=debug", "init_from=/nowhere"], 1, "/nowhere does not exist"),
        (["experiment=debug", "trainer.device=cuda:99"], 2, "device 'cuda:99' is not there"),
        (["experiment=debug", "policy.text=clpi"], 2, "no text tower 'clpi'; known: clip, distilled, small"),
    ],
)
def test_a_mistake_is_one_message_without_a_traceback(
    train: Train, tmp_path: Path, settings: list[str], status: int, message: str
) -> None:
    found, _, wrong = train(*settings, f"out={tmp_path}/run")
    assert found == status
    assert message in wrong
    assert "Traceback" not in wrong
    assert not (tmp_path / "run").exists()


def test_fields_that_the_data_lacks_are_named(train: Train, stores: dict[str, Path], tmp_path: Path) -> None:
    status, _, wrong = train(*FAST, f"data.path={stores['desk']}", f"out={tmp_path}/run", "policy.state=[tcp_positon]")
    assert status == 1
    assert "no state field 'tcp_positon'" in wrong and "did you mean 'tcp_position'" in wrong
    status, _, wrong = train(
        *FAST, f"data.path={stores['desk']}", f"out={tmp_path}/run", "+policy.cameras.side=[16,16]"
    )
    assert status == 1
    assert "no camera 'side'" in wrong


def test_a_run_is_never_overwritten_by_accident(train: Train, tmp_path: Path) -> None:
    assert train("experiment=debug", f"out={tmp_path}/run")[0] == 0
    status, _, wrong = train("experiment=debug", f"out={tmp_path}/run")
    assert status == 2
    assert "holds a run already: go on with resume=true" in wrong
    status, said, _ = train("experiment=debug", f"out={tmp_path}/run", "resume=true", "trainer.max_steps=8")
    assert status == 0
    assert "at step 6" in said and "steps 6 to 8" in said


def test_episodes_are_held_out_by_their_names_in_the_asked_share() -> None:
    names = [f"D-open_drawer-{i:06d}" for i in range(4000)]
    held = [name for name in names if held_out(name, 0.1)]
    assert 320 < len(held) < 480
    assert set(held) <= {name for name in names if held_out(name, 0.2)}
    assert not any(held_out(name, 0.0) for name in names)
