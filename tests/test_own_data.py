"""docs/own-data.md, run from first to last block on recordings of the desk written out as other people's files."""

from __future__ import annotations

import importlib.util
import json
import re
import runpy
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import av
import h5py
import numpy as np
import pytest
from PIL import Image

from foreact.commands.hydra_config import compose
from foreact.commands.main import app, run
from foreact.datasets.episode import EpisodeData
from foreact.datasets.lint import lint_store
from foreact.datasets.recorder import Recorder
from foreact.datasets.store import Store
from foreact.sim.demonstrate import DemonstrationSettings, demonstrate_once
from foreact.sim.embodiment import desk_contract
from foreact.sim.env import DeskEnv
from foreact.vla.contract import Contract
from foreact.vla.errors import ForeActError

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/own-data.md").read_text()
EXAMPLES = ROOT / "examples/own_data"
SMALL = (
    "policy=foreact_debug", "trainer.batch_size=4", "trainer.threads=1", "trainer.precision=fp32",
    "trainer.log_every=1", "trainer.tensorboard=false", "trainer.validate_every=2", "trainer.validate_batches=1",
    "trainer.save_every=2",
)  # fmt: skip
UNITS = np.array([0.02, 0.02, 0.02, 0.05, 0.05, 0.05])
TASKS = ("open_drawer", "turn_on_led", "move_slider_left")
HEADER = "time_s,x,y,z,roll,pitch,yaw,width,dx,dy,dz,droll,dpitch,dyaw,open"


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


doc_blocks = load(Path(__file__).with_name("doc_blocks.py"))


def rows_of(episode: EpisodeData) -> np.ndarray:
    """(T, 15): time [s], measured pose and width, commanded steps [m, rad] and 1 open or 0 closed."""
    assert episode.state is not None and episode.action is not None
    time_s = 1.7e9 + np.arange(len(episode)) / 30
    steps = episode.action[:, :6] * UNITS
    return np.column_stack([time_s, episode.state[:, :7], steps, episode.action[:, 6] > 0])


def write_folder(folder: Path, episode: EpisodeData) -> None:
    """As somebody's recorder might: a film (larger than needed), pictures, a CSV, a sentence."""
    (folder / "wrist").mkdir(parents=True)
    with av.open(str(folder / "front.mp4"), "w") as container:
        stream: Any = container.add_stream("libx264", rate=Fraction(30), options={"crf": "18"})
        stream.width, stream.height, stream.pix_fmt, stream.thread_count = 400, 400, "yuv420p", 1
        for frame in episode.images["rgb_static"]:
            large = np.asarray(Image.fromarray(frame).resize((400, 400), Image.Resampling.BILINEAR))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(large, format="rgb24")))
        container.mux(stream.encode(None))
    for number, frame in enumerate(episode.images["rgb_gripper"]):
        Image.fromarray(frame).save(folder / f"wrist/{number:05d}.png")
    np.savetxt(folder / "robot.csv", rows_of(episode), delimiter=",", header=HEADER, comments="", fmt="%.9f")
    (folder / "instruction.txt").write_text(episode.instruction + "\n")


