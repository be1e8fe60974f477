"""Mixtures: names, masks, rates, spreads and sentences of each store, in one batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foreact.datasets.clips import make_clips
from foreact.datasets.episode import EpisodeData, Segment
from foreact.datasets.mixture import StorePart, parse_stores, read_stores
from foreact.datasets.mixture_fit import Affine, fit
from foreact.datasets.mixture_numbers import mix_numbers
from foreact.datasets.recorder import Recorder
from foreact.datasets.statistics import compute_statistics
from foreact.datasets.store import Store
from foreact.datasets.windows import WindowSampler, WindowSpec
from foreact.vla.contract import Camera, Contract, ContractMismatch, Field, Rename, adapt
from foreact.vla.errors import ConfigError

SIZE = 6
OURS = Contract(
    embodiment="desk_arm",
    rate_hz=10,
    cameras=(Camera(name="static", height=SIZE, width=SIZE), Camera(name="wrist", height=SIZE, width=SIZE)),
    state=(
        Field(name="tcp", size=2, unit="m"),
        Field(name="force", size=1, unit="N"),
        Field(name="gripper_command", size=1, unit="1"),
    ),
    action=(
        Field(name="move", size=2, unit="m", relative=True),
        Field(name="turn", size=1, unit="rad", relative=True),
        Field(name="gripper", size=1, unit="1", low=-1, high=1),
    ),
    gripper="+1 open, -1 close",
)
THEIRS = Contract(
    embodiment="other_arm",
    rate_hz=20,
    cameras=(Camera(name="hand", height=SIZE, width=SIZE), Camera(name="front", height=SIZE, width=SIZE)),
    state=(Field(name="gripper_command", size=1, unit="1"), Field(name="ee", size=2, unit="m")),
    action=(
        Field(name="gripper", size=1, unit="1", low=-1, high=1),
        Field(name="delta", size=2, unit="m", relative=True),
    ),
    gripper="+1 open, -1 close",
)
ENTRY: dict[str, Any] = dict(
    cameras={"static": "front", "wrist": "hand"}, state={"tcp": "ee"}, action={"move": "delta"},
    use_state=["tcp", "gripper_command"], use_action=["move", "gripper"], embodiment="any", rate="resample",
)  # fmt: skip
SPEC = WindowSpec(cameras={"static": (SIZE, SIZE), "wrist": (SIZE, SIZE)}, history=2, foresight_steps=2, chunk=3)


def write(path: Path, contract: Contract, episodes: int, length: int, *, video: bool = False, spread: float = 1.0):
    """Pixels name camera, episode and frame; numbers are random."""
    recorder = Recorder(path, contract, codec="raw")
    for number in range(episodes):
        rng = np.random.default_rng([number, length])
        frames = np.arange(length)
        images = {
            camera.name: np.broadcast_to(
                (100 * at + 20 * number + frames).astype(np.uint8)[:, None, None, None], (length, SIZE, SIZE, 3)
            ).copy()
            for at, camera in enumerate(contract.cameras)
        }
        state = (spread * rng.normal(size=(length, contract.state_size))).astype(np.float32)
        action = (spread * rng.normal(size=(length, contract.action_size))).astype(np.float32)
        robot: dict[str, Any] = {} if video else {"state": state, "action": action}
        recorder.write(
            EpisodeData(images=images, instruction=f"do {number}", meta={"split": "ab"[number % 2]}, **robot),
            f"e{number}",
        )
    return Store.open(path)


@pytest.fixture
def ours(tmp_path: Path) -> Store:
    return write(tmp_path / "ours", OURS, 3, 8)


@pytest.fixture
def theirs(tmp_path: Path) -> Store:
    return write(tmp_path / "theirs", THEIRS, 2, 13, spread=5.0)


@pytest.fixture
def video(tmp_path: Path) -> Store:
    contract = OURS.model_copy(update={"state": (), "action": (), "gripper": "none", "embodiment": "hands"})
    return write(tmp_path / "video", contract, 2, 7, video=True)


def part(**settings: Any) -> StorePart:
    return StorePart.from_setting({"path": "x", **settings}, "data.stores[0]")


def sampler(stores: list[Store], parts: list[StorePart], batch_size: int = 60, **options: Any) -> WindowSampler:
    fits = [fit(store, SPEC, OURS, p) for store, p in zip(stores, parts, strict=True)]
    return WindowSampler(stores, SPEC, seed=1, batch_size=batch_size, contract=OURS, fits=fits, **options)


@pytest.mark.parametrize("cache", ["memory", "disk", "none"])
def test_a_store_under_other_names_at_another_rate_fills_the_same_batch(
    ours: Store, theirs: Store, video: Store, cache: str
) -> None:
    mixed = sampler([ours, theirs, video], [part(), part(**ENTRY, language="drop"), part()], cache=cache)
    assert mixed.windows_per_epoch == 3 * 8 + 2 * 7 + 2 * 7
    batch = mixed.batch_at(0)
    seen = set()
    for row, (episode, anchor) in enumerate(batch.index.tolist()):
        last = int(batch.history_mask[row].sum()) - 1
        assert batch.action_used is not None
        if episode < 3:
            seen.add("ours")
            data = ours.read(episode)
            assert data.state is not None and data.action is not None
            np.testing.assert_array_equal(batch.state[row, last], data.state[anchor])
            np.testing.assert_array_equal(batch.action[row, last, 0], data.action[anchor])
            assert batch.instruction[row] == f"do {episode}" and batch.action_used[row].all()
        elif episode < 5:
            seen.add("theirs")
            data = theirs.read(episode - 3)
            assert data.state is not None and data.action is not None
            tick = anchor // 2
            assert anchor % 2 == 0 and batch.instruction[row] == ""
            assert batch.images["static"][row, last, 0, 0, 0] == 100 + 20 * (episode - 3) + anchor
            assert batch.images["wrist"][row, last, 0, 0, 0] == 20 * (episode - 3) + anchor
            np.testing.assert_array_equal(batch.state[row, last], [*data.state[anchor, 1:], 0.0, data.state[anchor, 0]])
            np.testing.assert_array_equal(batch.action_used[row], [True, True, False, True])
            for k in range(3):
                if tick + k < 7:
                    taken = data.action[anchor + 2 * k : anchor + 2 * k + 2].astype(np.float64)
                    expected = [*taken[:, 1:].sum(0), 0.0, taken[-1, 0]]
                    np.testing.assert_allclose(batch.action[row, last, k], expected, rtol=1e-6)
                assert batch.action_mask[row, last, k] == (tick + k < 7)
            assert batch.future_mask[row, last] == (tick + 2 < 7)
            if batch.future_mask[row, last]:
                assert batch.future["static"][row, last, 0, 0, 0] == 100 + 20 * (episode - 3) + anchor + 4
        else:
            seen.add("video")
            assert not batch.state_mask[row].any() and not batch.action_mask[row].any()
            assert (batch.state[row] == 0).all() and (batch.action[row] == 0).all()
    assert seen == {"ours", "theirs", "video"}
    assert (batch.action_numbers.sum((0, 1, 2)) > 0).all()
    unlearned = batch.action[~batch.action_numbers]
    assert len(unlearned) and (unlearned == 0).all()


def test_what_is_masked_is_never_read(tmp_path: Path, theirs: Store) -> None:
    """Two stores that differ only in numbers that no entry takes give the same batches."""
    contract = THEIRS.model_copy(
        update={"action": (*THEIRS.action, OURS.action[1]), "state": (*THEIRS.state, OURS.state[1])}
    )
    batches = []
    for name, scale in (("a", 1.0), ("b", 1e9)):
        recorder = Recorder(tmp_path / name, contract, codec="raw")
        for number in range(2):
            data = theirs.read(number)
            assert data.state is not None and data.action is not None
            extra = np.arange(13, dtype=np.float32)[:, None] * scale
            state, action = (
                np.concatenate([array, extra], 1).astype(np.float32) for array in (data.state, data.action)
            )
            recorder.write(replace(data, state=state, action=action), f"e{number}")
        batches.append(sampler([Store.open(tmp_path / name)], [part(**ENTRY)]).batch_at(0))
    np.testing.assert_array_equal(batches[0].state, batches[1].state)
    np.testing.assert_array_equal(batches[0].action, batches[1].action)


def test_rows_of_a_batch_can_be_made_alone(ours: Store, theirs: Store) -> None:
    mixed = sampler([ours, theirs], [part(weight=1), part(**ENTRY, weight=2)], weights=[1, 2], batch_size=12)
    whole = mixed.batch_at(4)
    pieces = [mixed.rows_at(4, first, first + 3) for first in range(0, 12, 3)]
    for key in ("state", "action", "index", "action_mask", "state_mask"):
        np.testing.assert_array_equal(np.concatenate([getattr(p, key) for p in pieces]), getattr(whole, key))
    numbers = np.concatenate([p.action_numbers for p in pieces])
    np.testing.assert_array_equal(numbers, whole.action_numbers)
    assert (whole.index[:, 0] >= 3).sum() == 8


def test_segments_are_resampled_from_their_own_first_frame(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "play", THEIRS, codec="raw")
    frames = np.arange(12, dtype=np.uint8)
    images = {n: np.broadcast_to(frames[:, None, None, None], (12, SIZE, SIZE, 3)).copy() for n in ("hand", "front")}
    numbers = np.stack([np.arange(12)] * 3, 1).astype(np.float32)
    segments = [Segment(start=3, end=8, instruction="first"), Segment(start=7, end=12, instruction="second")]
    recorder.write(EpisodeData(images=images, state=numbers, action=numbers, segments=segments), "play")
    store = Store.open(tmp_path / "play")
    mixed = sampler([store], [part(**ENTRY)], batch_size=6)
    assert make_clips(store, [0]).windows == 10 and mixed.windows_per_epoch == 6
    batch = mixed.batch_at(0)
    found = sorted(zip(batch.instruction, batch.index[:, 1].tolist(), strict=True))
    assert found == [("first", 3), ("first", 5), ("first", 7), ("second", 7), ("second", 9), ("second", 11)]
    row = batch.index[:, 1].tolist().index(5)
    last = int(batch.history_mask[row].sum()) - 1
    np.testing.assert_array_equal(batch.action[row, last, :2, 0], [5 + 6, 7])  # nothing of the next segment


def test_only_chosen_episodes_are_used(ours: Store, theirs: Store) -> None:
    def used(**settings: Any) -> set[int]:
        return set(sampler([ours], [part(**settings)]).batch_at(0).index[:, 0].tolist())

    assert used(split="b") == {1}
    assert used(episodes=["e[02]"]) == {0, 2}
    assert used(split="a", episodes=["e0", "e1"]) == {0}
    with pytest.raises(Exception, match=r"has no episode for this: .*names like \['x\*'\]"):
        used(episodes=["x*"])


def test_everything_that_changes_the_data_changes_its_name(ours: Store, theirs: Store) -> None:
    def source(**settings: Any) -> str:
        return sampler([theirs], [part(**{**ENTRY, **settings})]).source

    settings: list[dict[str, Any]] = [
        {}, {"use_action": ["move"]}, {"use_state": ["tcp"]}, {"language": "drop"}, {"normalise": "own"},
        {"weight": 2}, {"cameras": {"static": "hand", "wrist": "front"}}, {"split": "a"},
        {"episodes": ["e0", "e1"]}, {"action": {"move": "delta", "gripper": "gripper"}},
    ]  # fmt: skip
    names = [source(**changed) for changed in settings]
    assert len(set(names)) == len(names)
    assert names[0] == source()


def test_another_robot_rate_or_field_is_refused_until_the_entry_allows_it(theirs: Store) -> None:
    def refused(*keys: str) -> str:
        with pytest.raises(ContractMismatch) as caught:
            fit(theirs, SPEC, OURS, part(**{k: v for k, v in ENTRY.items() if k not in keys}))
        return str(caught.value)

    assert "embodiment: required 'desk_arm', offered 'other_arm'" in (said := refused("embodiment"))
    assert "say so in the store's entry in data.stores: embodiment: any" in said
    assert "rate_hz: required 10.0, offered 20.0" in (said := refused("rate")) and "rate: resample" in said
    assert "camera 'static' is missing" in (said := refused("cameras")) and "cameras: {static: their name}" in said
    assert "state field 'force' is missing" in (said := refused("use_state")) and "use_state without it" in said
    assert "action field 'turn' is missing" in refused("use_action")
    notes = fit(theirs, SPEC, OURS, part(**ENTRY)).notes
    for text in (
        "camera static is their front", "state field tcp is their ee", "action field move is their delta",
        "recorded by 'other_arm', not 'desk_arm'; taken as it is", "resampled from 20 to 10 Hz (2 frames for 1 ticks)",
        "state: force filled with the mean", "action: turn masked",
    ):  # fmt: skip
        assert any(text in note for note in notes), text


def test_units_stay_a_border(tmp_path: Path) -> None:
    contract = THEIRS.model_copy(update={"state": (THEIRS.state[0], Field(name="ee", size=2, unit="mm"))})
    store = write(tmp_path / "mm", contract, 1, 5)
    with pytest.raises(ContractMismatch, match=r"unit required 'm', offered 'mm'[\s\S]*convert the store first"):
        fit(store, SPEC, OURS, part(**ENTRY))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"cameras": {"statik": "front"}},
            r"cameras maps 'statik', but the policy has no such camera .*did you mean 'static'",
        ),
        ({"cameras": {"static": "frnt"}}, r"no camera 'frnt' to call 'static'; .*did you mean 'front'"),
        ({"action": {"move": "gripper", "gripper": "gripper"}}, r"action field 'gripper' is mapped to two names"),
        ({"use_action": ["moove"]}, r"use_action: the policy has no field 'moove'; .*did you mean 'move'"),
        ({"use_state": ["tpc"]}, r"use_state: the policy has no field 'tpc'"),
    ],
)
def test_names_that_do_not_exist_are_explained(theirs: Store, changed: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, ContractMismatch), match=message):
        fit(theirs, SPEC, OURS, part(**{**ENTRY, **changed}))


def test_a_rename_is_noted_and_shadows_a_name_of_ours() -> None:
    required = OURS.model_copy(
        update={"cameras": (Camera(name="hand", height=SIZE, width=SIZE),), "state": (), "action": ()}
    )
    offered = THEIRS.model_copy(update={"embodiment": "desk_arm", "rate_hz": 10.0})
    adapter = adapt(required, offered, required_by="a", offered_by="b", rename=Rename(cameras={"hand": "front"}))
    assert adapter.notes[0] == "camera hand is their front"
    assert [c.name for c in offered.renamed(Rename(cameras={"hand": "front"})).cameras] == ["their hand", "hand"]


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_one_set_of_statistics_weighs_the_stores(ours: Store, theirs: Store, video: Store) -> None:
    stores, parts = [ours, theirs, video], [part(), part(**ENTRY), part()]
    fits = [fit(store, SPEC, OURS, p) for store, p in zip(stores, parts, strict=True)]
    statistics = [compute_statistics(store) for store in stores]
    found = mix_numbers(OURS, fits, statistics, [0.2, 0.5, 0.3], reference=0)
    a = np.concatenate([ours.reader(i).array("state") for i in range(3)]).astype(np.float64)
    b = np.concatenate([theirs.reader(i).array("state") for i in range(2)]).astype(np.float64)
    assert found.state is not None and found.action is not None
    mean = (0.2 * a[:, :2].mean(0) + 0.5 * b[:, 1:].mean(0)) / 0.7
    square = (0.2 * (a[:, :2] ** 2).mean(0) + 0.5 * (b[:, 1:] ** 2).mean(0)) / 0.7
    np.testing.assert_allclose(found.state.mean[:2], mean, rtol=1e-6)
    np.testing.assert_allclose(found.state.std[:2], np.sqrt(square - mean**2), rtol=1e-6)
    np.testing.assert_allclose(found.state.mean[2], a[:, 2].mean(), rtol=1e-6)  # force: only ours has it
    assert all(f.state_fill is not None for f in found.fits)
    batch = WindowSampler(stores, SPEC, seed=0, batch_size=60, contract=OURS, fits=found.fits).batch_at(0)
    rows = (batch.index[:, 0] >= 3) & (batch.index[:, 0] < 5)
    filled = batch.state[rows][batch.state_mask[rows]][:, 2]
    np.testing.assert_allclose(filled, found.state.mean[2], rtol=1e-6)
    turn = np.concatenate([ours.reader(i).array("action")[:, 2] for i in range(3)])
    for_policy = found.for_policy()["action"]
    assert for_policy["q01"][2] == pytest.approx(np.quantile(turn, 0.01, method="inverted_cdf"))


def test_a_store_is_brought_to_the_spread_of_the_reference(ours: Store, theirs: Store) -> None:
    stores, parts = [ours, theirs], [part(normalise="own"), part(**ENTRY, normalise="own")]
    fits = [fit(store, SPEC, OURS, p) for store, p in zip(stores, parts, strict=True)]
    found = mix_numbers(OURS, fits, [compute_statistics(s) for s in stores], [0.5, 0.5], reference=0)
    own = found.fits[1]
    assert found.fits[0].state_map is None and own.state_map is not None and own.action_map is not None
    a = np.concatenate([ours.reader(i).array("state") for i in range(3)])
    b = np.concatenate([theirs.reader(i).array("state") for i in range(2)])
    moved = own.state_map.apply(b[:, [1, 2, 0, 0]])
    np.testing.assert_allclose(moved[:, :2].mean(0), a[:, :2].mean(0), atol=1e-5)
    np.testing.assert_allclose(moved[:, :2].std(0), a[:, :2].std(0), rtol=1e-5)
    np.testing.assert_array_equal(moved[:, 3], b[:, 0])  # a command stays a command
    assert own.action_map.scale[3] == 1.0 and own.action_map.offset[3] == 0.0  # a gripper stays -1 or +1
    ends = {}
    for name, store, columns in (("ours", ours, [0, 1]), ("theirs", theirs, [1, 2])):
        actions = np.concatenate([store.reader(i).array("action")[:, columns] for i in range(len(store))])
        scale = 2.0 if name == "theirs" else 1.0  # two stored increments make one of ours
        ends[name] = scale * np.quantile(actions.astype(np.float64), [0.01, 0.99], axis=0, method="inverted_cdf")
    mapped = own.action_map.apply(np.concatenate([ends["theirs"], np.zeros((2, 2))], axis=1))
    np.testing.assert_allclose(mapped[:, :2], ends["ours"], rtol=1e-5)
    plain = sampler(stores, [part(), part(**ENTRY)]).batch_at(0)
    batch = WindowSampler(stores, SPEC, seed=1, batch_size=60, contract=OURS, fits=found.fits).batch_at(0)
    rows = batch.index[:, 0] >= 3
    mask = batch.action_numbers[rows][..., 0]
    back = own.action_map.undo(batch.action[rows])
    np.testing.assert_allclose(back[mask][:, [0, 1, 3]], plain.action[rows][mask][:, [0, 1, 3]], rtol=2e-6, atol=2e-6)
    np.testing.assert_array_equal(batch.action[~rows], plain.action[~rows])


def test_the_inverse_is_exact_to_float32() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(10_000, 3)).astype(np.float32)
    affine = Affine(scale=np.array([1e-3, 1.0, 37.0]), offset=np.array([0.002, -0.5, 4.0]))
    moved = affine.apply(values)
    # One rounding of the mapped number, seen through the inverse, and one of the result.
    bound = np.spacing(np.abs(moved)).astype(np.float64) / affine.scale + np.spacing(np.abs(values))
    assert (np.abs(affine.undo(moved).astype(np.float64) - values) <= bound).all()


def test_a_field_that_no_store_gives_is_an_error(ours: Store) -> None:
    only = fit(ours, SPEC, OURS, part(use_action=["move", "gripper"]))
    with pytest.raises(ConfigError, match="no store of the mixture has the action field 'turn'"):
        mix_numbers(OURS, [only], [compute_statistics(ours)], [1.0], reference=0)


# --- settings --------------------------------------------------------------------------------------------------------


def test_shorthand_and_entries_mean_the_same() -> None:
    short = parse_stores({"path": ["a", "b"], "weights": [1, 2], "stores": None})
    long = parse_stores(
        {"path": "-", "weights": None, "stores": [{"path": "a", "weight": 1}, {"path": "b", "weight": 2.0}]}
    )
    assert short == long
    assert parse_stores({"path": "a"}) == [StorePart(path="a")]
    assert parse_stores({"path": [{"path": "a", "language": "drop"}]})[0].language == "drop"
    assert [p.changes() for p in short] == ["weight=1.0", "weight=2.0"] and StorePart(path="a").changes() == ""
    assert part(**ENTRY).changes() == (
        "cameras=static:front,wrist:hand state=tcp:ee action=move:delta use_state=tcp,gripper_command "
        "use_action=move,gripper embodiment=any rate=resample"
    )


def test_entries_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mix.yaml"
    for text in ("- a\n- {path: b, rate: resample}\n", "stores:\n- a\n- {path: b, rate: resample}\n"):
        file.write_text(text)
        assert parse_stores({"stores": read_stores(file)}) == [
            StorePart(path="a"),
            StorePart(path="b", rate="resample"),
        ]
    for text, message in (
        ("a: 1", "must hold a list of stores, found"),
        ("[", "is not YAML"),
        ("\udcff", "cannot be read"),
    ):
        file.write_bytes(text.encode("utf-8", "surrogateescape"))
        with pytest.raises(ConfigError, match=message):
            read_stores(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_stores(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stores": [{"path": "a", "wieght": 2}]}, r"data.stores\[0\].wieght is unknown; .*did you mean 'weight'"),
        ({"stores": [{"weight": 2}]}, r"data.stores\[0\].path must name a store, found None"),
        ({"stores": [3]}, r"data.stores\[0\] must be a path or a mapping"),
        ({"stores": []}, "data.stores must be a list of stores or a YAML file"),
        ({"stores": {"path": "a"}}, "data.stores must be a list of stores or a YAML file"),
        ({"stores": [{"path": "a", "weight": 0}]}, "weight must be a positive number, found 0"),
        ({"stores": [{"path": "a", "weight": True}]}, "weight must be a positive number, found True"),
        ({"stores": [{"path": "a", "rate": "resampel"}]}, "rate: 'resampel' is unknown; .*did you mean 'resample'"),
        ({"stores": [{"path": "a", "cameras": ["b"]}]}, "cameras must map our names to theirs"),
        ({"stores": [{"path": "a", "use_action": "move"}]}, "use_action must be a list of names, found 'move'"),
        ({"stores": [{"path": "a", "use_state": ["x", "x"]}]}, "use_state names something twice"),
        ({"stores": [{"path": "a", "split": 3}]}, "split must be a text, found 3"),
        ({"stores": [{"path": "a", "weight": 1}, "b"]}, "a weight to every store or to none; there is none for b"),
        ({"stores": ["a"], "weights": [1]}, "data.weights belongs to data.path"),
        ({"path": []}, "data.path must name at least one store"),
        ({"path": ["a", "b"], "weights": [1]}, r"data.weights: expected 2 positive numbers, found \[1\]"),
        ({"path": ["a"], "weights": [-1]}, r"data.weights\[0\] must be a positive number"),
        ({"path": [{"path": "a", "weight": 1}], "weights": [1]}, "use one of them"),
    ],
)  # fmt: skip
def test_wrong_settings_are_explained(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_stores({"path": "p", **settings})
