"""`foreact collect` on real, small collections: what is recorded, what is refused, what is printed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from foreact.commands import collect_estimate
from foreact.commands.collect import main
from foreact.commands.collect_estimate import check_disk, size_text, time_text
from foreact.commands.collect_plan import Job, plan
from foreact.commands.collect_recipe import locked
from foreact.commands.collect_record import Worker
from foreact.commands.collect_settings import CollectSettings
from foreact.commands.collect_workers import CollectError, Workers
from foreact.commands.hydra_config import compose
from foreact.datasets.store import Store
from foreact.datasets.verify import verify_store
from foreact.sim.demonstrate import DemonstrationSettings, demonstrate, episode_rng
from foreact.sim.env import DeskEnv
from foreact.sim.language import TRAINING
from foreact.sim.play import segments_of
from foreact.vla.errors import ConfigError

SMALL = ["tasks=[turn_on_led,close_drawer]", "episodes_per_task=2", "play_frames=150", "session_steps=[60,120]"]


def _collect(out: Path, *argv: str, seed: int = 0) -> Store:
    main([f"out={out}", *SMALL, f"seed={seed}", "workers=1", *argv])
    return Store.open(out)


def _settings(out: Path, *argv: str) -> CollectSettings:
    return CollectSettings.parse(compose("collect", [f"out={out}", *SMALL, *argv]))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return _collect(tmp_path_factory.mktemp("collect") / "set", "label_play=true")


def test_a_collection_has_its_episodes_whole_and_documented(store: Store):
    assert store.index.names == [
        "D-close_drawer-000000", "D-close_drawer-000001", "D-play-000000", "D-play-000001",
        "D-turn_on_led-000000", "D-turn_on_led-000001",
    ]  # fmt: skip
    report = verify_store(store.path, decode=True)
    assert (report.problems, report.notes, report.episodes) == ([], [], 6)
    summary = json.loads((store.path / "summary.json").read_bytes())
    assert summary["store_hash"] == store.hash
    assert (summary["episodes"], summary["with_sentence"], summary["missing"]) == (6, 4, [])
    assert summary["play_frames"] == 150
    assert summary["frames"] == store.index.lengths.sum()
    assert summary["tasks"]["D/turn_on_led"]["episodes"] == 2
    assert sum(row["done"] + row["failed"] for row in summary["play"]["D"].values()) >= 1
    recipe = json.loads((store.path / "recipe.json").read_bytes())
    assert recipe["settings"]["tasks"] == ["turn_on_led", "close_drawer"]
    assert recipe["command"].startswith(f"foreact collect out={store.path} 'tasks=[turn_on_led,close_drawer]'")
    assert {"foreact", "numpy", "mujoco"} <= recipe["versions"].keys()
    assert recipe["made_with"]["gl_renderer"]


def test_an_episode_is_the_one_that_its_seed_gives(store: Store):
    expected = demonstrate(
        DeskEnv("D", render=False), "close_drawer", episode_rng(0, "D", "close_drawer", 1), DemonstrationSettings()
    )
    found = store.read("D-close_drawer-000001")
    assert expected is not None
    for a, b in ((found.state, expected.state), (found.action, expected.action)):
        assert a is not None and b is not None and np.array_equal(a, b)
    assert all(np.array_equal(found.extras[key], value) for key, value in expected.extras.items())
    assert found.instruction == expected.instruction
    assert found.images["rgb_static"].std() > 20


def test_play_has_no_sentence_of_its_own_and_labels_on_request(store: Store):
    sessions = [info for info in store.index if info.meta["task"] == "play"]
    assert {info.instruction for info in sessions} == {""}
    done = [s for info in sessions for s in segments_of(info.meta) if s.success]
    labelled = [s for info in sessions for s in info.segments]
    assert len(done) == len(labelled) > 0
    for segment, label in zip(done, labelled, strict=True):
        assert (label.start, label.end) == (segment.first, segment.last + 1)
        assert label.instruction in TRAINING[segment.task]


def test_frames_stay_when_sentences_are_left_out(store: Store, tmp_path: Path):
    fewer = _collect(tmp_path / "fewer", "language_fraction=0.5")
    assert sum(bool(info.instruction) for info in fewer.index) == 2
    for name in fewer.index.names:
        one, other = store.read(name), fewer.read(name)
        assert np.array_equal(one.images["rgb_gripper"], other.images["rgb_gripper"])
        assert one.action is not None and other.action is not None and np.array_equal(one.action, other.action)
        assert other.instruction in ("", one.instruction)
        assert not other.segments


def test_video_has_the_frames_alone(store: Store, tmp_path: Path):
    video = _collect(tmp_path / "video", "kind=video", "episodes_per_task=1")
    for name in ("D-play-000001", "D-turn_on_led-000000"):
        seen = video.read(name)
        assert (seen.state, seen.action, seen.extras) == (None, None, {})
        assert np.array_equal(seen.images["rgb_static"], store.read(name).images["rgb_static"])


def test_another_recipe_is_refused_and_more_of_the_same_is_not(store: Store, tmp_path: Path, capsys):
    out = tmp_path / "set"
    few = ["tasks=[turn_on_led]", "play_frames=0"]
    _collect(out, *few, "episodes_per_task=1")
    with pytest.raises(ConfigError, match=r"(?s)another recipe.*- jitter: 0\.08 there, 0\.1 now.*Go on with that one"):
        _collect(out, *few, "episodes_per_task=1", "jitter=0.1")
    with pytest.raises(ConfigError, match="seed: 0 there, 7 now"):
        _collect(out, *few, seed=7)
    with pytest.raises(ConfigError, match="tasks: "):
        _collect(out, "tasks=[open_drawer]", "play_frames=0")
    capsys.readouterr()
    grown = _collect(out, *few, "episodes_per_task=2")
    printed = capsys.readouterr().out
    assert "1 of 2 episodes are there, 1 to record" in printed
    assert f"the same again: foreact collect out={out}" in printed
    assert grown.read("D-turn_on_led-000001").instruction == store.read("D-turn_on_led-000001").instruction
    with pytest.raises(ConfigError, match="episodes_per_task: 2 there, 1 now"):
        _collect(out, *few, "episodes_per_task=1")


def test_a_recipe_older_than_a_setting_has_its_default(tmp_path: Path):
    few = ["tasks=[turn_on_led]", "play_frames=0"]
    _collect(tmp_path, *few, "episodes_per_task=1")
    recipe = json.loads((tmp_path / "recipe.json").read_bytes())
    del recipe["settings"]["body"]
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    assert len(_collect(tmp_path, *few, "episodes_per_task=2")) == 2
    with pytest.raises(ConfigError, match="body: arm there, floating_hand now"):
        _collect(tmp_path, *few, "episodes_per_task=2", "kind=video", "body=floating_hand")


def test_a_store_without_a_recipe_is_continued_if_seed_and_kind_are_the_same(store: Store, tmp_path: Path):
    settings = _settings(tmp_path, "tasks=[turn_on_led]", "play_frames=0", "episodes_per_task=1")
    Worker(settings).record(plan(settings)[0], tmp_path)
    with pytest.raises(ConfigError, match="D-turn_on_led-000000 with kind=demonstrations seed=0"):
        _collect(tmp_path, "tasks=[turn_on_led]", "play_frames=0", "episodes_per_task=1", "kind=video")
    _collect(tmp_path, "tasks=[turn_on_led]", "play_frames=0", "episodes_per_task=1")
    assert (tmp_path / "recipe.json").is_file()


def test_a_damaged_episode_is_named_and_comes_back_when_it_is_removed(tmp_path: Path):
    few = ["tasks=[turn_on_led]", "play_frames=0", "episodes_per_task=2"]
    out = tmp_path / "set"
    whole = _collect(out, *few).hash
    folder = out / "episodes" / "D-turn_on_led-000001"
    (folder / "manifest.json").write_bytes(b"{}")
    (out / "index.bin").unlink()  # it is only a cache, and does not know yet
    with pytest.raises(CollectError, match="damaged episodes: D-turn_on_led-000001"):
        _collect(out, *few)
    shutil.rmtree(folder)
    assert _collect(out, *few).hash == whole


def test_a_recipe_that_cannot_be_read_is_refused(tmp_path: Path):
    (tmp_path / "recipe.json").write_text('{"format": "foreact-recipe", "version": 99}')
    with pytest.raises(ConfigError, match=r"recipe\.json cannot be read.*expected a recipe of version 1"):
        _collect(tmp_path)


def test_an_episode_that_never_succeeds_is_named(tmp_path: Path):
    hopeless = ["tasks=[turn_on_led]", "episodes_per_task=1", "play_frames=0", "max_steps=1"]
    with pytest.raises(CollectError, match=r"1 episodes could not be recorded.*D-turn_on_led-000000"):
        _collect(tmp_path / "set", *hopeless)
    summary = json.loads((tmp_path / "set" / "summary.json").read_bytes())
    assert summary["missing"] == ["D-turn_on_led-000000"]


def test_a_dry_run_measures_and_leaves_nothing(tmp_path: Path, capsys):
    main([f"out={tmp_path / 'set'}", *SMALL, "dry_run=true", "workers=1"])
    printed = capsys.readouterr().out
    assert "4 demonstrations (4 with a sentence), 2 sessions of play (150 frames)" in printed
    assert "measured on a few of them just now" in printed and "free" in printed
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_refused_before_it_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert check_disk(tmp_path / "not" / "there", 0, force=False) > 0
    with pytest.raises(CollectError, match=r"free, and about 1\.1e\+06 TB are needed.*force=true"):
        check_disk(tmp_path, 1e18, force=False)
    assert check_disk(tmp_path, 1e18, force=True) > 0
    monkeypatch.setattr("foreact.commands.collect.FEW", 0)
    monkeypatch.setattr(collect_estimate, "MARGIN", 1e15)
    with pytest.raises(CollectError, match="free, and about"):
        _collect(tmp_path / "set", "tasks=[turn_on_led]", "episodes_per_task=1", "play_frames=0")
    assert len(Store.open(tmp_path / "set")) == 0


def test_two_collections_at_once_are_refused(tmp_path: Path):
    with locked(tmp_path), pytest.raises(CollectError, match="another foreact collect is writing to"), locked(tmp_path):
        pass


def test_a_worker_that_dies_or_fails_is_explained(tmp_path: Path):
    settings = _settings(tmp_path)
    job = Job(scene="D", task="turn_on_led", index=0)
    with Workers(settings, 1) as workers:
        (process,) = workers.processes
        process.kill()
        with pytest.raises(CollectError, match="worker 0 was ended by SIGKILL while it recorded D-turn_on_led-000000"):
            list(workers.run([job], tmp_path))
    with Workers(settings, 1) as workers, pytest.raises(CollectError, match="no scene 'X'|X"):
        list(workers.run([Job(scene="X", task="turn_on_led", index=0)], tmp_path))


def test_numbers_for_people():
    assert [size_text(n) for n in (0, 999, 1000, 1.5e9, 2e13)] == ["0 B", "999 B", "1 kB", "1.5 GB", "20 TB"]
    assert [time_text(s) for s in (3, 89, 91, 7000, 7300)] == ["3 s", "89 s", "2 min", "117 min", "2.0 h"]
