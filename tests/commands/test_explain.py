"""`foreact explain` with the shipped checkpoint, over a recorded episode; and what it says when it cannot."""

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from foreact.commands.explain import OTHER_TASKS, PARAPHRASES, other_sentences
from foreact.commands.main import app, run
from foreact.datasets.episode import EpisodeData, Segment
from foreact.datasets.recorder import Recorder
from foreact.policies.gr1.foreact import ForeAct
from foreact.policies.gr1.foreact_config import ForeActConfig
from foreact.sim.embodiment import desk_contract
from foreact.sim.language import UNSEEN, VALIDATION, task_of
from foreact.vla.checkpoint import load_policy, save_policy
from foreact.vla.contract import Contract

SHIPPED = Path(__file__).parents[2] / "checkpoints" / "foreact_desk"
LENGTH = 16


def _episode(contract: Contract, seed: int, instruction: str) -> EpisodeData:
    """A moving square before noise; the state wanders around the mean of the shipped policy's training data."""
    rng = np.random.default_rng(seed)
    images = {}
    for camera in contract.cameras:
        images[camera.name] = np.repeat(rng.integers(0, 256, (1, camera.height, camera.width, 3), np.uint8), LENGTH, 0)
        for t in range(LENGTH):
            images[camera.name][t, 3 * t : 3 * t + 20, 10:30] = 255
    state = (0.1 * rng.normal(size=(LENGTH, contract.state_size))).astype(np.float32)
    action = rng.uniform(-1, 1, (LENGTH, contract.action_size)).astype(np.float32)
    action[:, -1] = np.sign(action[:, -1])
    return EpisodeData(images=images, state=state, action=action, instruction=instruction)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("explain") / "store"
    recorder = Recorder(path, desk_contract())
    for seed, (name, said) in enumerate({"drawer": "open the drawer", "led": VALIDATION["turn_on_led"]}.items()):
        recorder.write(_episode(desk_contract(), seed, said), name=name)
    silent = _episode(desk_contract(), 5, "")
    recorder.write(
        replace(silent, segments=[Segment(start=4, end=9, instruction=VALIDATION["close_drawer"])]), name="segments"
    )
    recorder.write(silent, name="silent")
    return path


def _explain(*words: str) -> int:
    return run(app, ["explain", *words])


