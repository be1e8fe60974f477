"""Checkpoints to and from a model hub, by huggingface_hub's own client against a server in this process."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from foreact.commands.evaluate_settings import EvaluateSettings
from foreact.commands.main import app, run
from foreact.policies.gr1.foreact import ForeAct
from foreact.policies.gr1.foreact_config import ForeActConfig
from foreact.vla.checkpoint import load_policy, save_policy
from foreact.vla.errors import ConfigError
from foreact.vla.files import DamagedFolder, verify_folder, write_folder
from foreact.vla.hub import _ALLOWED, HubError, HubName, is_hub_name, local_checkpoint, parse, pull, push
from foreact.vla.text import build_text
from foreact.vla.training.synthetic import synthetic_contract

SIZES: dict[str, Any] = dict(
    chunk=2, execute_steps=1, width=16, layers=1, heads=2, vision_width=16, vision_heads=2, text_width=8, text_layers=1,
    text_heads=2, visual_count=1, resampler_heads=1, resampler_head_width=8, image_queries=1, decoder_width=8,
    decoder_layers=1, decoder_heads=2,
)  # fmt: skip
NAME = HubName("someone/tiny")

# The client's own call of its HTTP library, when it sends a large file.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload:DeprecationWarning")


def _server() -> Any:
    spec = importlib.util.spec_from_file_location("hub_server", Path(__file__).with_name("hub_server.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


server = _server()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(3)
    statistics = {"state": {"mean": [0.1, 0.2, 0.3], "std": [1.0, 2.0, 3.0]}}
    policy = ForeAct(ForeActConfig(**SIZES), synthetic_contract({"eye": (16, 16)}), statistics)
    policy.provenance = {"data": ["abc"], "settings": {"data": {"path": "/home/me/secret/desk"}, "out": "x"}, "step": 5}
    save_policy(policy, tmp_path / "mine")
    return tmp_path / "mine"


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # whatever this machine's environment says
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", server.TOKEN)
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    with server.serve() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.address)
        yield running


def test_names_of_the_hub_are_told_from_folders() -> None:
    assert parse("hf://me/policy@v1.0") == HubName("me/policy", "v1.0")
    assert parse("me/policy", "main") == HubName("me/policy", "main")
    assert str(HubName("me/policy", "v1")) == "hf://me/policy@v1"
    for bad in ("hf://policy", "hf://me/a/b", "hf://me/..", "hf://../x", "hf://me/pol icy", "hf://"):
        with pytest.raises(ConfigError, match="no name on a model hub"):
            parse(bad)
    for bad in ("hf://me/policy@../x", "hf://me/policy@-x"):
        with pytest.raises(ConfigError, match="no revision"):
            parse(bad)
    with pytest.raises(ConfigError, match="another; name one"):
        parse("hf://me/policy@v1", "v2")
    with pytest.raises(ConfigError, match="is a folder"):
        local_checkpoint("runs/a/policy", "v1")
    assert local_checkpoint("runs/policy") == Path("runs/policy"), "without hf:// nothing is fetched"
    assert is_hub_name("runs/policy") and not is_hub_name("./runs") and not is_hub_name("/a/b")


def test_pushed_and_pulled_it_is_the_same_policy(hub: Any, folder: Path) -> None:
    address = push(folder, NAME, private=True)
    assert address.startswith(f"{hub.address}/someone/tiny/commit/") and hub.private["someone/tiny"]
    there = hub.at("someone/tiny", "main")[1]
    assert {n: b for n, b in there.items() if n != ".gitattributes"} == files_of(folder)
    fetched = pull(NAME)
    assert files_of(fetched) == files_of(folder), ".gitattributes is not fetched"
    assert local_checkpoint(Path("hf://someone/tiny")) == fetched, "a setting of the command line is a Path"
    assert EvaluateSettings(checkpoint=fetched).name == "someone--tiny"
    policy = ForeAct.from_pretrained("someone/tiny")
    for name, tensor in load_policy(folder).state_dict().items():
        assert torch.equal(policy.state_dict()[name], tensor), name
    assert policy.provenance is not None and policy.provenance["step"] == 5
    assert "/home/me" not in there["provenance.json"].decode() + there["README.md"].decode()


def test_a_revision_stays_what_it_was(hub: Any, folder: Path) -> None:
    push(folder, NAME)
    first, kept = hub.at("someone/tiny", "main")
    hub.tags["someone/tiny", "v1"] = first
    policy = load_policy(folder)
    with torch.no_grad():
        next(policy.parameters()).add_(1.0)
    save_policy(policy, folder)
    push(folder, NAME)
    assert (pull(HubName("someone/tiny", "v1")) / "model.safetensors").read_bytes() == kept["model.safetensors"]
    assert (pull(NAME) / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    old = ForeAct.from_pretrained("someone/tiny", revision=first)
    assert not torch.equal(next(old.parameters()), next(policy.parameters()))


def test_a_second_pull_fetches_no_file_and_works_without_a_network(
    hub: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(folder, NAME)
    first = pull(NAME)
    hub.calls.clear()
    assert pull(NAME) == first
    assert not [call for call in hub.calls if call.startswith("GET") and "/resolve/" in call]
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody is there
    assert pull(NAME) == first
    with pytest.raises(HubError, match="cannot be reached.*check the network"):
        pull(HubName("someone/else"))


def test_a_new_push_deletes_what_the_checkpoint_no_longer_has(hub: Any, folder: Path) -> None:
    hub.add("someone/tiny", {"text/vocab.json": b"{}", "notes.txt": b"mine", ".gitattributes": b""})
    push(folder, NAME)
    there = set(hub.at("someone/tiny", "main")[1])
    assert "text/vocab.json" not in there and "notes.txt" in there


def _uploaded(folder: Path, change: Callable[[dict[str, bytes], dict[str, Any]], None]) -> dict[str, bytes]:
    files = files_of(folder)
    manifest = json.loads(files["manifest.json"])
    change(files, manifest)
    return {**files, "manifest.json": json.dumps(manifest).encode()}


def _extra(files: dict[str, bytes], manifest: dict[str, Any], name: str) -> None:
    files[name] = b"print('hello')"
    manifest["files"][name] = {"bytes": 14, "sha256": "0" * 64}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f, m: _extra(f, m, "modeling.py"), "'modeling.py', which no checkpoint to act with has"),
        (lambda f, m: _extra(f, m, "text/../../evil.json"), "which no checkpoint to act with has"),
        (lambda f, m: _extra(f, m, "training/state.json"), "this is a training checkpoint"),
        (lambda f, m: m["files"].pop("contract.yaml"), "lacks contract.yaml"),
        (lambda f, m: f.pop("statistics.json"), "names statistics.json, which is not there"),
        (lambda f, m: f.update({"config.json": b"{}"}), "config.json has 2 bytes there, its manifest says"),
        (lambda f, m: m.pop("files"), "cannot be read"),
        (lambda f, m: m["files"]["config.json"].update(bytes="many"), "cannot be read"),
    ],
)
def test_what_is_no_checkpoint_is_refused_before_it_is_fetched(
    hub: Any, folder: Path, change: Callable[[dict[str, bytes], dict[str, Any]], None], message: str
) -> None:
    hub.add("someone/tiny", _uploaded(folder, change))
    with pytest.raises(HubError, match=message):
        pull(NAME)
    fetched = {call.rsplit("/", 1)[-1] for call in hub.calls if "/resolve/" in call and call.startswith("GET")}
    assert fetched == {"manifest.json"}


def test_sizes_have_limits(hub: Any, folder: Path) -> None:
    files = files_of(folder)
    hub.add("someone/tiny", files)
    with pytest.raises(HubError, match="the whole checkpoint has .* bytes, at most 1,000 are fetched"):
        pull(NAME, max_bytes=1000)
    hub.add("someone/tiny", _uploaded(folder, lambda f, m: m["files"]["config.json"].update(bytes=2**40)))
    hub.claimed_sizes["config.json"] = 2**40
    with pytest.raises(HubError, match="config.json has 1,099,511,627,776 bytes, at most 33,554,432"):
        pull(NAME)
    hub.claimed_sizes["manifest.json"] = 2**30
    with pytest.raises(HubError, match=r"manifest.json has 1,073,741,824 bytes"):
        pull(NAME)


def test_a_changed_byte_is_found(hub: Any, folder: Path) -> None:
    files = files_of(folder)
    weights = bytearray(files["model.safetensors"])
    weights[-5] ^= 1
    hub.add("someone/tiny", {**files, "model.safetensors": bytes(weights)})
    with pytest.raises(DamagedFolder, match="SHA-256 differs"):
        pull(NAME)


def test_a_file_that_others_put_into_the_cache_is_not_read(hub: Any, folder: Path) -> None:
    push(folder, NAME)
    fetched = pull(NAME)
    (fetched / "text").mkdir()
    (fetched / "text/tokenizer.json").write_text("{}")
    with pytest.raises(HubError, match=r"holds text/tokenizer.json, which .* does not name"):
        pull(NAME)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf://someone/nothing", "no such model, or it is private"),
        ("hf://someone/tiny@v9", "no such revision"),
        ("hf://someone/other", "has no manifest.json: not a checkpoint of ForeAct"),
    ],
)
def test_what_is_not_there_is_said(hub: Any, folder: Path, name: str, message: str) -> None:
    hub.add("someone/other", {"pytorch_model.bin": b""})
    hub.add("someone/tiny", files_of(folder))
    with pytest.raises(HubError, match=message):
        load_policy(name)


def test_a_folder_that_is_not_there_says_both(hub: Any) -> None:
    with pytest.raises(HubError, match="(?s)no such model.*there is no folder runs/policy here"):
        ForeAct.from_pretrained("runs/policy")


def test_sending_needs_an_account_and_a_whole_checkpoint(
    hub: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    with pytest.raises(HubError, match="refuses .status 401.: log in"):
        push(folder, NAME)
    monkeypatch.setenv("HF_TOKEN", server.TOKEN)
    (folder / "config.json").write_bytes(b"{}")
    hub.calls.clear()
    with pytest.raises(DamagedFolder, match=r"config\.json has 2 bytes"):
        push(folder, NAME)
    assert not hub.calls


def test_a_training_checkpoint_is_not_sent(hub: Any, folder: Path) -> None:
    files = {name: content for name, content in files_of(folder).items() if name != "manifest.json"}
    write_folder(folder, {**files, "training/state.json": b"{}"})
    with pytest.raises(HubError, match="this is a training checkpoint: take RUN/policy"):
        push(folder, NAME)
    assert not hub.calls


def test_the_commands_push_and_pull(hub: Any, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, ["hub", "push", str(folder), "someone/tiny"]) == 0
    assert capsys.readouterr().out.startswith(f"{hub.address}/someone/tiny/commit/")
    assert run(app, ["hub", "pull", "hf://someone/tiny", "--out", str(tmp_path / "copy")]) == 0
    assert files_of(tmp_path / "copy") == files_of(folder)
    assert not any(path.is_symlink() for path in (tmp_path / "copy").rglob("*"))
    assert run(app, ["hub", "pull", "someone/tiny", "--out", str(tmp_path / "copy")]) == 2
    assert "exists already" in capsys.readouterr().err
    assert run(app, ["hub", "pull", "someone/nothing"]) == 1
    assert capsys.readouterr().err.startswith("error: hf://someone/nothing: there is no such model")
    words = ["preflight", "hf://someone/tiny", "--contract", str(folder / "contract.yaml"), "--json"]
    assert run(app, words) == 0
    assert json.loads(capsys.readouterr().out)["fits"] is True


def test_the_card_is_a_file_like_others(folder: Path) -> None:
    assert {"README.md", "provenance.json"} <= set(verify_folder(folder))
    (folder / "README.md").write_text("# mine")
    with pytest.raises(DamagedFolder, match=r"README\.md has 6 bytes"):
        load_policy(folder)


def test_every_file_of_a_policy_with_the_packaged_text_tower_may_be_fetched() -> None:
    names = build_text("distilled", width=0, depth=0, heads=0).files()
    assert names and all(_ALLOWED.fullmatch(f"text/{name}") for name in names)
    assert not _ALLOWED.fullmatch("text/other.safetensors")
    assert not _ALLOWED.fullmatch("text/../text_distilled.safetensors")
