"""Studies: who is compared with whom, what a row's identity follows from, and intervals."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from foreact.vla.errors import ConfigError
from foreact.vla.study import Row, Study, StudyError, summarise, two_level_interval

STUDY = {
    "name": "tiny",
    "question": "What helps?",
    "seeds": [0, 1],
    "data": {"desk": ["scenes=[D]"], "video": ["kind=video"]},
    "stages": {
        "watch": {"data": ["video"], "settings": ["experiment=pretrain_video"]},
        "act": {"data": ["desk"], "begins_with": "watch"},
    },
    "evaluate": ["benchmark=calvin_chains"],
    "arms": {"none": {"skip": ["watch"]}, "watched": {}, "more": {"settings": {"act": ["policy.layers=5"]}}},
    "against": "none",
}


def make(**changes) -> Study:
    return Study.model_validate({**STUDY, **changes})


def row(study: Study, arm: str, seed: int, outcomes: list[float]) -> Row:
    return Row(
        study=study.name, arm=arm, seed=seed, identity=study.identity(arm, seed), commands=("foreact train",),
        stages={"act": {"hours": 0.5}}, checkpoint_sha256="0" * 64, machine={}, evaluate_hours=0.1, results={},
        unit="chain", outcomes=tuple(enumerate(outcomes)),
    )  # fmt: skip


def test_arms_share_what_is_the_same() -> None:
    study = make()
    watched, more = study.trainings("watched", 0), study.trainings("more", 0)
    assert [t.name for t in watched] == ["watch", "act"]
    assert watched[0].identity == more[0].identity
    assert watched[1].identity != more[1].identity
    (alone,) = study.trainings("none", 0)
    assert alone.begins_with is None
    assert alone.identity != watched[1].identity


def test_what_a_policy_drives_depends_on_its_training() -> None:
    data = {**STUDY["data"], "corrections": ["driver=watch", "seed=3"]}
    stages = {**STUDY["stages"], "act": {"data": ["desk", "corrections"], "begins_with": "watch"}}
    arms = {"watched": {}, "longer": {"settings": {"watch": ["trainer.max_steps=9"]}}}
    study = make(data=data, stages=stages, arms=arms, against="watched")
    found = {(arm, seed): study.trainings(arm, seed) for arm in arms for seed in (0, 1)}
    drivers = {key: act.data["corrections"] for key, (_, act) in found.items()}
    assert all(words == (f"driver=watch-{found[key][0].identity}", "seed=3") for key, words in drivers.items())
    assert len(set(drivers.values())) == 4 and len({act.identity for _, act in found.values()}) == 4


@pytest.mark.parametrize(
    "changes",
    [
        {"evaluate": ["benchmark=mtlc"]},
        {"data": {"desk": ["scenes=[A]"], "video": ["kind=video"]}},
        {"stages": {**STUDY["stages"], "act": {"data": ["desk"], "begins_with": "watch", "settings": ["a=1"]}}},
    ],
)
def test_another_setting_is_another_row(changes: dict) -> None:
    assert make(**changes).identity("watched", 0) != make().identity("watched", 0)
    assert make().identity("watched", 0) != make().identity("watched", 1)
    assert make(question="Why?").identity("watched", 0) == make().identity("watched", 0)


def test_first_seeds_of_all_arms_come_first() -> None:
    assert make().rows()[:4] == [("none", 0), ("watched", 0), ("more", 0), ("none", 1)]


def test_differences_are_taken_pair_by_pair() -> None:
    study = make()
    rng = np.random.default_rng(0)
    hard = rng.integers(0, 5, 300).astype(float)  # chains differ far more than arms
    rows = [row(study, "none", seed, list(hard)) for seed in (0, 1)]
    rows += [row(study, "watched", seed, list(np.minimum(hard + (rng.random(300) < 0.3), 5))) for seed in (0, 1)]
    none, watched = summarise(study, rows)
    assert none.difference is None and none.mean == pytest.approx(hard.mean())
    assert watched.difference is not None and watched.difference_ci95 is not None
    assert watched.difference == pytest.approx(watched.mean - none.mean)
    assert watched.difference_ci95[0] > 0
    assert watched.ci95[0] < none.ci95[1]  # unpaired, the two could not be told apart


def test_the_interval_covers() -> None:
    """In 60 made-up studies of a true mean 0 with 8 seeds, the 95 % interval holds 0 in about 95 %."""
    rng = np.random.default_rng(1)
    held = 0
    for study in range(60):
        values = rng.normal(0, 0.3, (8, 1)) + rng.normal(0, 1.0, (1, 40)) + rng.normal(0, 1.0, (8, 40))
        low, high = two_level_interval(values, seed=study)
        held += low <= 0 <= high
    assert 50 <= held <= 60


def test_the_interval_of_a_difference_covers_where_seeds_have_nothing_in_common() -> None:
    """Two ways to train that are equally good, eight seeds each, the same chains: 0 is held in about 95 % of 60."""
    rng = np.random.default_rng(3)
    held = 0
    for study in range(60):
        chains = rng.normal(0, 1.0, (1, 40))
        one, other = (rng.normal(0, 0.3, (8, 1)) + chains + rng.normal(0, 1.0, (8, 40)) for _ in range(2))
        low, high = two_level_interval(one, other, seed=study)
        held += low <= 0 <= high
    assert 50 <= held <= 60


def test_one_seed_is_compared_with_all_of_the_other_arm() -> None:
    """The seed that an arm happens to share with a bad one of the other arm makes it no better."""
    study = make()
    rows = [row(study, "none", seed, [value] * 20) for seed, value in ((0, 1.0), (1, 3.0))]
    _, watched = summarise(study, [*rows, row(study, "watched", 0, [2.0] * 20)])
    assert watched.difference == pytest.approx(0.0)
    assert watched.difference_ci95 is None


def test_the_interval_grows_with_the_spread_of_seeds() -> None:
    rng = np.random.default_rng(2)
    chains = rng.normal(0, 1, (1, 200)).repeat(3, axis=0)
    low, high = two_level_interval(chains)
    wide = two_level_interval(chains + np.array([[-0.5], [0.0], [0.5]]))
    assert wide[1] - wide[0] > 1.5 * (high - low)


def test_a_row_comes_back(tmp_path: Path) -> None:
    study = make()
    path = tmp_path / "tiny" / "none-0.json"
    row(study, "none", 0, [1.0, 0.5]).write(path)
    assert Row.read(path) == row(study, "none", 0, [1.0, 0.5])
    assert len(path.read_text().splitlines()) < 40
    path.write_text(path.read_text().replace('"version": 1', '"version": 9'))
    with pytest.raises(StudyError, match="version 9"):
        Row.read(path)
    path.write_text("{")
    with pytest.raises(StudyError, match="not a row"):
        Row.read(path)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"against": "nobody"}, "no arm 'nobody'"),
        ({"arms": {"none": {"skip": ["wach"]}}}, "did you mean 'watch'"),
        ({"arms": {"none": {"settings": {"acct": []}}}}, "did you mean 'act'"),
        ({"stages": {"act": {"data": ["dsk"]}}, "arms": {"none": {}}}, "did you mean 'desk'"),
        ({"arms": {"none": {"skip": ["watch", "act"]}}}, "skips every stage"),
        ({"sedes": [1]}, "sedes"),
        ({"data": {"desk": ["driver=watch"], "video": []}}, "that arm none trains before act: there is none"),
        ({"data": {"desk": [], "video": ["driver=act"]}}, "that arm watched trains before watch: there is none"),
    ],
)
def test_mistakes_are_named(changes: dict, names: str, tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump({**STUDY, **changes}, sort_keys=False))
    with pytest.raises(ConfigError, match=names):
        Study.load(path)
