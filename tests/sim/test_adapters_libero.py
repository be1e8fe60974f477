"""LIBERO through our interface: what needs no simulator everywhere, the simulator itself where it is complete."""

from __future__ import annotations

import _codecs
import importlib.util
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from foreact.sim.adapters import libero
from foreact.sim.adapters.libero import MAX_STEPS, LiberoSuite, configure, libero_contract, package_folder, sentence
from foreact.sim.adapters.libero_env import LiberoEnv, rotation_vector
from foreact.sim.adapters.libero_states import read_states
from foreact.sim.suites import SuiteEnv, SuiteError, get_suite
from foreact.vla.errors import ConfigError

TASK = "open_the_middle_drawer_of_the_cabinet"


def _complete() -> bool:
    """Whether LIBERO is installed with its meshes; it would download them."""
    if importlib.util.find_spec("libero") is None or importlib.util.find_spec("robosuite") is None:
        return False
    return (package_folder() / "assets").is_dir()


runs = pytest.mark.skipif(
    not _complete(), reason="LIBERO is not installed, or its meshes are missing; see docs/adapters.md"
)


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (TASK, "open the middle drawer of the cabinet"),
        ("KITCHEN_SCENE3_turn_on_the_stove_and_put_the_moka_pot_on_it", "turn on the stove and put the moka pot on it"),
        ("KITCHEN_SCENE10_close_the_top_drawer_of_the_cabinet", "close the top drawer of the cabinet"),
        ("LIVING_ROOM_SCENE1_pick_up_the_ketchup", "pick up the ketchup"),
    ],
)
def test_the_sentence_is_in_the_name(task: str, said: str) -> None:
    assert sentence(task) == said


def test_rotation_vectors_agree_with_scipy() -> None:
    rotation = pytest.importorskip("scipy.spatial.transform").Rotation
    for vector in ([0.0, 0.0, 0.0], [1e-9, 0, 0], [0.3, -0.2, 0.9], [3.0, 0.5, 0.1]):
        quat = rotation.from_rotvec(vector).as_quat()
        np.testing.assert_allclose(rotation_vector(quat if quat[3] >= 0 else -quat), vector, atol=1e-8)
    # the other sign of a quaternion is the same rotation the other way round, as in robosuite
    turned = rotation_vector(-rotation.from_rotvec([0.0, 0.0, 1.0]).as_quat())
    np.testing.assert_allclose(turned, [0, 0, -(2 * np.pi - 1.0)], atol=1e-8)


def test_the_contract_offers_the_state_of_published_policies() -> None:
    sizes = {field.name: field.size for field in libero_contract().state}
    assert sizes["eef_position"] + sizes["eef_rotvec"] + sizes["finger_position"] == 8
    assert libero_contract().action_size == 7 and libero_contract().gripper == "-1 open, +1 close"


def archive(path: Path, pickled: bytes) -> Path:
    """A torch archive as LIBERO has it."""
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("archive/data.pkl", pickled)
        made.writestr("archive/version", b"3\n")
    return path


def pickled_array(states: np.ndarray, called: bytes = b"numpy.core.multiarray\n_reconstruct") -> bytes:
    """What NumPy 1 writes for an array (fewer than 256 each way) with protocol 2, put together by hand."""

    def text(raw: bytes) -> bytes:
        said = raw.decode("latin1").encode()
        return b"X" + len(said).to_bytes(4, "little") + said

    n, m = states.shape
    return b"".join(
        [
            b"\x80\x02c" + called + b"\nq\x00cnumpy\nndarray\nq\x01K\x00\x85q\x02",
            b"c_codecs\nencode\nq\x03"
            + text(b"b")
            + b"q\x04"
            + text(b"latin1")
            + b"q\x05\x86q\x06Rq\x07\x87q\x08Rq\x09",
            b"(K\x01K" + bytes([n]) + b"K" + bytes([m]) + b"\x86q\x0acnumpy\ndtype\nq\x0b" + text(b"f8"),
            b"q\x0c\x89\x88\x87q\x0dRq\x0e(K\x03"
            + text(b"<")
            + b"q\x0fNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x10b",
            b"\x89h\x03" + text(states.astype("<f8").tobytes()) + b"q\x11h\x05\x86q\x12Rq\x13tq\x14b.",
        ]
    )


