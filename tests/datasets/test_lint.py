"""`foreact data lint`: every rule finds the one defect made on purpose, and is silent on clean recordings."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from foreact.commands.data import app
from foreact.datasets import lint_workers
from foreact.datasets.episode import EpisodeData, Segment
from foreact.datasets.layout import INDEX_FILE, StoreError
from foreact.datasets.lint import all_rules, lint_store
from foreact.datasets.lint_language import oddity
from foreact.datasets.lint_rotations import rotation_steps
from foreact.datasets.recorder import Recorder
from foreact.sim.demonstrate import DemonstrationSettings, demonstrate_once
from foreact.sim.env import DeskEnv
from foreact.vla.contract import Camera, Contract, Field

RATE, LENGTH = 10, 60
CONTRACT = Contract(
    embodiment="test_arm",
    rate_hz=RATE,
    cameras=(Camera(name="static", height=16, width=24), Camera(name="wrist", height=16, width=16)),
    state=(
        Field(name="position", size=3, unit="m", frame="world"),
        Field(name="euler", size=3, unit="rad", frame="world", rotation="euler_xyz"),
        Field(name="quaternion", size=4, unit="1", rotation="quat_xyzw"),
        Field(name="gripper_width", size=1, unit="m", low=0.0, high=0.08),
        Field(name="force", size=1, unit="N"),
    ),
    action=(
        Field(name="delta_position", size=3, unit="0.02 m", frame="world", low=-1, high=1, relative=True),
        Field(name="gripper", size=1, unit="1", low=-1, high=1),
    ),
    gripper="+1 open, -1 close",
)
POSITION, EULER, QUATERNION, WIDTH, FORCE = slice(0, 3), slice(3, 6), slice(6, 10), 10, 11


def clean(number: int = 0, length: int = LENGTH) -> EpisodeData:
    """An arm that does what it is told one frame later, and cameras with noise."""
    rng = np.random.default_rng(number)
    t = np.arange(length)[:, None] / RATE
    action = np.empty((length, 4))
    action[:, :3] = 0.8 * np.sin(2 * np.pi * (t * [0.31, 0.43, 0.57] + rng.random(3)))
    action[:, 3] = np.where(t[:, 0] % 4 < 2, 1, -1)
    moved = np.concatenate([np.zeros((2, 3)), np.cumsum(0.02 * action[:, :3], axis=0)[:-2]])
    width = np.zeros(length)
    for k in range(1, length):
        width[k] = np.clip(width[k - 1] + 0.03 * action[k - 1, 3], 0, 0.08)
    euler = np.stack([np.pi + 0.2 * np.sin(t[:, 0]), 0.1 * np.cos(t[:, 0]), 0.3 * t[:, 0]], 1)
    euler = (euler + np.pi) % (2 * np.pi) - np.pi  # wraps, as measured angles do
    half = 0.1 * t[:, 0]
    quaternion = np.stack([np.sin(half), 0 * half, 0 * half, np.cos(half)], 1)
    force = np.sin(t * 3) + 0.05 * rng.standard_normal((length, 1))
    state = np.concatenate([0.3 + moved, euler, quaternion, width[:, None], force], 1)
    base = {"static": (110, (16, 24, 3)), "wrist": (170, (16, 16, 3))}
    images = {
        name: np.clip(grey + 30 * rng.standard_normal((length, *shape)), 20, 235).astype(np.uint8)
        for name, (grey, shape) in base.items()
    }
    return EpisodeData(
        images=images,
        state=state.astype(np.float32),
        action=action.astype(np.float32),
        extras={"timestamp": np.arange(length) / RATE + 1e9},
        instruction=f"move along path {number}",
        meta={"task": "move", "split": "train"},
    )


def write(path: Path, episodes: dict[str, EpisodeData], contract: Contract = CONTRACT, codec: str = "raw") -> Path:
    recorder = Recorder(path, contract, codec=codec)
    for name, episode in episodes.items():
        recorder.write(episode, name=name)
    return path


def found(path: Path) -> set[tuple[str, str]]:
    """(rule, episode) of every finding."""
    return {(finding.rule, finding.episode) for finding in lint_store(path).findings}


def image(e: EpisodeData, camera: str, frames: slice, value: int | None) -> None:
    pictures = e.images[camera]
    pictures[frames] = pictures[frames.start] if value is None else value


def numbers(kind: str, index: object, value: Callable[[np.ndarray], object]) -> Callable[[EpisodeData], None]:
    def change(e: EpisodeData) -> None:
        array = getattr(e, kind)
        array[index] = value(array[index].copy())

    return change


def repeat_every_other(e: EpisodeData) -> None:
    e.images["static"][1::2] = e.images["static"][::2]


def stop_state(e: EpisodeData) -> None:
    assert e.state is not None
    e.state[20:40] = e.state[20]


def shift_action(e: EpisodeData, frames: int) -> None:
    assert e.action is not None
    e.action[:] = np.roll(e.action, frames, axis=0)


def stamps(values: Callable[[np.ndarray], np.ndarray]) -> Callable[[EpisodeData], None]:
    def change(e: EpisodeData) -> None:
        e.extras["timestamp"] = values(e.extras["timestamp"].copy())

    return change


def late(t: np.ndarray) -> np.ndarray:
    t[10::7] += 0.09
    return t


def backwards(t: np.ndarray) -> np.ndarray:
    t[30] = t[29] - 0.01
    return t


def idle(e: EpisodeData) -> None:
    rng = np.random.default_rng(5)
    for kind in ("state", "action"):
        values = getattr(e, kind)
        still = np.repeat(values[:1], 40, axis=0)
        if kind == "action":
            still[:, :3] = 0
        else:
            still[:, POSITION] += 1e-5 * rng.standard_normal((40, 3))
        setattr(e, kind, np.concatenate([still, values]).astype(np.float32))
    e.images = {n: np.concatenate([clean(9, 40).images[n], f]) for n, f in e.images.items()}
    e.extras["timestamp"] = np.arange(len(e.state)) / RATE  # pyright: ignore[reportArgumentType]


DEFECTS: dict[str, Callable[[EpisodeData], object]] = {
    "frozen-camera": lambda e: image(e, "wrist", slice(20, 40), None),
    "repeated-frames": repeat_every_other,
    "black-frames": lambda e: image(e, "static", slice(5, 6), 3),
    "saturated-frames": lambda e: image(e, "static", slice(5, 8), 252),
    "flat-frames": lambda e: image(e, "wrist", slice(5, 8), 128),
    "units": numbers("state", (slice(None), POSITION), lambda v: v * 1000),
    "quaternion-length": numbers("state", (slice(30, 35), QUATERNION), lambda v: v * 1.1),
    "action-out-of-range": numbers("action", (12, 1), lambda v: 1.3),
    "state-out-of-range": numbers("state", (slice(10, 20), WIDTH), lambda v: v + 0.1),
    "state-jump": numbers("state", (30, 0), lambda v: v + 0.5),
    "state-stuck": stop_state,
    "action-stuck": numbers("action", (slice(20, 45), slice(0, 3)), lambda v: 0 * v),
    "saturated-action": numbers("action", (slice(None), 1), lambda v: np.sign(v)),
    "idle": idle,
    "action-late": lambda e: shift_action(e, 4),
    "action-direction": numbers("action", (slice(None), 1), lambda v: -v),
    "gripper-sign": numbers("action", (slice(None), 3), lambda v: -v),
    "gripper-values": numbers("action", (slice(None), 3), lambda v: (v + 1) / 2),
    "time-backwards": stamps(backwards),
    "rate": stamps(lambda t: (t - t[0]) * 2),
    "rate-jitter": stamps(late),
    "language-missing": lambda e: setattr(e, "instruction", ""),
    "language-odd": lambda e: setattr(e, "instruction", "open the\u200b drawer"),
    "language-long": lambda e: setattr(e, "instruction", "open the drawer and then " * 12 + "stop"),
    "segment-short": lambda e: setattr(e, "segments", [Segment(start=3, end=5, instruction="reach")]),
}
ALLOWED: dict[str, set[str]] = {
    # What a defect causes besides: a robot told half the truth contradicts itself in other ways too.
    "units": {"state-jump"},
    "state-out-of-range": {"gripper-sign"},
    "action-late": {"gripper-sign", "lag-odd"},
    "state-stuck": {"state-jump"},
}


@pytest.fixture(scope="module")
def clean_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("clean") / "s", {f"e{n}": clean(n) for n in range(4)})


def test_clean_data_has_no_findings(clean_store: Path) -> None:
    report = lint_store(clean_store)
    assert report.findings == [] and (report.episodes, report.frames) == (4, 4 * LENGTH)


def test_a_single_dropped_frame_is_found_and_a_trembling_clock_is_not(tmp_path: Path) -> None:
    dropped, trembling = clean(0), clean(1)
    time = dropped.extras["timestamp"]
    time[20:] += time[1] - time[0]
    rng = np.random.default_rng(0)
    period = trembling.extras["timestamp"][1] - trembling.extras["timestamp"][0]
    trembling.extras["timestamp"] += rng.uniform(-0.2, 0.2, LENGTH) * period
    report = lint_store(write(tmp_path / "s", {"dropped": dropped, "trembling": trembling}))
    found = [(f.episode, f.rule) for f in report.findings if f.rule == "rate-jitter"]
    assert found == [("dropped", "rate-jitter")]
    assert "about 1 dropped" in next(f.message for f in report.findings if f.rule == "rate-jitter")


def test_real_recordings_have_no_findings_until_they_are_spoilt(tmp_path: Path) -> None:
    env = DeskEnv("D")
    episodes: dict[str, EpisodeData] = {}
    for task in ("open_drawer", "turn_on_led"):
        episode, _ = demonstrate_once(env, task, 0, 0, DemonstrationSettings())
        assert episode is not None
        episodes[task] = episode
    assert lint_store(write(tmp_path / "clean", episodes, env.contract, "fast")).findings == []
    spoilt = episodes["open_drawer"]
    assert spoilt.action is not None and spoilt.state is not None
    spoilt.images["rgb_static"][5:] = spoilt.images["rgb_static"][5]
    spoilt.action[:, 1] *= -1
    spoilt.state[:, 7:14] *= 180 / np.pi
    rules = {name for name, _ in found(write(tmp_path / "spoilt", episodes, env.contract, "fast"))}
    assert rules >= {"frozen-camera", "action-direction", "units"}
    assert rules <= {"frozen-camera", "action-direction", "units", "state-jump"}


@pytest.mark.parametrize("rule", DEFECTS)
def test_a_rule_finds_its_defect_and_nothing_else(rule: str, tmp_path: Path) -> None:
    bad = clean(0)
    DEFECTS[rule](bad)
    rules = {name for name, episode in found(write(tmp_path / "s", {"bad": bad, "good": clean(1)})) if episode == "bad"}
    assert rule in rules and rules - {rule} <= ALLOWED.get(rule, set())
    assert not found(tmp_path / "s") & {(name, "good") for name, *_ in all_rules()}


def test_the_frames_of_a_finding_are_those_of_the_defect(tmp_path: Path) -> None:
    bad = clean(0)
    image(bad, "wrist", slice(20, 40), None)
    image(bad, "static", slice(50, 53), 0)
    report = lint_store(write(tmp_path / "s", {"bad": bad}))
    where = {f.rule: (f.start, f.end, f.severity) for f in report.findings}
    assert where["frozen-camera"] == (20, 40, "error") and where["black-frames"] == (50, 53, "error")
    assert "'wrist'" in str(report.findings[-1]) and report.failed() and report.counts()["error"] == 2


def test_a_camera_may_stand_still_while_the_robot_does(tmp_path: Path) -> None:
    still = clean(0)
    assert still.state is not None and still.action is not None
    still.state[20:40] = still.state[20]
    still.action[20:40, :3] = 0
    image(still, "wrist", slice(20, 40), None)
    rules = {name for name, _ in found(write(tmp_path / "s", {"e": still}))}
    assert not rules & {"frozen-camera", "repeated-frames", "state-stuck"}


@pytest.mark.parametrize("codec", ["jpeg:quality=90,subsampling=444", "h264"])
def test_frozen_cameras_are_seen_through_lossy_codecs(codec: str, tmp_path: Path) -> None:
    bad = clean(0)
    image(bad, "static", slice(20, 40), None)
    where = found(write(tmp_path / "s", {"bad": bad, "good": clean(1)}, codec=codec))
    assert where == {("frozen-camera", "bad")}


def test_damage_is_a_finding(clean_store: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(clean_store, tmp_path / "s")
    chunk = tmp_path / "s/episodes/e1/state/c/0/0"
    chunk.write_bytes(bytes(len(chunk.read_bytes())))
    (tmp_path / "s/episodes/e2/manifest.json").write_bytes(b"{}")
    (tmp_path / "s" / INDEX_FILE).unlink(missing_ok=True)
    assert found(tmp_path / "s") == {("damaged", "e1"), ("damaged", "e2")}


def test_the_report_is_the_same_from_any_number_of_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lint_workers, "FEWEST_EPISODES", 1)
    episodes = {f"e{n:02d}": clean(n) for n in range(9)}
    for number, defect in enumerate(list(DEFECTS)[:4]):
        DEFECTS[defect](episodes[f"e{number:02d}"])
    path = write(tmp_path / "s", episodes | {"e09": clean(4)})  # and a duplicate
    chunk = path / "episodes/e06/state/c/0/0"
    chunk.write_bytes(bytes(len(chunk.read_bytes())))
    calls: list[tuple[int, int]] = []
    alone = lint_store(path, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(n, 10) for n in range(1, 11)]
    assert {"damaged", "duplicate-episode"} < {f.rule for f in alone.findings} and alone.episodes == 9
    calls.clear()
    report = lint_store(path, workers=2, progress=lambda done, total: calls.append((done, total)))
    assert report == alone and calls == [(n, 10) for n in range(1, 11)]
    assert lint_store(path, workers=3, episodes=8) == lint_store(path, episodes=8)


def test_a_process_that_dies_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lint_workers, "FEWEST_EPISODES", 1)
    path = write(tmp_path / "s", {f"e{n:02d}": clean(n) for n in range(24)})

    def kill(done: int, total: int) -> None:
        for process in multiprocessing.active_children() if done == 1 else ():
            process.kill()

    with pytest.raises(StoreError, match="a process of the check died .* --workers 1"):
        lint_store(path, workers=2, progress=kill)


def test_short_and_endless_episodes(tmp_path: Path) -> None:
    contract = CONTRACT.model_copy(update={"rate_hz": 0.1})
    endless = clean(0)
    endless.extras = {}
    assert ("episode-long", "e") in found(write(tmp_path / "long", {"e": endless}, contract))
    endless.segments = [Segment(start=0, end=LENGTH, instruction="a part")]
    assert ("episode-long", "e") not in found(write(tmp_path / "parts", {"e": endless}, contract))
    assert ("episode-short", "e") in found(write(tmp_path / "short", {"e": clean(0, 6)}))


def test_duplicates_and_leaks(tmp_path: Path) -> None:
    val = {"task": "move", "split": "val"}
    half = clean(2)
    half.meta = dict(val)
    source = clean(1)
    assert half.state is not None and source.state is not None and half.action is not None
    assert source.action is not None
    half.state[:30], half.action[:30] = source.state[:30], source.action[:30]
    store = write(
        tmp_path / "s",
        {
            "a": clean(0),
            "b": clean(1),
            "c": clean(3),
            "copy": replace(clean(0), instruction="say it otherwise"),
            "leak": replace(clean(3), meta=val),
            "part": half,
        },
    )
    across = {(r, e) for r, e in found(store) if r in ("duplicate-episode", "split-leak")}
    assert across == {("duplicate-episode", "copy"), ("split-leak", "leak"), ("split-leak", "part")}
    assert any("another sentence" in f.message for f in lint_store(store).of("copy"))


def test_cameras_that_changed_places_or_are_missing(tmp_path: Path) -> None:
    contract = CONTRACT.model_copy(
        update={"cameras": tuple(Camera(name=n, height=16, width=16) for n in ("static", "wrist", "third"))}
    )
    episodes = {f"e{n}": clean(n) for n in range(6)}
    for episode in episodes.values():
        episode.images["static"] = episode.images["static"][:, :, :16].copy()
    swapped, odd = episodes["e4"].images, episodes["e5"].images
    swapped["static"], swapped["wrist"] = swapped["wrist"], swapped["static"]
    odd["wrist"] = (odd["wrist"] // 4).astype(np.uint8)
    odd["wrist"][:, 0, 0] = 90
    where = found(write(tmp_path / "s", episodes, contract))
    assert where == {("camera-swapped", "e4"), ("camera-odd", "e5"), ("camera-unused", "")}


def test_an_episode_shifted_against_the_others(tmp_path: Path) -> None:
    episodes = {f"e{n}": clean(n) for n in range(5)}
    late = episodes["e3"]
    assert late.action is not None
    late.action[:, :3] = np.roll(late.action[:, :3], -4, axis=0)  # motion now follows four frames later
    late.action[-4:, :3] = 0
    assert found(write(tmp_path / "s", episodes)) == {("lag-odd", "e3")}


def test_lengths_and_ways_of_writing(tmp_path: Path) -> None:
    episodes = {f"e{n}": clean(n, 200 if n == 5 else 30) for n in range(6)}
    episodes["e1"].instruction = episodes["e0"].instruction.upper() + "."
    where = found(write(tmp_path / "s", episodes))
    assert {("episode-length", "e5"), ("language-variants", "")} <= where
    assert {rule for rule, _ in where} <= {"episode-length", "language-variants", "action-stuck"}


@pytest.mark.parametrize(
    ("text", "odd"),
    [
        ("open the drawer", False),
        ("\u00f6ffne die Schublade, bitte!", False),
        ("\u6253\u5f00\u62bd\u5c49", False),
        (" open the drawer", True),
        ("open  the drawer", True),
        ("\u00c3\u00b6ffne die Schublade", True),
        ("pick the {object}", True),
        ("TODO", True),
        ("42", True),
        ("o\u0308ffne", True),
        ("open\nthe drawer", True),
    ],
)
def test_odd_sentences(text: str, odd: bool) -> None:
    assert bool(oddity(text)) is odd


def test_rotation_steps_agree_with_one_another() -> None:
    # A turn about z by 0.1 rad per frame, written in three ways; Euler angles wrap on the way.
    angle = np.arange(80) * 0.1
    zero = np.zeros_like(angle)
    written = {
        "euler_xyz": np.stack([zero, zero, (angle + np.pi) % (2 * np.pi) - np.pi], 1),
        "rotvec": np.stack([zero, zero, angle], 1),
        "quat_xyzw": np.stack([zero, zero, np.sin(angle / 2), np.cos(angle / 2)], 1),
    }
    for rotation, values in written.items():
        part = Field(name="r", size=values.shape[1], unit="rad", rotation=rotation)  # pyright: ignore[reportArgumentType]
        steps = rotation_steps(part, values, 1.0)
        assert steps is not None
        np.testing.assert_allclose(steps, 0.1, atol=1e-6)


def test_every_rule_is_tried_here_and_stands_in_the_documentation() -> None:
    tried = set(DEFECTS) | {"damaged", "episode-long", "episode-short", "duplicate-episode", "split-leak", "lag-odd"}
    tried |= {"camera-swapped", "camera-odd", "camera-unused", "episode-length", "language-variants"}
    assert tried == {name for name, *_ in all_rules()}
    text = (Path(__file__).parents[2] / "docs" / "quality.md").read_text()
    for name, severity, what in all_rules():
        assert f"| `{name}` | {severity} | {what} |" in text


def test_the_command(clean_store: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    fine = runner.invoke(app, ["lint", str(clean_store)])
    assert fine.exit_code == 0 and "4 episodes, 240 frames: 0 errors, 0 warnings, 0 notes" in fine.output
    warned = write(tmp_path / "warned", {"e": replace(clean(0), instruction="")})
    assert runner.invoke(app, ["lint", str(warned)]).exit_code == 0
    assert runner.invoke(app, ["lint", str(warned), "--strict"]).exit_code == 1
    bad = clean(0)
    image(bad, "static", slice(5, 6), 0)
    listed = runner.invoke(app, ["lint", str(write(tmp_path / "bad", {"a": clean(1), "e": bad})), "--json"])
    report = json.loads(listed.output)
    assert listed.exit_code == 1 and report["ok"] is False and report["counts"]["error"] == 1
    assert report["findings"][0]["episode"] == "e" and report["findings"][0]["start"] == 5
    first = runner.invoke(app, ["lint", str(tmp_path / "bad"), "--episodes", "1"])
    assert first.exit_code == 0 and "1 episodes, 60 frames" in first.output
