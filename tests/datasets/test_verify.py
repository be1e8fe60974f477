"""Every kind of damage is found and the file is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from foreact.datasets.bitflip_test import bitflip_test
from foreact.datasets.crash_test import crash_test
from foreact.datasets.layout import NoStore, StoreError
from foreact.datasets.packing import pack_store
from foreact.datasets.still_codecs import JpegCodec
from foreact.datasets.store import Store
from foreact.datasets.verify import verify_store


@pytest.fixture(params=["folders", "packs"])
def path(request: pytest.FixtureRequest, store: Store) -> Path:
    if request.param == "packs":
        pack_store(store.path)
    return store.path


def test_an_intact_store_has_no_problems(path: Path) -> None:
    report = verify_store(path, decode=True)
    assert (report.problems, report.notes, report.episodes) == ([], [], 5)
    assert report.bytes == sum(info.bytes for info in Store.open(path).index)


@pytest.mark.parametrize("how", ["truncated", "empty", "missing", "longer"])
def test_every_file_that_is_not_whole_is_named(path: Path, how: str, tmp_path: Path) -> None:
    files = [p for p in path.rglob("*") if p.is_file() and p.stat().st_size and p.name != "index.bin"]
    assert len(files) >= 3
    for file in files[:: max(1, len(files) // 25)]:
        kept = file.read_bytes()
        if how == "missing":
            file.unlink()
        else:
            file.write_bytes({"truncated": kept[:-1], "empty": b"", "longer": kept + b"\0"}[how])
        if file.name == "foreact-store.json" and how == "missing":
            with pytest.raises(NoStore, match="has no foreact-store.json"):
                verify_store(path)
        else:
            assert any(str(file) in problem for problem in verify_store(path).problems), file
        file.write_bytes(kept)
    assert not verify_store(path).problems


def test_files_that_do_not_belong_are_named(store: Store) -> None:
    extra = store.path / "episodes" / "e1" / "state" / "c" / "1"
    extra.mkdir()
    (extra / "0").write_bytes(b"x")
    stray = store.path / "episodes" / "notes.txt"
    stray.write_text("x")
    problems = verify_store(store.path).problems
    assert any(str(extra / "0") in p for p in problems) and any(str(stray) in p for p in problems)
    assert len(problems) == 2


def test_reading_damaged_numbers_or_frames_names_the_episode(store: Store) -> None:
    for file, message in (
        ("state/c/0/0", r"e0/state/c/0/0: its crc32c"),
        ("camera.static.frames/c/0", "frame 0 is wrong"),
    ):
        chunk = store.path / "episodes" / "e0" / file
        kept = chunk.read_bytes()
        chunk.write_bytes(bytes([kept[0] ^ 8]) + kept[1:])
        with pytest.raises(StoreError, match=f"episode e0 is damaged.*{message}"):
            Store.open(store.path).read("e0")
        chunk.write_bytes(kept)


def test_decoding_finds_what_was_recorded_wrongly(store: Store, monkeypatch, contract, make_episode) -> None:
    from foreact.datasets.recorder import Recorder

    monkeypatch.setattr(JpegCodec, "encode_frame", lambda self, frame: b"not a picture")
    Recorder(store.path, contract, codec="jpeg").write(make_episode(1, 3), "bad")
    assert not verify_store(store.path).problems
    (problem,) = verify_store(store.path, decode=True).problems
    assert "bad/camera.static.frames/c/0: frame 0: not a JPEG picture" in problem


def test_flipped_bits_are_found_and_named(tmp_path: Path) -> None:
    report = bitflip_test(tmp_path, flips=40, seed=7)
    assert (report.flips, report.found, report.missed) == (40, 40, [])
    assert len(report.kinds) >= 6, f"too few kinds of files: {report.kinds}"


def test_the_flip_test_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foreact.datasets.reader.EpisodeReader.check_files", lambda self: [])
    report = bitflip_test(tmp_path, flips=20, seed=7)
    assert report.found < 20 and len(report.missed) == 20 - report.found


def test_killed_recorders_lose_nothing(tmp_path: Path) -> None:
    report = crash_test(tmp_path, kills=5, seed=1)
    assert (report.kills, report.failures) == (5, [])
    assert report.acknowledged > 0


def test_the_crash_test_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Store.open

    def lossy(path: Path) -> Store:
        for folder in sorted((path / "episodes").iterdir())[:1]:
            shutil.rmtree(folder)
        for pack in sorted((path / "packs").glob("*"))[:1]:
            shutil.rmtree(pack)
        return real(path)

    monkeypatch.setattr(Store, "open", lossy)
    # On a machine with much else to do a recorder may be killed before it has written anything.
    reports = (crash_test(tmp_path / str(seed), kills=8, seed=seed) for seed in range(1, 5))
    assert any("is lost" in failure for report in reports for failure in report.failures)