def test_initial_states_are_read_and_nothing_else_is(tmp_path: Path) -> None:
    states = np.random.default_rng(0).normal(size=(50, 79))
    np.testing.assert_array_equal(read_states(archive(tmp_path / "good", pickled_array(states))), states)
    evil = pickled_array(states, called=b"os\nmkdir")
    with pytest.raises(SuiteError, match="no initial states in .*evil: expected an array of numbers"):
        read_states(archive(tmp_path / "evil", evil))
    with pytest.raises(SuiteError, match="no initial states in .*gone"):
        read_states(tmp_path / "gone")
    for bad in (b"\x80\x02K\x01.", b"\x80\x02", b"nonsense"):
        with pytest.raises(SuiteError, match="no initial states in .*bad"):
            read_states(archive(tmp_path / "bad", bad))
    (tmp_path / "cut").write_bytes((tmp_path / "good").read_bytes()[:1000])
    with pytest.raises(SuiteError, match="no initial states in .*cut"):
        read_states(tmp_path / "cut")


def test_the_hand_made_file_is_what_numpy_and_torch_read(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    states = np.arange(12.0).reshape(3, 4)
    path = archive(tmp_path / "states", pickled_array(states))
    reconstruct: Any = np.zeros(0).__reduce__()[0]
    allowed = [
        (reconstruct, "numpy.core.multiarray._reconstruct"),
        np.ndarray,
        np.dtype,
        type(np.dtype("f8")),
        _codecs.encode,
    ]
    with torch.serialization.safe_globals(allowed):
        np.testing.assert_array_equal(torch.load(path, weights_only=True), states)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with two task files, as `package_folder` finds it."""
    root = tmp_path / "site" / "libero" / "libero"
    (root / "bddl_files" / "libero_goal").mkdir(parents=True)
    (root / "init_files").mkdir()
    for task in (TASK, "turn_on_the_stove"):
        (root / "bddl_files" / "libero_goal" / f"{task}.bddl").touch()
    monkeypatch.setattr(libero, "package_folder", lambda: root)
    return root


def test_tasks_are_the_files_of_the_benchmark(installed: Path) -> None:
    suite = LiberoSuite(benchmark="libero_goal")
    assert suite.tasks == (TASK, "turn_on_the_stove") and suite.max_steps == 300
    assert suite.instruction("turn_on_the_stove", "validation", 7) == "turn on the stove"
    assert suite.expert() is None
    with pytest.raises(ConfigError, match="no task 'turn_on_stove'.*did you mean 'turn_on_the_stove'"):
        suite.instruction("turn_on_stove", "validation", 0)
    with pytest.raises(ConfigError, match="no benchmark 'libero_goals'.*did you mean 'libero_goal'"):
        LiberoSuite(benchmark="libero_goals")


def test_the_first_import_asks_nothing(installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIBERO_CONFIG_PATH", str(tmp_path / "none"))
    configure.cache_clear()
    configure()
    made = Path(os.environ["LIBERO_CONFIG_PATH"])
    assert made != tmp_path / "none" and not (tmp_path / "none").exists()
    assert yaml.safe_load((made / "config.yaml").read_text())["bddl_files"] == str(installed / "bddl_files")
    # a configuration that a person made is left alone
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "config.yaml").write_text("bddl_files: /elsewhere\n")
    monkeypatch.setenv("LIBERO_CONFIG_PATH", str(mine))
    configure.cache_clear()
    configure()
    assert os.environ["LIBERO_CONFIG_PATH"] == str(mine)
    configure.cache_clear()


@pytest.fixture(scope="module")
def env() -> Iterator[LiberoEnv]:
    suite = get_suite("libero", {"benchmark": "libero_goal"})
    env = suite.make_env(cameras={"agentview": (64, 64), "robot0_eye_in_hand": (48, 64)})
    assert isinstance(env, LiberoEnv)
    yield env
    env.close()


@runs
def test_sentences_are_those_of_the_benchmark() -> None:
    configure()
    from libero.libero.benchmark import task_maps  # type: ignore[import-not-found]

    for benchmark in MAX_STEPS:
        suite = LiberoSuite(benchmark=benchmark)
        assert set(suite.tasks) == set(task_maps[benchmark])
        for task, entry in task_maps[benchmark].items():
            assert sentence(task) == entry.language


@contextmanager
def unchanged_global_generator() -> Iterator[None]:
    """Nobody else's random numbers depend on what happens inside."""
    before = repr(np.random.get_state())  # noqa: NPY002
    yield
    assert repr(np.random.get_state()) == before, "NumPy's global generator was used"  # noqa: NPY002


def _wander(env: LiberoEnv, seed: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    obs, info = env.reset(seed=seed, options={"task": TASK})
    assert info["instruction"] == "open the middle drawer of the cabinet" and not info["is_success"]
    rows = [obs["robot_obs"]]
    for _ in range(5):
        obs, *_ = env.step(rng.uniform(-1, 1, 7))
        rows.append(obs["robot_obs"])
    return np.array(rows)


@runs
def test_all_initial_states_can_be_read() -> None:
    files = sorted((package_folder() / "init_files").glob("*/*.pruned_init"))
    assert len(files) == 130
    for path in files:
        states = read_states(path)
        assert len(states) == 50 and np.isfinite(states).all()
        assert (states[:, 0] >= 0).all(), "the first number is the time"


@runs
def test_a_rollout_follows_from_its_seed_alone(env: LiberoEnv) -> None:
    assert isinstance(env, SuiteEnv)
    with unchanged_global_generator():
        first = _wander(env, 3)
    assert not np.array_equal(_wander(env, 4), first)
    np.testing.assert_array_equal(_wander(env, 3), first)
    np.testing.assert_array_equal(_wander(env, 53), first)  # there are 50 initial states


@runs
def test_an_action_moves_the_hand_as_the_contract_says(env: LiberoEnv) -> None:
    for axis in range(3):
        obs, _ = env.reset(seed=0, options={"task": TASK})
        began = obs["robot_obs"][:3]
        action = np.zeros(7)
        action[axis], action[6] = 0.4, -1.0
        for _ in range(10):
            obs, *_ = env.step(action)
        moved = obs["robot_obs"][:3] - began
        assert int(np.argmax(np.abs(moved))) == axis and 0.02 < moved[axis] < 0.4 * 0.05 * 10
    action = np.array([0, 0, 0, 0, 0, 0, 1.0])
    for _ in range(10):
        obs, *_ = env.step(action)
    assert np.abs(obs["robot_obs"][10:12]).max() < 0.005, "+1 closes the fingers"


@runs
def test_frames_are_upright(env: LiberoEnv) -> None:
    """The hand hangs above the table: in the picture from the front it is in the upper half."""
    env.reset(seed=0, options={"task": TASK})
    frames = env.frames()
    assert {k: v.shape for k, v in frames.items()} == {"agentview": (64, 64, 3), "robot0_eye_in_hand": (48, 64, 3)}
    sim = env._inner.sim
    camera = sim.model.camera_name2id("agentview")
    position, axes = sim.data.cam_xpos[camera], sim.data.cam_xmat[camera].reshape(3, 3)
    assert axes[2, 1] > 0, "the camera itself is upright"
    hand = axes.T @ (sim.data.get_site_xpos("gripper0_grip_site") - position)
    assert hand[1] / -hand[2] > 0
    # the background above the table is darker or lighter than the table, whose own rows are the lower ones
    raw = sim.render(camera_name="agentview", height=64, width=64)
    np.testing.assert_array_equal(frames["agentview"], raw[::-1])
