"""CALVIN folders in their exact layout, written here frame by frame, and every trap of theirs."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from foreact.datasets.formats.base import FormatError, Source
from foreact.datasets.formats.calvin import CalvinSource, calvin_contract
from foreact.datasets.formats.calvin_language import Window
from foreact.datasets.formats.calvin_pieces import cut
from foreact.datasets.formats.calvin_scenes import by_colour, find_split, scene_of
from foreact.datasets.formats.plain_pickle import read_plain_pickle
from foreact.datasets.formats.registry import recognise

WriteCalvin = Callable[..., Path]


def test_language_windows_are_read_to_their_last_frame_inclusive(tmp_path: Path, write_calvin: WriteCalvin) -> None:
    windows = [(110, 114, "lift_red_block_table", "lift the red block"), (102, 105, "open_drawer", "open the drawer")]
    part = write_calvin(tmp_path / "training", [(100, 120)], windows)
    source = CalvinSource(part)
    assert isinstance(source, Source)
    assert recognise(tmp_path) == recognise(part) == "calvin"
    first, second = source.names()
    assert (first, second) == ("train-D-language-0000102-0000105", "train-D-language-0000110-0000114")
    episode = source.read(second)
    assert len(episode) == 5 and source.frames == 4 + 5
    assert episode.instruction == "lift the red block" and episode.meta["task"] == "lift_red_block_table"
    assert episode.images["rgb_static"][:, 7, 9, 1].tolist() == [110, 111, 112, 113, 114]
    assert episode.images["rgb_gripper"].shape == (5, 84, 84, 3)
    assert episode.state is not None and episode.state.dtype == np.float32
    np.testing.assert_allclose(episode.state[2], 112 + np.arange(15) / 100, rtol=1e-6)
    expected = [[n / 1000] * 6 + [1 if n % 2 else -1] for n in range(110, 115)]
    np.testing.assert_allclose(np.asarray(episode.action), expected, rtol=1e-6)
    assert not episode.segments


def test_absolute_actions_and_the_other_ones_as_an_extra(tmp_path: Path, write_calvin: WriteCalvin) -> None:
    part = write_calvin(tmp_path / "training", [(5, 9)], [(5, 7, "t", "x")])
    source = CalvinSource(part, actions="absolute")
    episode = source.read(source.names()[0])
    np.testing.assert_array_equal(episode.action, np.repeat([[5.0], [6], [7]], 7, axis=1))
    np.testing.assert_allclose(episode.extras["relative_action"][:, 0], [0.005, 0.006, 0.007], rtol=1e-6)
    assert source.contract.action[0].name == "tcp_target_position" and not source.contract.action[0].relative


def test_segments_are_neither_globbed_nor_taken_in_the_order_of_the_file(
    tmp_path: Path, write_calvin: WriteCalvin
) -> None:
    part = write_calvin(tmp_path / "training", [(30, 33), (10, 14)])
    frame = (part / "episode_0000030.npz").read_bytes()
    (part / "episode_0000034.npz").write_bytes(frame)  # on the disk, but in no segment, as in the published ABCD
    source = CalvinSource(tmp_path, mode="play")
    assert [name[-15:] for name in source.names()] == ["0000010-0000014", "0000030-0000033"]
    assert source.read(source.names()[0]).instruction == ""


def test_both_cuts_play_between_windows_and_keeps_them_as_segments(tmp_path: Path, write_calvin: WriteCalvin) -> None:
    windows = [(8, 12, "a", "do a"), (11, 15, "b", "do b"), (20, 22, "c", "do c")]
    part = write_calvin(tmp_path / "training", [(0, 29)], windows)
    source = CalvinSource(part, mode="both", piece="10")
    episodes = [source.read(name) for name in source.names()]
    assert sum(map(len, episodes)) == source.frames == 30
    pixels = np.concatenate([e.images["rgb_static"][:, 0, 0, 0] for e in episodes])
    assert pixels.tolist() == list(range(30))
    found = []
    offset = 0
    for episode in episodes:
        found += [(s.start + offset, s.end + offset - 1, s.instruction) for s in episode.segments]
        offset += len(episode)
    assert found == [(8, 12, "do a"), (11, 15, "do b"), (20, 22, "do c")]


@given(
    st.lists(st.tuples(st.integers(0, 180), st.integers(1, 40)), max_size=12),
    st.integers(1, 60),
    st.integers(1, 200),
)
@settings(max_examples=200, deadline=None)
def test_pieces_cover_every_frame_once_and_no_window_is_lost(
    spans: list[tuple[int, int]], piece: int, last: int
) -> None:
    windows = [Window(a, a + n, "", "") for a, n in spans]
    pieces = cut(0, last, windows, piece)
    assert [n for a, b, _ in pieces for n in range(a, b + 1)] == list(range(last + 1))
    kept = [w for _, _, inside in pieces for w in inside]
    assert sorted(kept, key=repr) == sorted((w for w in windows if w.end <= last), key=repr)
    assert all(a <= w.start and w.end <= b for a, b, inside in pieces for w in inside)
    if not windows:
        assert all(b - a < piece for a, b, _ in pieces)


@pytest.mark.parametrize(
    ("split", "frame", "scene"),
    [("ABC", 0, "B"), ("ABC", 598909, "B"), ("ABC", 598910, "C"), ("ABC", 1191338, "C"), ("ABC", 1191339, "A"),
     ("ABCD", 0, "D"), ("ABCD", 611098, "D"), ("ABCD", 611099, "B"), ("ABCD", 1210009, "C"), ("ABCD", 1802438, "A"),
     ("ABCD", 2406143, "A"), ("D", 611098, "D")],
)  # fmt: skip
def test_scene_of_a_frame_by_the_corrected_ranges(split: str, frame: int, scene: str) -> None:
    assert scene_of(split, frame) == scene


def test_frames_beyond_the_split_are_refused() -> None:
    with pytest.raises(FormatError, match="frame 611099 is in no scene of the split D"):
        scene_of("D", 611099)


def test_split_by_folder_then_scene_info_then_numbers(tmp_path: Path) -> None:
    assert find_split(tmp_path / "task_ABC_D" / "training", 100)[0] == "ABC"
    assert find_split(tmp_path / "training", 100, ["A", "C", "B"])[0] == "ABC"
    assert find_split(tmp_path / "training", 2_000_000)[0] == "ABCD"
    assert find_split(tmp_path / "training", 1_000_000)[0] == "ABC"
    assert find_split(tmp_path / "training", 400_000)[0] == "D"


def test_blocks_come_in_the_order_of_their_colours() -> None:
    slots = np.concatenate([np.zeros(6), np.full(6, 1.0), np.full(6, 2.0), np.full(6, 3.0)])[None]

    def order(scene: str) -> list[float]:
        return by_colour(slots, scene)[0, [6, 12, 18]].tolist()

    # Listed as: A pink, blue, red; B and D red, blue, pink; C blue, red, pink.
    assert order("A") == [3, 2, 1]
    assert order("B") == order("D") == [1, 2, 3]
    assert order("C") == [2, 1, 3]


def test_scene_a_is_permuted_in_a_dataset_and_a_wrong_scene_info_is_noted(
    tmp_path: Path, write_calvin: WriteCalvin
) -> None:
    part = write_calvin(tmp_path / "task_ABC_D" / "training", [(1191339, 1191341)], [(1191339, 1191340, "t", "x")])
    info = {"calvin_scene_A": [0, 603700], "calvin_scene_B": [603701, 1202609], "calvin_scene_C": [1202610, 1795044]}
    np.save(part / "scene_info.npy", np.array(info, dtype=object), allow_pickle=True)
    source = CalvinSource(tmp_path / "task_ABC_D")
    assert source.names() == ["train-A-language-1191339-1191340"]
    episode = source.read(source.names()[0])
    raw, ordered = episode.extras["scene_obs"][0], episode.extras["scene_obs_by_colour"][0]
    np.testing.assert_array_equal(ordered[6:12], raw[18:24])
    np.testing.assert_array_equal(ordered[18:24], raw[6:12])
    assert any("scene_info.npy says calvin_scene_A" in note for note in source.notes)


def test_validation_is_scene_d_and_repeated_annotations_count_once(tmp_path: Path, write_calvin: WriteCalvin) -> None:
    windows = [(1, 3, "t", "x"), (1, 3, "t", "x"), (1, 3, "t", "y")]
    write_calvin(tmp_path / "task_ABC_D" / "training", [(0, 5)], [(2, 4, "t", "x")])
    write_calvin(tmp_path / "task_ABC_D" / "validation", [(0, 5)], windows)
    source = CalvinSource(tmp_path / "task_ABC_D")
    assert [n for n in source.names() if n.startswith("val")] == [
        "val-D-language-0000001-0000003", "val-D-language-0000001-0000003-2",
    ]  # fmt: skip
    assert source.names()[0].startswith("train-B")
    assert "validation: 3 annotated windows, 2 of them distinct" in source.notes


def test_six_digits_missing_depth_and_missing_validation_language(tmp_path: Path, write_calvin: WriteCalvin) -> None:
    part = write_calvin(tmp_path / "training", [(3, 6)], [(3, 5, "t", "x")], digits=6)
    write_calvin(tmp_path / "validation", [(3, 6)])
    for path in part.glob("*.npz"):
        with np.load(path) as frame:
            kept = {key: frame[key] for key in frame.files if not key.startswith("depth")}
        np.savez(path, **kept)
    source = CalvinSource(tmp_path)
    assert len(source.read(source.names()[0])) == 3
    assert "validation has no language annotations" in source.notes


def test_windows_outside_of_segments_are_left_out(tmp_path: Path, write_calvin: WriteCalvin) -> None:
    part = write_calvin(tmp_path / "training", [(0, 5)], [(2, 4, "t", "x"), (4, 9, "t", "beyond")])
    source = CalvinSource(part)
    assert len(source.names()) == 1
    assert "training: 1 windows lie in no segment and are left out" in source.notes


def test_a_missing_frame_is_named(tmp_path: Path, write_calvin: WriteCalvin) -> None:
    part = write_calvin(tmp_path / "training", [(0, 5)], [(2, 4, "t", "x")])
    (part / "episode_0000003.npz").unlink()
    source = CalvinSource(part)
    with pytest.raises(FormatError, match=r"episode_0000003\.npz is missing"):
        source.read(source.names()[0])


def rewrite(part: Path, change: Callable[[int, dict[str, np.ndarray]], None]) -> None:
    """Change every frame on the disk."""
    for path in sorted(part.glob("episode_*.npz")):
        with np.load(path) as stored:
            frame = {key: stored[key] for key in stored.files}
        change(int(path.stem[-7:]), frame)
        np.savez(path, **frame)  # pyright: ignore[reportArgumentType]


def flipping(number: int, frame: dict[str, np.ndarray]) -> None:
    """A hand that points down and turns about its own axis, with a roll that hovers at pi."""
    turn = Rotation.from_euler("xyz", [np.pi, 0, 0]) * Rotation.from_rotvec([0.04 * (number - 12), 0, 0.03 * number])
    after = Rotation.from_euler("xyz", [np.pi, 0, 0]) * Rotation.from_rotvec([0.04 * (number - 11), 0, 0.03 * number])
    frame["robot_obs"][:3] = [0.1, 0.2 + 0.01 * number, 0.5]
    frame["robot_obs"][3:6] = turn.as_euler("xyz")
    frame["actions"][:3] = [0.1 + 0.05, 0.21 + 0.01 * number, 0.496]
    frame["actions"][3:6] = after.as_euler("xyz")
    frame["actions"][6] = frame["rel_actions"][6]
    steps = (after.as_euler("xyz") - turn.as_euler("xyz") + np.pi) % (2 * np.pi) - np.pi
    # As documented: clipped at 0.02 m and 0.05 rad, in units of them. One frame in four is recorded otherwise.
    frame["rel_actions"][:3] = [1.0, 0.5, -0.2]
    frame["rel_actions"][3:6] = np.clip(steps / 0.05, -1, 1) + (0.02 if number % 4 == 0 else 0.005)


@pytest.mark.parametrize("actions", ["relative", "absolute"])
def test_relative_actions_are_recomputed_and_the_recorded_ones_judged(
    tmp_path: Path, write_calvin: WriteCalvin, actions: str
) -> None:
    part = write_calvin(tmp_path / "training", [(0, 19)], [(4, 15, "t", "x")])
    rewrite(part, flipping)
    recorded, computed = CalvinSource(part, actions=actions), CalvinSource(part, actions=actions, recompute="yes")
    (name,) = computed.names()
    before, episode = recorded.read(name), computed.read(name)
    ours = episode.action if actions == "relative" else episode.extras["relative_action"]
    theirs = before.action if actions == "relative" else before.extras["relative_action"]
    assert ours is not None and theirs is not None
    np.testing.assert_allclose(ours[:, :3], np.tile([1, 0.5, -0.2], (12, 1)), atol=1e-6)  # 0.05 m is clipped
    off = np.where(np.arange(4, 16) % 4 == 0, 0.02, 0.005)
    np.testing.assert_allclose(theirs[:, 3:6] - ours[:, 3:6], np.tile(off[:, None], 3), atol=1e-5)
    assert np.abs(ours[:, 3:6]).max() <= 1 and np.abs(np.diff(episode.state[:, 3])).max() > 6  # pyright: ignore
    np.testing.assert_array_equal(ours[:, 6], theirs[:, 6])
    assert episode.meta["recorded_actions_off"] == 3 and "recorded_actions_off" not in before.meta
    assert any("in 3 of 12 frames looked at (25.0%)" in note for note in computed.notes)


def test_six_numbers_do_not_jump_where_the_roll_flips(tmp_path: Path, write_calvin: WriteCalvin) -> None:
    part = write_calvin(tmp_path / "training", [(0, 19)], [(4, 15, "t", "x")])
    rewrite(part, flipping)
    source = CalvinSource(part, rotation="rot6d")
    euler = CalvinSource(part).read(source.names()[0]).state
    state = source.read(source.names()[0]).state
    assert euler is not None and state is not None
    assert [(f.name, f.size) for f in source.contract.state][:3] == [
        ("tcp_position", 3), ("tcp_rot6d", 6), ("gripper_width", 1),
    ]  # fmt: skip
    assert source.contract.state[1].rotation == "rot6d" and source.contract.state_size == state.shape[1] == 18
    matrices = Rotation.from_euler("xyz", euler[:, 3:6]).as_matrix()
    np.testing.assert_allclose(state[:, 3:6], matrices[:, :, 0], atol=1e-6)
    np.testing.assert_allclose(state[:, 6:9], matrices[:, :, 1], atol=1e-6)
    np.testing.assert_array_equal(state[:, [0, 1, 2, *range(9, 18)]], euler[:, [0, 1, 2, *range(6, 15)]])
    assert np.abs(np.diff(euler[:, 3])).max() > 6 and np.abs(np.diff(state[:, 3:9], axis=0)).max() < 0.1


def test_embeddings_and_other_language_folders_are_not_looked_at(tmp_path: Path, write_calvin: WriteCalvin) -> None:
    part = write_calvin(tmp_path / "training", [(0, 9)], [(1, 4, "t", "x"), (5, 8, "u", "y")])
    plain = CalvinSource(part)
    (part / "lang_annotations/embeddings.npy").write_bytes(b"not an array")
    (part / "statistics.yaml").write_text("robot_obs: [{_target_: os.system}]")
    np.save(part / "ep_lens.npy", np.array([3]))  # says less than ep_start_end_ids
    file = part / "lang_annotations/auto_lang_ann.npy"
    found = np.load(file, allow_pickle=True).item()
    found["language"]["emb"] = np.ones((1, 1, 4))  # of another number of windows
    found["info"]["episodes"] = [7]
    np.save(file, np.array(found, dtype=object), allow_pickle=True)
    (part / "lang_BERT").mkdir()
    found["language"]["ann"] = ["in other words", "y"]
    np.save(part / "lang_BERT/auto_lang_ann.npy", np.array(found, dtype=object), allow_pickle=True)
    source = CalvinSource(part)
    assert source.names() == plain.names()
    assert [source.read(name).instruction for name in source.names()] == ["x", "y"]
    other = CalvinSource(part, annotations="lang_BERT")
    assert other.read(other.names()[0]).instruction == "in other words"


def test_windows_end_with_their_segment_and_never_join_two(tmp_path: Path, write_calvin: WriteCalvin) -> None:
    windows = [
        (2, 5, "a", "to the last frame of the segment"),
        (4, 7, "b", "out of one segment into the next"),
        (6, 8, "c", "from the first frame of the next"),
        (20, 22, "d", "in frames that belong to no segment"),
    ]
    part = write_calvin(tmp_path / "training", [(6, 9), (0, 5)], windows)
    for number in range(20, 23):
        (part / f"episode_{number:07d}.npz").write_bytes((part / "episode_0000000.npz").read_bytes())
    source = CalvinSource(part)
    assert [name[-15:] for name in source.names()] == ["0000002-0000005", "0000006-0000008"]
    assert "training: 2 windows lie in no segment and are left out" in source.notes
    both = CalvinSource(part, mode="both")
    pieces = [both.read(name) for name in both.names()]
    assert [len(piece) for piece in pieces] == [6, 4]  # neighbouring segments stay two episodes
    assert [[(s.start, s.end) for s in piece.segments] for piece in pieces] == [[(2, 6)], [(0, 3)]]


def test_old_recordings_as_pickles_of_dictionaries(tmp_path: Path, write_calvin: WriteCalvin) -> None:
    part = write_calvin(tmp_path / "training", [(0, 3)], [(1, 2, "t", "x")])
    for path in part.glob("episode_*.npz"):
        with np.load(path) as frame:
            path.with_suffix(".pkl").write_bytes(pickle.dumps({key: frame[key] for key in frame.files}, protocol=4))
        path.unlink()
    source = CalvinSource(part)
    assert source.read(source.names()[0]).images["rgb_static"][:, 0, 0, 0].tolist() == [1, 2]


def test_the_contract_is_the_desks() -> None:
    from foreact.sim.embodiment import desk_contract

    assert calvin_contract("relative").hash == desk_contract().hash
    assert calvin_contract("absolute").hash == desk_contract(action_mode="absolute_cartesian").hash


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=25,
)


@given(PLAIN, st.sampled_from([2, 3, 4, 5]))
@settings(max_examples=300, deadline=None)
def test_plain_data_reads_as_python_would_unpickle_it(value: object, protocol: int) -> None:
    assert read_plain_pickle(pickle.dumps(value, protocol=protocol), "x") == value


@pytest.mark.parametrize("protocol", [0, 2, 3, 4])
def test_arrays_and_numpy_scalars_read_as_python_would_unpickle_them(protocol: int) -> None:
    arrays = {
        "c": np.arange(12, dtype=">i4").reshape(3, 4),
        "f": np.asfortranarray(np.linspace(0, 1, 6).reshape(2, 3)),
        "bool": np.array([True, False]),
        "text": np.array(["a", "bc"]),
        "zero": np.zeros((0, 3), np.float32),
        "scalars": [np.float32(0.5), np.int64(-7)],
        "objects": np.array(["one", 2, None], dtype=object),
    }
    found = read_plain_pickle(pickle.dumps(arrays, protocol=protocol), "x")
    for key in ("c", "f", "bool", "text", "zero"):
        np.testing.assert_array_equal(found[key], arrays[key])
        assert found[key].shape == arrays[key].shape
    assert found["scalars"] == [0.5, -7] and found["objects"] == ["one", 2, None]
