"""`foreact train` on a real mixture: demonstrations, action-free video, and another robot's store at another rate."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foreact.commands.main import app, run
from foreact.commands.train_data import held_out
from foreact.datasets.episode import EpisodeData
from foreact.datasets.recorder import Recorder
from foreact.datasets.store import Store
from foreact.vla.checkpoint import load_policy
from foreact.vla.contract import Camera, Contract, Field

DESK = Contract(
    embodiment="desk_arm",
    rate_hz=30,
    cameras=(Camera(name="rgb_static", height=20, width=24), Camera(name="rgb_gripper", height=16, width=16)),
    state=(
        Field(name="tcp_position", size=3, unit="m"),
        Field(name="tcp_euler", size=3, unit="rad", rotation="euler_xyz"),
        Field(name="gripper_width", size=1, unit="m"),
        Field(name="gripper_command", size=1, unit="1"),
    ),
    action=(
        Field(name="delta_position", size=3, unit="m", relative=True),
        Field(name="delta_euler", size=3, unit="rad", relative=True),
        Field(name="gripper", size=1, unit="1", low=-1, high=1),
    ),
    gripper="+1 open, -1 close",
)
OTHER = Contract(
    embodiment="other_arm",
    rate_hz=12,
    cameras=(Camera(name="front_cam", height=18, width=18), Camera(name="hand_cam", height=18, width=18)),
    state=(
        Field(name="gripper_command", size=1, unit="1"),
        Field(name="ee_pos", size=3, unit="m"),
        Field(name="ee_euler", size=3, unit="rad", rotation="euler_xyz"),
    ),
    action=(
        Field(name="ee_delta", size=3, unit="m", relative=True),
        Field(name="gripper", size=1, unit="1", low=-1, high=1),
    ),
    gripper="+1 open, -1 close",
)
OTHER_ENTRY = (
    "weight: 1.5, cameras: {rgb_static: front_cam, rgb_gripper: hand_cam}, "
    "state: {tcp_position: ee_pos, tcp_euler: ee_euler}, action: {delta_position: ee_delta}, "
    "use_state: [tcp_position, tcp_euler, gripper_command], use_action: [delta_position, gripper], "
    "embodiment: any, rate: resample, normalise: own, language: drop"
)
FAST = (
    "experiment=finetune", "policy=foreact_debug", "trainer.batch_size=8", "trainer.max_steps=2", "trainer.threads=1",
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """desk: eight demonstrations; video: four episodes without a robot; other: six of another arm."""
    folder = tmp_path_factory.mktemp("stores")
    video = DESK.model_copy(update={"state": (), "action": (), "gripper": "none", "embodiment": "hands"})
    for name, contract, episodes in (("desk", DESK, 8), ("video", video, 4), ("other", OTHER, 6)):
        recorder = Recorder(folder / name, contract, codec="zstd")
        for number in range(episodes):
            rng = np.random.default_rng(number)
            images = {c.name: rng.integers(0, 255, (9, c.height, c.width, 3), dtype=np.uint8) for c in contract.cameras}
            robot: dict[str, Any] = {}
            if contract.action:
                action = rng.uniform(-1, 1, (9, contract.action_size)).astype(np.float32)
                action[:, -1] = np.sign(action[:, -1])
                state = rng.normal(size=(9, contract.state_size)).astype(np.float32)
                robot = {"state": state, "action": action}
            recorder.write(EpisodeData(images=images, instruction=f"do {number % 2}", **robot), name=f"e{number}")
    return folder


def stores(folder: Path, other: str = OTHER_ENTRY, desk: str = "weight: 2") -> str:
    return (
        f"data.stores=[{{path: {folder}/desk, {desk}}}, {{path: {folder}/video, weight: 0.5}}, "
        f"{{path: {folder}/other, {other}}}]"
    )


def test_three_kinds_of_stores_train_one_policy(train: Train, folder: Path, tmp_path: Path) -> None:
    status, said, wrong = train(*FAST, stores(folder), f"out={tmp_path}/run")
    assert (status, wrong.strip()) == (0, "")
    for text in (
        "camera rgb_static is their front_cam", "recorded by 'other_arm', not 'desk_arm'; taken as it is",
        "resampled from 12 to 30 Hz (2 frames for 5 ticks)", "action: delta_euler masked",
        "state: gripper_width filled", "without sentences", "validation at step 2",
    ):  # fmt: skip
        assert text in said.replace("\n", " "), text
    policy = load_policy(tmp_path / "run/policy")
    assert policy.contract.action_size == 7 and policy.contract.embodiment == "desk_arm"
    # Brought to the desk's spread, the other store leaves the mixture's position statistics at the desk's own.
    desk = Store.open(folder / "desk")
    rows = [desk.reader(i).array("state") for i, info in enumerate(desk.index) if not held_out(info.name, 0.3)]
    own = np.concatenate(rows).astype(np.float64)
    np.testing.assert_allclose(policy.statistics["state"]["mean"][:3], own.mean(0)[:3], rtol=1e-6)
    np.testing.assert_allclose(policy.statistics["state"]["std"][:3], own.std(0)[:3], rtol=1e-6)
    np.testing.assert_allclose(policy.statistics["state"]["mean"][6], own.mean(0)[6], rtol=1e-6)
    info = json.loads((tmp_path / "run/checkpoints/step_00000002/training/state.json").read_text())
    assert info["identity"]["data"][0] == f"{desk.hash} weight=2.0"
    assert info["identity"]["data"][-1] == "holdout=0.3"
    assert len(list((folder / "desk/statistics").iterdir())) == 1


@pytest.mark.parametrize(
    ("changed", "said_now"),
    [
        ({"desk": "weight: 3"}, "weight=3.0"),
        ({"other": OTHER_ENTRY.replace("normalise: own", "normalise: shared")}, "language=drop"),
        (
            {"other": OTHER_ENTRY.replace("use_action: [delta_position, gripper]", "use_action: [delta_position]")},
            "use_action=delta_position embodiment",
        ),
        ({"desk": "weight: 2, episodes: ['e[0-6]']"}, "episodes=e[0-6]"),
        ({"holdout": 0.4}, "holdout=0.4"),
    ],
    ids=["weight", "normalise", "use_action", "episodes", "holdout"],
)
def test_a_run_is_resumed_with_the_same_data_only(
    train: Train, folder: Path, run_to_resume: Path, changed: dict[str, Any], said_now: str
) -> None:
    entries = {name: value for name, value in changed.items() if name != "holdout"}
    holdout = f"data.holdout={changed.get('holdout', 0.3)}"
    status, _, wrong = train(
        *FAST, stores(folder, **entries), holdout, f"out={run_to_resume}", "resume=true", "trainer.max_steps=3"
    )
    assert status == 2
    assert "was trained with" in wrong and "data" in wrong and said_now in wrong
    assert "Traceback" not in wrong


@pytest.fixture(scope="module")
def run_to_resume(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    assert run(app, ["train", *FAST, "trainer.max_steps=1", stores(folder), f"out={out}"]) == 0
    return out


def test_the_same_data_resumes(train: Train, folder: Path, run_to_resume: Path) -> None:
    status, said, _ = train(*FAST, stores(folder), f"out={run_to_resume}", "resume=true", "trainer.max_steps=2")
    assert status == 0 and "at step 1" in said


@pytest.mark.parametrize(
    ("other", "status", "message"),
    [
        (OTHER_ENTRY.replace("embodiment: any, ", ""), 1, "embodiment: any (another robot is meant)"),
        (OTHER_ENTRY.replace("rate: resample, ", ""), 1, "rate: resample (read it at the required rate)"),
        (OTHER_ENTRY.replace("front_cam", "frnt_cam"), 1, "did you mean 'front_cam'"),
        (OTHER_ENTRY.replace("normalise", "normalize"), 2, "did you mean 'normalise'"),
        (OTHER_ENTRY.replace("weight: 1.5, ", ""), 2, "give a weight to every store or to none"),
        ("weight: 1", 1, "say so in the store's entry in data.stores"),
    ],
)
def test_a_mistake_in_an_entry_is_one_message(
    train: Train, folder: Path, tmp_path: Path, other: str, status: int, message: str
) -> None:
    found, _, wrong = train(*FAST, stores(folder, other), f"out={tmp_path}/run")
    assert found == status
    assert message in wrong and "Traceback" not in wrong
    assert not (tmp_path / "run").exists()


def test_a_store_without_held_out_episodes_is_left_out_of_validation(
    train: Train, folder: Path, tmp_path: Path
) -> None:
    desk = Store.open(folder / "desk")
    kept = [info.name for info in desk.index if not held_out(info.name, 0.3)]
    entry = f"weight: 2, episodes: [{', '.join(kept)}]"
    status, said, _ = train(*FAST, stores(folder, desk=entry), f"out={tmp_path}/run")
    assert status == 0
    assert "no episode is held out of it; validation goes without" in said.replace("\n", " ")


def test_the_example_of_the_docs_trains(train: Train, folder: Path, tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/mixtures.md").read_text()
    example = page.split("```yaml\n")[1].split("```")[0]
    for ours, there in (("desk_d", "desk"), ("video", "video"), ("other_arm", "other")):
        assert f"path: data/{ours}" in example
        example = example.replace(f"path: data/{ours}", f"path: {folder}/{there}")
    (tmp_path / "mix.yaml").write_text(example)
    status, _, wrong = train(*FAST, f"data.stores={tmp_path}/mix.yaml", f"out={tmp_path}/run")
    assert (status, wrong.strip()) == (0, "")
    info = json.loads((tmp_path / "run/checkpoints/step_00000002/training/state.json").read_text())
    assert info["provenance"]["settings"]["data"]["stores"][2]["rate"] == "resample", "what the file said is recorded"


def test_video_alone_teaches_no_actions(train: Train, folder: Path, tmp_path: Path) -> None:
    status, _, wrong = train(
        *FAST, "policy.state=[]", f"data.stores=[{{path: {folder}/desk, use_action: []}}]", f"out={tmp_path}/run"
    )
    assert status == 2
    assert "use policy.actions=false" in wrong