def write_bag(path: Path, episode: EpisodeData) -> None:
    """MCAP: a raw and a compressed camera, pose, fingers, and commands in the contract's units, all at 30 Hz."""
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import Stores, get_typestore

    types = get_typestore(Stores.ROS2_JAZZY)

    def make(kind: str, **values: Any) -> Any:
        return types.types[kind](**values)

    header = make("std_msgs/msg/Header", stamp=make("builtin_interfaces/msg/Time", sec=0, nanosec=0), frame_id="base")
    kinds = {
        "/front/image_raw": "sensor_msgs/msg/Image",
        "/wrist/image_raw/compressed": "sensor_msgs/msg/CompressedImage",
        "/tcp": "geometry_msgs/msg/TwistStamped",
        "/joint_states": "sensor_msgs/msg/JointState",
        "/commands": "std_msgs/msg/Float64MultiArray",
        "/instruction": "std_msgs/msg/String",
    }
    assert episode.action is not None
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        topics = {topic: writer.add_connection(topic, kind, typestore=types) for topic, kind in kinds.items()}

        def send(topic: str, at: int, value: Any) -> None:
            writer.write(topics[topic], at, types.serialize_cdr(value, kinds[topic]))

        send("/instruction", 10**18, make("std_msgs/msg/String", data=episode.instruction))
        for t, row in enumerate(rows_of(episode)):
            at = 10**18 + round(t * 1e9 / 30)
            front = episode.images["rgb_static"][t]
            send("/front/image_raw", at, make(
                "sensor_msgs/msg/Image", header=header, height=200, width=200, encoding="rgb8", is_bigendian=0,
                step=600, data=front.reshape(-1),
            ))  # fmt: skip
            png = path.parent / "frame.png"
            Image.fromarray(episode.images["rgb_gripper"][t]).save(png)
            data = np.frombuffer(png.read_bytes(), np.uint8)
            png.unlink()
            send("/wrist/image_raw/compressed", at, make(
                "sensor_msgs/msg/CompressedImage", header=header, format="rgb8; png compressed rgb8", data=data,
            ))  # fmt: skip
            linear, angular = (
                make("geometry_msgs/msg/Vector3", x=float(x), y=float(y), z=float(z))
                for x, y, z in (row[1:4], row[4:7])
            )
            twist = make("geometry_msgs/msg/Twist", linear=linear, angular=angular)
            send("/tcp", at, make("geometry_msgs/msg/TwistStamped", header=header, twist=twist))
            send("/joint_states", at, make(
                "sensor_msgs/msg/JointState", header=header, name=["other_joint", "finger_joint"],
                position=np.array([9.0, row[7]]), velocity=np.zeros(0), effort=np.zeros(0),
            ))  # fmt: skip
            layout = make("std_msgs/msg/MultiArrayLayout", dim=[], data_offset=0)
            command = make("std_msgs/msg/Float64MultiArray", layout=layout, data=episode.action[t].astype(np.float64))
            send("/commands", at, command)


@pytest.fixture(scope="session")
def episodes() -> list[EpisodeData]:
    """Six demonstrations of the desk."""
    env = DeskEnv("D")
    found = [demonstrate_once(env, task, 0, index, DemonstrationSettings())[0] for index in (0, 1) for task in TASKS]
    env.close()
    return [episode for episode in found if episode is not None]


