"""`foreact data`, as a person calls it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from foreact.commands.bench_codecs import markdown, measure
from foreact.commands.data import app
from foreact.datasets.layout import NoStore
from foreact.datasets.selftest_episodes import SELFTEST_CONTRACT, make_episode
from foreact.datasets.store import Store
from foreact.vla.contract import Contract


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_info_prints_what_is_there(store: Store) -> None:
    text = call("info", store.path).output
    for words in (
        "5 (demonstrations 4, video only 1)",
        "31 (0.00 h at 10 Hz)",
        "count 5",
        "zstd:level=3 5",
        "test_arm",
    ):
        assert words in text, text
    found = json.loads(call("info", store.path, "--json").output)
    assert (found["episodes"], found["frames"], found["splits"]) == (5, 31, {"train": 4, "val": 1})
    assert found["bytes"] == sum(p.stat().st_size for p in (store.path / "episodes").rglob("*") if p.is_file())
    assert found["hours"] == pytest.approx(31 / 10 / 3600) and found["hash"] == store.hash


def test_pack_then_verify(store: Store) -> None:
    assert "5 episodes" in (packed := call("pack", store.path, "--mb", 0.01)).output and packed.exit_code == 0
    assert json.loads(call("pack", store.path, "--json").output)["episodes"] == 0
    verified = call("verify", store.path, "--decode")
    assert verified.exit_code == 0 and "5 episodes" in verified.output and "all intact" in verified.output
    assert json.loads(call("info", store.path, "--json").output)["episodes_in_packs"] == 5


def test_verify_names_the_file_and_fails(store: Store) -> None:
    file = store.path / "episodes" / "e0" / "state" / "c" / "0" / "0"
    file.write_bytes(bytes(len(file.read_bytes())))
    found = call("verify", store.path)
    assert found.exit_code == 1 and f"DAMAGED: {file}" in found.output and "1 problems" in found.output
    report = json.loads(call("verify", store.path, "--json").output)
    assert report["ok"] is False and str(file) in report["problems"][0]


def test_info_prints_the_contract_as_a_file_that_can_be_read_again(store: Store) -> None:
    assert Contract.from_yaml(call("info", store.path, "--contract").output) == store.contract


def test_info_of_a_damaged_store_says_so(store: Store) -> None:
    (store.path / "index.bin").unlink()
    (store.path / "episodes" / "e0" / "manifest.json").write_bytes(b"")
    text = call("info", store.path).output
    assert "DAMAGED" in text and "episode e0 is damaged" in text


@pytest.mark.parametrize("command", ["info", "verify", "pack"])
def test_no_store_is_an_error_for_people(command: str, tmp_path: Path) -> None:
    found = call(command, tmp_path / "nowhere")
    assert isinstance(found.exception, NoStore) and found.exit_code == 1


def test_selftests_run_from_the_command_line() -> None:
    flips = call("selftest", "flips", "--flips", 5)
    assert flips.exit_code == 0 and "5 found and the file named" in flips.output
    kills = call("selftest", "kills", "--kills", 1)
    assert kills.exit_code == 0 and "0 failures" in kills.output


def test_the_codec_table_measures_what_it_says() -> None:
    episodes = [make_episode("n0"), make_episode("n5")]
    raw, jpeg = measure(SELFTEST_CONTRACT, episodes, ["raw", "jpeg:quality=50,subsampling=420"])
    assert raw.bytes_per_pair == 24 * 32 * 3 + 16 * 16 * 3 and np.isinf(raw.psnr_db)
    assert 10 < jpeg.psnr_db < 60 and jpeg.bytes_per_pair < raw.bytes_per_pair
    assert min(jpeg.encode_ms, jpeg.decode_ms, jpeg.window_ms) > 0
    lines = markdown([raw, jpeg]).splitlines()
    assert len(lines) == 4 and "lossless" in lines[2] and lines[3].count("|") == 7