class _Sources(HTMLParser):
    """Everything that a page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for key, value in attrs if key in ("src", "href")]


def test_a_report_a_video_and_numbers(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import av

    words = ["--store", str(store), "--episode", "drawer", "--frames", "1:9", "--every", "3"]
    assert _explain(str(SHIPPED), *words, "--out", str(tmp_path / "o"), "--json") == 0
    printed = capsys.readouterr()
    values = json.loads(printed.out)
    assert values == json.loads((tmp_path / "o" / "explain.json").read_text())
    assert "resize rgb_static from 200x200 to 64x64" in printed.err
    assert values["frames"] == [1, 4, 7] and values["about"]["episode"] == "drawer"
    assert sum(share["share"] for share in values["attention"]["shares"].values()) == pytest.approx(1.0, abs=1e-5)
    assert set(values["attention"]["shares"]) == {"language", "state", "rgb_static", "rgb_gripper"}
    assert list(values["attention"]["steps"]) == ["0", "-3"]
    kinds = [change["kind"] for change in values["changes"]]
    assert kinds.count("paraphrase") == PARAPHRASES and kinds.count("other task") == 2 and kinds.count("empty") == 1
    assert kinds.count("state") == 2 and kinds.count("camera") == 4 and kinds.count("history") == 1
    # Frames 1, 4 and 7 + 9 control steps: the episode ends with frame 15.
    assert values["foresight"]["cameras"]["rgb_static"]["frames"] == 2

    page = (tmp_path / "o" / "explain.html").read_text()
    sources = _Sources()
    sources.feed(page)
    assert len(sources.found) == 4 and all(source.startswith("data:") for source in sources.found)
    assert "open the drawer" in page and VALIDATION["turn_on_led"] in page
    with av.open(str(tmp_path / "o" / "explain.mp4")) as video:
        shown = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert len(shown) == 7 and shown[0].shape[1] == 6 * 160


def test_a_table_for_people_and_a_sentence_of_ones_own(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--store", str(store), "--frames", "5:6", "--out", str(tmp_path), "--instruction", "<b>dance</b>"]
    assert _explain(str(SHIPPED), *words, "--part", "delta_position.2") == 0
    shown = capsys.readouterr().out
    assert "sentence: other task (3)" in shown and "paraphrase" not in shown and "explain.html" in shown
    page = (tmp_path / "explain.html").read_text()
    assert "&lt;b&gt;dance&lt;/b&gt;" in page and "<b>dance" not in page
    assert json.loads((tmp_path / "explain.json").read_text())["part"] == "delta_position.2"


def test_an_episode_may_have_its_sentence_in_a_segment(store: Path, tmp_path: Path) -> None:
    words = ["--store", str(store), "--episode", "segments", "--frames", "5:7", "--out", str(tmp_path)]
    assert _explain(str(SHIPPED), *words) == 0
    assert json.loads((tmp_path / "explain.json").read_text())["instruction"] == VALIDATION["close_drawer"]


def test_wrong_use_is_explained(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def says(*words: str, checkpoint: str = str(SHIPPED), status: int = 1) -> str:
        assert _explain(checkpoint, *words, "--out", str(tmp_path / "o")) == status
        return capsys.readouterr().err

    here = ("--store", str(store))
    assert "no episode 'drawr'; did you mean 'drawer'" in says(*here, "--episode", "drawr")
    assert "frames 0 to 15" in says(*here, "--frames", "20:30", status=2)
    assert "no part 'leg'" in says(*here, "--part", "leg", status=2)
    assert "--instruction TEXT" in says(*here, "--episode", "silent", "--frames", "3:4")
    assert "device" in says(*here, "--device", "cuda:99", status=2)
    assert str(tmp_path / "none") in says("--store", str(tmp_path / "none"))
    empty = tmp_path / "empty"
    Recorder(empty, desk_contract())
    assert "has no episodes" in says("--store", str(empty), status=2)
    assert not (tmp_path / "o").exists()


def test_a_store_without_a_camera_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    desk = desk_contract()
    blind = desk.model_copy(update={"cameras": desk.cameras[:1]})
    Recorder(tmp_path / "store", blind).write(_episode(blind, 0, "open the drawer"), name="a")
    assert _explain(str(SHIPPED), "--store", str(tmp_path / "store"), "--out", str(tmp_path / "o")) == 1
    assert "camera 'rgb_gripper' is missing" in capsys.readouterr().err


def test_a_policy_of_video_alone_is_refused(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shipped = load_policy(SHIPPED)
    contract = shipped.contract.model_copy(update={"state": (), "action": (), "gripper": "none"})
    save_policy(ForeAct(ForeActConfig.from_dict(shipped.config.to_dict()), contract, {}), tmp_path / "video")
    assert _explain(str(tmp_path / "video"), "--store", str(store), "--out", str(tmp_path / "o")) == 1
    assert "trained on video alone" in capsys.readouterr().err


def test_other_sentences_are_of_other_tasks_and_paraphrases_of_the_same() -> None:
    said = other_sentences("open the drawer", [])
    kinds = {kind: [s for s in said if s.kind == kind] for kind in ("paraphrase", "other task", "empty")}
    assert len(kinds["paraphrase"]) == PARAPHRASES and all(s.text in UNSEEN["open_drawer"] for s in kinds["paraphrase"])
    assert len({s.task for s in kinds["other task"]}) == OTHER_TASKS
    assert all(task_of(s.text) == s.task != "open_drawer" for s in kinds["other task"])
    assert [s.text for s in kinds["empty"]] == [""]
    strange = other_sentences("Wipe the table!", ["wipe the table", "fold the cloth", ""])
    assert [(s.text, s.kind) for s in strange] == [("fold the cloth", "other task"), ("", "empty")]