@pytest.fixture(scope="session")
def _made(episodes: list[EpisodeData], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lab")
    for number, episode in enumerate(episodes, 1):
        write_folder(folder / f"recordings/{number:04d}", episode)
    (folder / "bags").mkdir()
    write_bag(folder / "bags/run1", episodes[0])
    recorder = Recorder(folder / "desk", desk_contract())
    for number, episode in enumerate(episodes[:2]):
        recorder.write(episode, name=f"d{number}")
    assert run(app, ["data", "convert", str(folder / "desk"), str(folder / "demos.hdf5")]) == 0
    with h5py.File(folder / "demos.hdf5", "r+") as file:  # as others write it: without what ForeAct adds

        def strip(_: str, node: Any) -> None:
            if "foreact" in node.attrs:
                del node.attrs["foreact"]

        strip("", file)
        file.visititems(strip)
    lerobot = str(folder / "lerobot_dataset")
    assert run(app, ["data", "convert", str(folder / "desk"), lerobot, "--to", "lerobot-v3"]) == 0
    shutil.rmtree(folder / "desk")
    return folder


@pytest.fixture
def lab(_made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with somebody's recordings and the repository's examples."""
    shutil.copytree(_made, tmp_path / "lab")
    shutil.copytree(EXAMPLES, tmp_path / "lab/examples/own_data")
    monkeypatch.chdir(tmp_path / "lab")
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    return tmp_path / "lab"


def script(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", words)
    runpy.run_path(words[0], run_name="__main__")


def foreact(words: list[str]) -> int:
    return run(app, words)


def test_the_files_on_the_page_are_those_of_the_examples() -> None:
    shown = {block for _, block in doc_blocks.fenced(PAGE)}
    for name in ("arm.yaml", "topics.yaml", "record.py"):
        assert (EXAMPLES / name).read_text() in shown, f"docs/own-data.md shows another {name}"


def test_the_page_runs_from_its_first_block_to_its_last(
    lab: Path, episodes: list[EpisodeData], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {(EXAMPLES / name).read_text() for name in ("record.py", "predict.py")}
    steps = 0
    for language, block in doc_blocks.fenced(PAGE):
        if language == "python" and block not in files:
            (lab / "block.py").write_text(block)
            script([str(lab / "block.py")], monkeypatch)
        for line in doc_blocks.commands(block) if language == "bash" else ():
            words = shlex.split(line)
            if words[0] == "python":
                script(words[1:], monkeypatch)
                continue
            assert words[0] == "foreact"
            if words[1] == "train":
                steps += 4
                words += [*SMALL, f"trainer.max_steps={steps}"]
            status = foreact(words[1:])
            said = capsys.readouterr()
            assert status == 0, f"{line}\n{said.out}{said.err}"
    check_stores(lab, episodes)
    store = Store.open("data/my_arm")
    recorded, predicted = runpy.run_path("examples/own_data/predict.py")["predict"](store, "runs/my_arm/policy", "0001")
    np.testing.assert_array_equal(recorded, store.read("0001", cameras=()).action)
    assert predicted.shape == recorded.shape and np.abs(predicted).max() <= 1 and set(predicted[:, 6]) <= {-1.0, 1.0}
    assert np.ptp(predicted[:, :6], axis=0).min() > 0  # it looks at what it sees
    lines = [json.loads(line) for line in (lab / "runs/my_arm/log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "validation"] == [2, 4, 6, 8]
    picture = np.asarray(Image.open(lab / "predicted.png").convert("RGB")).astype(int)
    assert picture.shape == (7 * 90, 900, 3)
    assert (picture.sum(axis=2) == 0).any() and ((picture[..., 0] == 255) & (picture[..., 1] == 0)).any()


def check_stores(lab: Path, episodes: list[EpisodeData]) -> None:
    """What arrived in the stores is what the simulator recorded."""
    for name, expected in (("my_arm", episodes), ("from_bags", episodes[:1])):
        store = Store.open(lab / "data" / name)
        assert len(store) == len(expected)
        assert store.contract == Contract.load(EXAMPLES / "arm.yaml")
        for number, episode in enumerate(expected):
            found = store.read(number)
            assert episode.state is not None and episode.action is not None and found.state is not None
            np.testing.assert_allclose(found.state, episode.state[:, :7], atol=2e-6)
            np.testing.assert_allclose(found.action, episode.action, atol=1e-5)  # pyright: ignore
            assert found.instruction == episode.instruction
            for ours, theirs, most in (("front", "rgb_static", 6), ("wrist", "rgb_gripper", 6)):
                off = found.images[ours].astype(float) - episode.images[theirs]
                assert np.abs(off).mean() < most, f"{name} {ours}"
    assert len(Store.open(lab / "data/from_hdf5")) == len(Store.open(lab / "data/from_lerobot")) == 2
    report = lint_store(lab / "data/my_arm")
    assert not report.failed(strict=True), report.findings


def test_cameras_given_as_a_whole_replace_the_default() -> None:
    settings = compose("train", ["policy=foreact_debug", "policy.cameras={front: [16, 16]}"])
    assert settings["policy"]["cameras"] == {"front": [16, 16]}
    added = compose("train", ["+policy.cameras.side=[64, 64]"])["policy"]["cameras"]
    assert set(added) == {"rgb_static", "rgb_gripper", "side"}


def rows_of_the_table() -> list[re.Pattern[str]]:
    """The messages of the page's table; `…` stands for anything."""
    found = re.findall(r"^\| `(.+?)` \|", PAGE, flags=re.MULTILINE)
    return [re.compile(".*".join(map(re.escape, row.replace("…", "\0").split("\0"))), re.DOTALL) for row in found]


def noise(number: int = 0, length: int = 12) -> EpisodeData:
    contract, rng = Contract.load(EXAMPLES / "arm.yaml"), np.random.default_rng(number)
    return EpisodeData(
        images={c.name: rng.integers(0, 255, (length, c.height, c.width, 3), np.uint8) for c in contract.cameras},
        state=rng.random((length, 7)) * 0.05,
        action=rng.uniform(-1, 1, (length, 7)),
        instruction="wave at the camera",
    )


def spoil(change: Callable[[EpisodeData], object]) -> EpisodeData:
    episode = noise()
    change(episode)
    return episode


def cut_off(episode: EpisodeData) -> None:
    assert episode.action is not None
    episode.action = episode.action[:, :6]


def refusals(lab: Path, said: Callable[[], str]) -> Iterator[str]:
    """Every mistake of the table, made for real: the message."""
    contract = Contract.load(EXAMPLES / "arm.yaml")
    recorder = Recorder("mine", contract)
    recorder.write(noise(), name="a")
    bad_state = noise()
    assert bad_state.state is not None
    bad_state.state[3, 2] = np.nan
    for call in (
        lambda: Contract.from_yaml("version: 1\nembodiment: a\nrate_hz: 0\ncameras: []", "arm.yaml"),
        lambda: recorder.write(spoil(lambda e: e.images.update(front=e.images["front"][:, ::2])), name="b"),
        lambda: recorder.write(spoil(lambda e: e.images.update(front=e.images["front"][:-1])), name="b"),
        lambda: recorder.write(bad_state, name="b"),
        lambda: recorder.write(spoil(cut_off), name="b"),
        lambda: recorder.write(noise(), name="a"),
        lambda: Recorder("mine", contract.model_copy(update={"rate_hz": 15.0})),
    ):
        with pytest.raises(ForeActError) as refused:
            call()
        yield str(refused.value)

    for path in sorted((lab / "recordings").glob("*/robot.csv")):
        table = np.loadtxt(path, delimiter=",", skiprows=1)
        table[:, 0] = np.float32(table[:, 0])  # a clock without enough digits
        table[:, 4:7] *= 180 / np.pi
        table[:, 8:11] *= -1  # commands in a frame that is turned
        np.savetxt(path, table, delimiter=",", header=HEADER, comments="", fmt="%.9f")
    runpy.run_path("examples/own_data/record.py")["main"]("recordings", "linted")
    assert foreact(["data", "lint", "linted"]) == 1
    yield from said().splitlines()

    with h5py.File(lab / "aloha.hdf5", "w") as file:
        file["observations/qpos"], file["action"] = np.zeros((3, 2)), np.zeros((3, 2))
    (lab / "topics.yaml").write_text((EXAMPLES / "topics.yaml").read_text().replace("  wrist:", "  hand:"))
    seen = ["policy.cameras={front: [16, 16], wrist: [16, 16]}", "policy.state=[tcp_position]", "data.path=mine"]
    small = ["train", *SMALL, "trainer.max_steps=1"]
    for words in (
        ["data", "convert", "aloha.hdf5", "x"],
        ["data", "convert", "bags", "x", "--contract", "examples/own_data/arm.yaml", "--set", "topics=topics.yaml"],
        [*small, "data.path=mine"],
        [*small, "data.path=mine", seen[0]],
        [*small, "data.path=mine", "policy.cameras={front: [16, 16], wrist: [32, 32]}", seen[1], "data.holdout=0"],
        [*small, *seen, "data.holdout=0.01"],
        [*small, *seen, "data.holdout=0", "out=run"],
        [*small, *seen, "data.holdout=0", "out=run"],
        ["evaluate", "checkpoint=run/policy", "out=judged"],
    ):
        status = foreact(words)
        text = said()
        if status:
            yield text
    recorder.write(noise(1), name="c")
    assert foreact([*small, *seen, "data.holdout=0", "out=run", "resume=true"])
    yield said()


def test_every_message_of_the_table_is_real(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = rows_of_the_table()
    capsys.readouterr()

    def said() -> str:
        found = capsys.readouterr()
        return found.out + found.err

    messages = list(refusals(lab, said))
    missing = [row.pattern for row in rows if not any(row.search(" ".join(message.split())) for message in messages)]
    assert len(rows) == 19
    assert missing == [], "\n".join(["no message is like", *missing, "among", *messages])
