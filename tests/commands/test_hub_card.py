"""`foreact hub card`: what the page says, what it keeps, and what it does not change."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from foreact.commands.main import app, run
from foreact.vla.actors import checkpoint_sha256
from foreact.vla.checkpoint import load_policy
from foreact.vla.files import verify_folder, write_folder
from foreact.vla.model_card import front_of, licence_of, notes_of, plain_provenance
from foreact.vla.results import read_results

ROOT = Path(__file__).parents[2]
SHIPPED, RESULTS = ROOT / "checkpoints/foreact_desk", ROOT / "results/foreact_desk.json"


def contents(folder: Path, *without: str) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in verify_folder(folder) if name not in without}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The shipped checkpoint as it was saved, before it had a card."""
    folder = Path(shutil.copytree(SHIPPED, tmp_path / "mine"))
    write_folder(folder, contents(folder, "README.md"))
    return folder


def card(folder: Path, *words: object) -> tuple[dict[str, Any], str]:
    assert run(app, ["hub", "card", str(folder), *map(str, words)]) == 0
    text = (folder / "README.md").read_text()
    front, _, body = text.removeprefix("---\n").partition("\n---\n")
    return yaml.safe_load(front), body


def test_the_page_says_what_was_measured_and_what_is_expected(folder: Path) -> None:
    front, body = card(folder, "--results", RESULTS)
    assert {key: front[key] for key in ("library_name", "pipeline_tag", "license", "datasets")} == {
        "library_name": "foreact", "pipeline_tag": "robotics", "license": "unknown", "datasets": [],
    }  # fmt: skip
    results = read_results(RESULTS)
    metrics = front["model-index"][0]["results"][0]["metrics"]
    assert metrics[0]["value"] == round(results.overall.success_rate, 4) > 0.5
    for name, task in results.tasks.items():
        assert f"| {name} | {task.success_rate:.1%} | {task.ci95[0]:.1%} to {task.ci95[1]:.1%} | {task.n} |" in body
    policy = load_policy(folder)
    for field in (*policy.contract.state, *policy.contract.action):
        assert f"| {field.name} | {field.size} x {field.unit}" in body
    assert f"with {sum(t.numel() for t in policy.state_dict().values()):,} weights" in body
    assert "- `772342dbee3d0ffd`" in body and "max_steps: 4200" in body
    write_folder(folder, contents(folder, "README.md", "provenance.json"))
    assert "Unknown: this checkpoint does not say what it was trained on" in card(folder)[1]


def test_it_stays_the_same_policy(folder: Path) -> None:
    before = checkpoint_sha256(folder)
    assert before == hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
    card(folder)
    assert "README.md" in verify_folder(folder)
    assert checkpoint_sha256(folder) == before
    files = contents(folder, "README.md")
    write_folder(folder, {**files, "statistics.json": files["statistics.json"] + b" "})
    assert checkpoint_sha256(folder) != before, "anything else makes it another"


def test_what_people_wrote_is_kept(folder: Path) -> None:
    card(folder, "--license", "apache-2.0", "--dataset", "me/desk")
    text = (folder / "README.md").read_text()
    text += "\nTried on Monday.\n\n## More\n\nof it\n"
    write_folder(folder, contents(folder) | {"README.md": text.encode()})
    front, body = card(folder, "--results", RESULTS)
    assert front["license"] == "apache-2.0" and front["datasets"] == ["me/desk"]
    assert body.endswith("## Notes\n\nTried on Monday.\n\n## More\n\nof it\n")
    assert (folder / "README.md").read_text().count("## Notes") == 1
    again, body_again = card(folder, "--results", RESULTS)
    assert (again, body_again) == (front, body)


def test_a_page_of_others_becomes_notes(folder: Path) -> None:
    write_folder(folder, {**contents(folder), "README.md": b"---\nlicense: mit\n---\n\n# Mine\n\ntext\n"})
    front, body = card(folder)
    assert front["license"] == "mit"
    assert body.endswith("## Notes\n\n# Mine\n\ntext\n")


def test_results_of_another_checkpoint_are_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = json.loads(RESULTS.read_text())
    other["checkpoint"]["sha256"] = "0" * 64
    (tmp_path / "other.json").write_text(json.dumps(other))
    before = (folder / "manifest.json").read_bytes()
    assert run(app, ["hub", "card", str(folder), "--results", str(tmp_path / "other.json")]) == 2
    assert "was measured with the checkpoint 000000000000" in capsys.readouterr().err
    assert run(app, ["hub", "card", str(folder), "--results", str(ROOT / "results/experts.json")]) in (1, 2)
    assert "Traceback" not in capsys.readouterr().err
    assert (folder / "manifest.json").read_bytes() == before and not (folder / "README.md").exists()


def test_a_new_folder_leaves_the_old_one(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, ["hub", "card", str(folder), "--out", str(tmp_path / "new")]) == 0
    assert not (folder / "README.md").exists() and (tmp_path / "new/README.md").is_file()
    assert not (tmp_path / "new/model.safetensors").samefile(folder / "model.safetensors")
    assert load_policy(tmp_path / "new").name == "foreact"
    assert run(app, ["hub", "card", str(folder), "--out", str(tmp_path / "new")]) == 2
    assert "exists already" in capsys.readouterr().err


def test_a_trained_policy_brings_its_page(tmp_path: Path) -> None:
    words = ["experiment=debug", f"out={tmp_path / 'run'}"]
    assert run(app, ["train", *words, "trainer.max_steps=2"]) == 0
    for folder in (tmp_path / "run/policy", *(tmp_path / "run/checkpoints").iterdir()):
        text = (folder / "README.md").read_text()
        assert "- `synthetic`" in text and "max_steps: 2" in text and "Trained with foreact" in text
        assert str(tmp_path) not in text + (folder / "provenance.json").read_text()
        assert "README.md" in verify_folder(folder)
    assert run(app, ["train", *words, "resume=true", "trainer.max_steps=3"]) == 0
    assert "max_steps: 3" in (tmp_path / "run/policy/README.md").read_text()


def test_places_on_a_disk_are_not_told() -> None:
    said = {"data": ["h"], "settings": {"out": "/a/b", "data": {"path": ["/home/me/x", "rel/y"]}, "n": 3}, "other": 1}
    assert plain_provenance(said) == {"data": ["h"], "settings": {"data": {"path": ["x", "rel/y"]}, "n": 3}}


def test_licences_follow_from_towers() -> None:
    assert licence_of("foreact", {"vision": "mae"}, ["vision"]) == "cc-by-nc-4.0"
    assert licence_of("gr1_published", {}, ["text"]) == "cc-by-nc-4.0"
    assert licence_of("foreact", {"vision": "dino"}, ["vision"]) == "unknown"


def test_a_damaged_front_is_no_front() -> None:
    assert front_of("---\n[\n---\nbody") == {} and front_of("# no front") == {}
    assert notes_of("# no front\n") == "# no front"
