"""Whatever is done to a store in whatever order, its index is what a look at all files gives, and nothing is lost."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foreact.datasets.edit import run_edit
from foreact.datasets.edit_plan import EditOptions, plan_edit
from foreact.datasets.episode import EpisodeData
from foreact.datasets.index import load_index
from foreact.datasets.layout import EpisodeExists
from foreact.datasets.packing import pack_store
from foreact.datasets.recorder import Recorder
from foreact.datasets.selftest_episodes import SELFTEST_CONTRACT, make_episode, same_episode
from foreact.datasets.store import Store
from foreact.datasets.table_merge import merge_table
from foreact.datasets.verify import verify_store

NAMES = [f"e{n}" for n in range(6)]
STEPS = st.one_of(
    st.tuples(st.just("record"), st.sampled_from(NAMES)),
    st.tuples(st.just("pack"), st.sampled_from([1, 10**9])),
    st.tuples(st.just("delete"), st.sampled_from(NAMES)),
    st.tuples(st.just("edit"), st.sampled_from(NAMES)),
    st.tuples(st.just("open"), st.none()),
)


def small(name: str) -> EpisodeData:
    """Two frames of one camera: what is tested here is not their content."""
    episode = make_episode(name)
    cut = {key: value[:2] for key, value in episode.extras.items()}
    state, action = episode.state, episode.action
    return EpisodeData(
        images={"wrist": episode.images["wrist"][:2]}, name=name, extras=cut, meta=episode.meta,
        state=None if state is None else state[:2], action=None if action is None else action[:2],
        instruction=episode.instruction,
    )  # fmt: skip


def run_history(folder: Path, steps: list[tuple[str, object]]) -> None:
    path, expected, edits = folder / "store", {}, 0
    Recorder(path, SELFTEST_CONTRACT, "zstd")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for what, value in steps:
            if what == "record":
                try:
                    Recorder(path, SELFTEST_CONTRACT, "zstd").write(small(str(value)))
                    assert value not in expected
                    expected[value] = small(str(value))
                except EpisodeExists:
                    assert value in expected
            elif what == "pack":
                pack_store(path, int(value))  # pyright: ignore[reportArgumentType]
            elif what == "delete" and (path / "episodes" / str(value)).is_dir():
                shutil.rmtree(path / "episodes" / str(value))
                del expected[value]
            elif what == "edit" and value in expected and len(expected) > 1:
                edits += 1
                run_edit(plan_edit(path, EditOptions(drop=[str(value)])), folder / f"edited{edits}")
                path = folder / f"edited{edits}"
                del expected[value]
            elif what == "open":
                Store.open(path)
            cached = load_index(path)  # from the cache of the step before, if that is still right
            scan = load_index(path, use_cache=False)
            again = load_index(path)  # from the cache of the scan
            assert cached.table == scan.table == again.table and not (cached.damaged or scan.damaged)
            assert list(scan.table.names) == sorted(expected)
    store = Store.open(path)
    for name, episode in expected.items():
        found = store.read(name)
        for key in [key for key in found.meta if key.startswith("source_")]:
            del found.meta[key]  # an edit notes where an episode came from
        assert same_episode(found, episode)
    assert not verify_store(path).problems


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    derandomize=True,
)
@given(steps=st.lists(STEPS, min_size=1, max_size=10))
def test_the_index_equals_a_scan(steps: list[tuple[str, object]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run_history(Path(folder), steps)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(steps=st.lists(STEPS, min_size=1, max_size=20))
def test_the_index_equals_a_scan_after_300_histories(steps: list[tuple[str, object]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run_history(Path(folder), steps)


def test_an_index_that_forgets_to_forget_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness itself: rows of deleted episodes that stay in the index are found out."""
    keep_all = lambda old, keep, fresh: merge_table(old, np.ones_like(keep), fresh)  # noqa: E731
    monkeypatch.setattr("foreact.datasets.index.merge_table", keep_all)
    with pytest.raises(AssertionError):
        run_history(tmp_path, [("record", "e0"), ("record", "e1"), ("delete", "e0")])


@pytest.mark.parametrize("packed", [False, True], ids=["folders", "packed"])
@pytest.mark.parametrize("removed", range(5))
def test_removing_an_episode_changes_no_other(store: Store, removed: int, packed: bool) -> None:
    """Episodes have names, not positions: each is what it was, whatever is removed."""
    before = {name: store.read(name) for name in store.index.names}
    gone = store.index.names[removed]
    shutil.rmtree(store.path / "episodes" / gone)
    if packed:
        pack_store(store.path)
    after = Store.open(store.path)
    assert set(after.index.names) == set(before) - {gone}
    assert all(same_episode(after.read(name), before[name]) for name in after.index.names)
    assert [info.name for info in after.index] == list(after.index.names)
