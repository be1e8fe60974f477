"""Files of strangers become checkpoints, or are refused with every reason at once; nothing in them is executed."""

import csv
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from foreact.policies.gr1 import published_import
from foreact.policies.gr1.published import PublishedGR1
from foreact.policies.gr1.published_config import PublishedGR1Config
from foreact.policies.gr1.published_import import ForeignFileError, calvin_contract, convert_checkpoint, read_foreign
from foreact.policies.gr1.published_kinds import WrongWeights, check, config_of, recognise
from foreact.vla.checkpoint import load_policy
from foreact.vla.errors import ConfigError

KEYS = Path(__file__).parent / "golden_gr1/keys.tsv"
BASE = PublishedGR1Config(
    history=4, width=32, layers=2, heads=4, vision_width=16, vision_layers=1, vision_heads=2, text_width=12,
    resampler_depth=1, resampler_heads=2, resampler_head_width=8, resampler_latents=2, decoder_layers=1,
    decoder_heads=4,
)  # fmt: skip


def table(family: str) -> dict[str, Tensor]:
    """Tensors without memory of the full-size file of that family, as its authors' code makes them."""
    rows = list(csv.reader(KEYS.read_text().splitlines()[3:], delimiter="\t"))
    found = {}
    for name, key, shape, kind in rows:
        if name == family:
            sizes = () if shape == "scalar" else tuple(map(int, shape.split("x")))
            dtype = torch.uint8 if kind == "buffer" and sizes else torch.float32
            found[key] = torch.zeros((), dtype=dtype).expand(sizes)
    return found


@pytest.fixture(scope="module")
def full() -> dict[str, Tensor]:
    """What the full-size network expects."""
    with torch.device("meta"):
        policy = PublishedGR1(PublishedGR1Config(towers="random"), calvin_contract(), {})
    return {n: torch.zeros(()).expand(t.shape) for n, t in policy.state_dict().items() if not n.startswith("text.")}


def without_clip(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in weights.items() if not name.startswith("model_clip.")}


# --- the full key table ----------------------------------------------------------------------------------------------


def test_the_released_file_fits_key_by_key(full: dict[str, Tensor]) -> None:
    family = recognise(without_clip(table("gr1")), "snapshot_ABC.pt")
    assert family.kind == "gr1" and len(table("gr1")) == 722
    taken, ignored = check(family, full, "snapshot_ABC.pt")
    assert taken.keys() == full.keys()
    assert len(ignored) == 24 and all(name.endswith((".attn.bias", ".attn.masked_bias")) for name in ignored)
    bare = {name: tensor for name, tensor in table("gr1").items() if not name.startswith("model_")}
    taken, _ = check(recognise(bare, "x"), {n: t for n, t in full.items() if not n.startswith("model_")}, "x")
    assert sum(t.numel() for n, t in taken.items() if n != "decoder_pos_embed") == 45_988_039


def test_gr1_training_brings_its_chunk_and_position_table(full: dict[str, Tensor]) -> None:
    extra = table("gr1_training")
    assert set(extra) == {"action_chunk_queries.weight", "transformer.wpe.weight"}
    family = recognise(without_clip(table("gr1")) | extra, "x.pt")
    config = config_of(family, PublishedGR1Config())
    assert family.kind == "gr1_training" and config.chunk == 10 and config.chunk_queries and config.positions == 1024
    taken, _ = check(family, full | extra, "x.pt")
    assert set(extra) <= set(taken)


def test_grmgs_video_network_loses_its_prefix_and_its_goal(full: dict[str, Tensor]) -> None:
    weights = table("grmg_video")
    weights |= {f"model.{n}": t for n, t in table("gr1").items() if n.startswith("model_mae.")}
    clip = {
        n.replace("model_clip.", "model.text_encoder."): t for n, t in table("gr1").items() if n[:11] == "model_clip."
    }
    family = recognise(weights | clip, "pretrained.pt")
    assert family.kind == "grmg_video"
    assert sum(name.startswith("model_clip.") for name in family.weights) == 302
    contract = calvin_contract()
    contract = contract.model_copy(update={"cameras": contract.cameras[:1], "state": (), "action": ()})
    with torch.device("meta"):
        policy = PublishedGR1(PublishedGR1Config(towers="random"), contract, {})
    expected = {name: full[name] for name in policy.state_dict() if not name.startswith("text.")}
    taken, ignored = check(recognise(weights, "pretrained.pt"), expected, "pretrained.pt")
    assert set(expected) - set(taken) == {"transformer.wte.weight"}
    assert sorted(ignored) == [
        f"embed_goal_{part}.{kind}" for part in ("image", "patch") for kind in ("bias", "weight")
    ]


def test_every_fault_is_named_at_once(full: dict[str, Tensor]) -> None:
    weights = without_clip(table("gr1"))
    del weights["pred_arm_act.bias"], weights["transformer.h.7.mlp.c_fc.weight"]
    weights["embed_lang.weight"] = torch.zeros(384, 768)
    weights["pred_act_mlps.2.weight"] = torch.zeros(192, 192)
    weights["embed_ln.weight"] = torch.full((384,), float("nan"))
    weights["embed_ln.bias"] = torch.zeros(384, dtype=torch.int64)
    with pytest.raises(WrongWeights) as caught:
        check(recognise(weights, "odd.pt"), full, "odd.pt")
    lines = str(caught.value).splitlines()
    assert lines[0] == "odd.pt, read as GR-1 (bytedance/GR-1), does not fit in 6 places:"
    assert lines[1:] == [
        "  - lacks transformer.h.7.mlp.c_fc.weight",
        "  - lacks pred_arm_act.bias",
        "  - has unknown pred_act_mlps.2.weight (192, 192)",
        "  - embed_lang.weight has shape (384, 768), expected (384, 512)",
        "  - embed_ln.weight holds 384 numbers that are not finite",
        "  - embed_ln.bias holds torch.int64, expected floating-point numbers",
    ]


def test_relatives_that_cannot_be_converted_are_named() -> None:
    with pytest.raises(WrongWeights, match="a policy of GR-MG, whose action head"):
        recognise(
            {"model.pred_style_vector.weight": torch.zeros(1), "model.transformer.ln_f.bias": torch.zeros(1)}, "x"
        )
    with pytest.raises(WrongWeights, match=r"x is none of GR-1 .* its 1 tensors begin with fc.weight"):
        recognise({"fc.weight": torch.zeros(1)}, "x")


# --- whole conversions, of small networks ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small CLIP with random weights and a vocabulary of letters, as transformers keeps it."""
    import transformers as hf

    folder = tmp_path_factory.mktemp("towers") / "clip"
    letters = [*"abcdefghijklmnopqrstuvwxyz", *(f"{c}</w>" for c in "abcdefghijklmnopqrstuvwxyz")]
    vocab = {word: i for i, word in enumerate([*letters, "<|startoftext|>", "<|endoftext|>"])}
    torch.manual_seed(0)
    sizes = hf.CLIPTextConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, vocab_size=len(vocab),
        projection_dim=12, max_position_embeddings=77, bos_token_id=52, eos_token_id=53,
    )  # fmt: skip
    hf.CLIPTextModelWithProjection(sizes).save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    hf.CLIPTokenizer.from_pretrained(folder).save_pretrained(folder)
    return folder


def original_clip(seed: int) -> dict[str, Tensor]:
    """The same sizes with other weights, by OpenAI's names, in half precision as on a GPU."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "positional_embedding": (77, 16), "text_projection": (16, 12), "token_embedding.weight": (54, 16),
        "ln_final.weight": (16,), "ln_final.bias": (16,),
    }  # fmt: skip
    layer = {
        "attn.in_proj_weight": (48, 16), "attn.in_proj_bias": (48,), "attn.out_proj.weight": (16, 16),
        "attn.out_proj.bias": (16,), "ln_1.weight": (16,), "ln_1.bias": (16,), "ln_2.weight": (16,),
        "ln_2.bias": (16,), "mlp.c_fc.weight": (64, 16), "mlp.c_fc.bias": (64,), "mlp.c_proj.weight": (16, 64),
        "mlp.c_proj.bias": (16,),
    }  # fmt: skip
    shapes |= {f"transformer.resblocks.0.{name}": shape for name, shape in layer.items()}
    weights = {name: torch.randn(shape, generator=generator).half() for name, shape in shapes.items()}
    return {**weights, "logit_scale": torch.tensor(4.6), "visual.proj": torch.zeros(2, 2)}


def network(video: bool = False, **changes: Any) -> dict[str, Tensor]:
    """State dict of a small network with random weights by the authors' names, MAE included."""
    import dataclasses

    contract = calvin_contract()
    if video:
        contract = contract.model_copy(update={"cameras": contract.cameras[:1], "state": (), "action": ()})
    torch.manual_seed(1)
    policy = PublishedGR1(dataclasses.replace(BASE, towers="random", **changes), contract, {})
    weights = {name: t.clone() for name, t in policy.state_dict().items() if not name.startswith("text.")}
    return {name: torch.randn_like(t) if t.abs().sum() == 0 else t for name, t in weights.items()}


def split_mae(weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The rest, and MAE's file."""
    mae = {name.removeprefix("model_mae."): t for name, t in weights.items() if name.startswith("model_mae.")}
    return {name: t for name, t in weights.items() if not name.startswith("model_mae.")}, mae


def save(path: Path, payload: object) -> Path:
    torch.save(payload, path)
    return path


@pytest.fixture
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read files in this process: a confined one takes seconds to start, and other tests watch it."""

    def read(source: Path, *_: object) -> dict[str, Tensor]:
        payload = torch.load(source, weights_only=True)
        return payload.get("state_dict") or payload["model"]

    monkeypatch.setattr(published_import, "read_foreign", read)


def test_a_released_file_with_towers_beside_it(tmp_path: Path, clip: Path) -> None:
    weights = network()
    rest, mae = split_mae(weights)
    rest["transformer.h.0.attn.bias"] = torch.ones(1, 1, 64, 64, dtype=torch.uint8)
    rest["transformer.h.0.attn.masked_bias"] = torch.tensor(-1e4)
    del rest["transformer.wte.weight"]
    source = save(tmp_path / "snapshot_ABC.pt", {"state_dict": rest, "epoch": 20})
    mae_file = save(tmp_path / "mae.pth", {"model": mae})
    done = convert_checkpoint(source, tmp_path / "out", clip=clip, mae=mae_file, base=BASE)
    assert done.title == "GR-1 (bytedance/GR-1)" and len(done.ignored) == 2 and len(done.sha256) == 64
    policy = load_policy(tmp_path / "out")
    own = policy.state_dict()
    for name, tensor in weights.items():
        expected = torch.zeros_like(tensor) if name == "transformer.wte.weight" else tensor
        assert torch.equal(own[name], expected), name
    assert policy.encode_text(["open the drawer"]).shape == (1, 32)
    card = (tmp_path / "out/README.md").read_text()
    assert "CC BY-NC 4.0" in card and done.sha256 in card and "snapshot_ABC.pt" in card
    assert not list(tmp_path.glob(".foreign-*"))

    # A second file takes its towers from the first checkpoint.
    again = convert_checkpoint(source, tmp_path / "again", towers=tmp_path / "out", base=BASE)
    assert again.taken == done.taken
    for name, tensor in load_policy(tmp_path / "again").state_dict().items():
        assert torch.equal(tensor, own[name]), name
    with pytest.raises(ConfigError, match="exists already"):
        convert_checkpoint(source, tmp_path / "out", towers=tmp_path / "again", base=BASE)


def test_a_file_with_its_own_towers_uses_them(tmp_path: Path, clip: Path) -> None:
    """CLIP in half precision, as saved on a GPU; the folder gives the tokenizer only."""
    other = original_clip(seed=5)
    source = save(tmp_path / "a.pt", {"state_dict": network() | {f"model_clip.{n}": t for n, t in other.items()}})
    done = convert_checkpoint(source, tmp_path / "out", clip=clip, base=BASE)
    assert done.towers == ["text (CLIP): the file itself", "pictures (MAE): the file itself"]
    own = load_policy(tmp_path / "out").state_dict()
    assert torch.equal(own["text.model.text_projection.weight"], other["text_projection"].float().T)
    qkv = other["transformer.resblocks.0.attn.in_proj_weight"].float()
    assert torch.equal(own["text.model.text_model.encoder.layers.0.self_attn.k_proj.weight"], qkv[16:32])


@pytest.mark.usefixtures("trusted")
def test_chunks_and_positions_come_out_of_gr1_trainings_file(tmp_path: Path, clip: Path) -> None:
    weights = network(chunk=3, chunk_queries=True, positions=80)
    done = convert_checkpoint(
        save(tmp_path / "chunk.pt", {"state_dict": weights}), tmp_path / "out", clip=clip, base=BASE
    )
    policy = load_policy(tmp_path / "out")
    assert done.title.startswith("GR-1 by GR1-Training")
    assert (policy.config.chunk, policy.config.positions, policy.config.execute_steps) == (3, 80, 1)
    assert torch.equal(policy.state_dict()["transformer.wpe.weight"], weights["transformer.wpe.weight"])


@pytest.mark.usefixtures("trusted")
def test_grmgs_video_network_becomes_a_start_for_training(tmp_path: Path, clip: Path) -> None:
    from foreact.vla.training.init_from import init_from

    weights = network(video=True)
    del weights["transformer.wte.weight"]
    weights["embed_goal_image.weight"] = torch.zeros(32, 16)
    source = save(tmp_path / "pretrained.pt", {"state_dict": {f"model.{n}": t for n, t in weights.items()}})
    done = convert_checkpoint(source, tmp_path / "out", clip=clip, base=BASE)
    assert done.ignored == ["embed_goal_image.weight"]
    policy = load_policy(tmp_path / "out")
    assert not policy.contract.action and [camera.name for camera in policy.contract.cameras] == ["rgb_static"]
    import dataclasses

    towers = dataclasses.replace(BASE, towers=str(tmp_path / "out"))
    fresh = PublishedGR1(towers, calvin_contract(), {})
    taken = init_from(fresh, tmp_path / "out")
    assert "transformer.h.1.mlp.c_proj.weight" in taken.taken and not taken.unused
    assert {name.split(".")[0] for name in taken.fresh} == {
        "embed_hand_img", "embed_hand_patch", "obs_hand_queries", "embed_arm_state", "embed_gripper_state",
        "embed_state", "action_queries", "pred_act_mlps", "pred_arm_act", "pred_gripper_act",
    }  # fmt: skip


@pytest.mark.usefixtures("trusted")
def test_maes_file_alone_makes_a_checkpoint_of_towers(tmp_path: Path, clip: Path) -> None:
    _, mae = split_mae(network())
    done = convert_checkpoint(save(tmp_path / "mae.pth", {"model": mae}), tmp_path / "out", clip=clip, base=BASE)
    assert done.title.startswith("MAE")
    own = load_policy(tmp_path / "out").state_dict()
    assert all(torch.equal(own[f"model_mae.{name}"], tensor) for name, tensor in mae.items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"openai/clip-vit-base-patch32 \(MIT licence\) into a folder and name it with --clip FOLDER"),
        ({"clip": True}, r"lacks MAE's picture encoder: .* CC BY-NC 4.0, not for commercial use\) .* --mae FILE"),
        ({"clip": True, "mae": "rest"}, r"--mae .* is GR-1 \(bytedance/GR-1\), expected MAE's encoder"),
    ],
)
@pytest.mark.usefixtures("trusted")
def test_a_missing_tower_is_asked_for(tmp_path: Path, clip: Path, options: dict[str, Any], message: str) -> None:
    rest, _ = split_mae(network())
    source = save(tmp_path / "a.pt", {"state_dict": rest})
    with pytest.raises((ConfigError, WrongWeights), match=message):
        convert_checkpoint(
            source, tmp_path / "out", clip=clip if "clip" in options else None,
            mae=source if "mae" in options else None, base=BASE,
        )  # fmt: skip
    assert not (tmp_path / "out").exists()


# --- damage and malice -----------------------------------------------------------------------------------------------


class _Bomb:
    """Runs a command when it is unpickled by something that trusts it."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


def _zip(path: Path, pickled: bytes, *, compressed: bool = False) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/data/0", bytes(1 << 20 if compressed else 16))
    return path


def _bomb_in_zip(folder: Path) -> Path:
    return _zip(folder / "a.pt", pickle.dumps({"state_dict": _Bomb(folder / "executed")}, protocol=2))


def _bare_bomb(folder: Path) -> Path:
    (folder / "a.pt").write_bytes(pickle.dumps(_Bomb(folder / "executed"), protocol=2))
    return folder / "a.pt"


def _objects(folder: Path) -> Path:
    import argparse

    return save(folder / "a.pt", {"state_dict": {"a": torch.zeros(2)}, "hyper": argparse.Namespace(lr=1.0)})


def _truncated(folder: Path) -> Path:
    path = save(folder / "a.pt", {"state_dict": {"a": torch.zeros(1000)}})
    path.write_bytes(path.read_bytes()[:-700])
    return path


def _compressed(folder: Path) -> Path:
    return _zip(folder / "a.pt", pickle.dumps({}), compressed=True)


def _claims(folder: Path) -> Path:
    """The directory of the archive says that a member has four gigabytes."""
    path = save(folder / "a.pt", {"state_dict": {"a": torch.zeros(1000)}})
    content = bytearray(path.read_bytes())
    at = content.index(b"PK\x01\x02", content.index(b"PK\x01\x02") + 4)
    content[at + 20 : at + 28] = struct.pack("<II", 0xF0000000, 0xF0000000)
    path.write_bytes(content)
    return path


def _views(folder: Path) -> Path:
    """A terabyte as a view of one number."""
    return save(folder / "a.pt", {"state_dict": {"a": torch.zeros(1).expand(1 << 19, 1 << 19)}})


def _nothing_there(folder: Path) -> Path:
    """Sixty gigabytes on the "meta" device, which take no memory anywhere."""
    return save(folder / "a.pt", {"state_dict": {"a": torch.empty(1 << 34, device="meta")}})


def _list(folder: Path) -> Path:
    return save(folder / "a.pt", [torch.zeros(3)])


def _text(folder: Path) -> Path:
    (folder / "a.pt").write_text("<html>404</html>")
    return folder / "a.pt"


def _folder(folder: Path) -> Path:
    return folder


def _missing(folder: Path) -> Path:
    return folder / "nothing.pt"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_bomb_in_zip, r"holds Python objects \((posix|nt).system\), not only tensors; nothing of it was executed"),
        (_bare_bomb, "holds Python objects"),
        (_objects, r"holds Python objects \(argparse.Namespace\)"),
        (_truncated, "was cut off or is damaged"),
        (_compressed, "is compressed, which PyTorch never does"),
        (_claims, "members claim .* bytes, the file has|its archive is damaged"),
        (_views, "its tensors claim 1,099,511,627,776 bytes"),
        (_nothing_there, "its tensors claim 68,719,476,736 bytes"),
        (_list, "it holds a list, expected named tensors"),
        (_text, "cannot read it as plain tensors"),
        (_folder, "is a folder; expected a .pt file"),
        (_missing, "is not there; expected a .pt file"),
    ],
)
def test_damaged_and_hostile_files_are_refused(tmp_path: Path, make: Callable[[Path], Path], message: str) -> None:
    with pytest.raises(ForeignFileError, match=message):
        read_foreign(make(tmp_path), tmp_path / "stage")
    assert not (tmp_path / "executed").exists()
    assert not list((tmp_path / "stage").iterdir() if (tmp_path / "stage").exists() else [])


def test_the_bomb_would_go_off_elsewhere(tmp_path: Path) -> None:
    """The file of the test above is live: a reader that trusts it does run its command."""
    path = _bare_bomb(tmp_path)
    with path.open("rb") as file:
        pickle.load(file)  # noqa: S301
    assert (tmp_path / "executed").exists()


def test_the_reader_can_neither_reach_out_nor_write_elsewhere(tmp_path: Path) -> None:
    """The confinement itself, in a process of its own: each attempt is refused, and memory is bounded."""
    import subprocess
    import sys

    script = f"""
import os, sys, runpy
module = runpy.run_path({published_import.published_unpack.__file__!r})
module["leave_the_network"]()
module["confine"](1 << 20, {str(tmp_path / "allowed")!r})
def refused(action):
    try:
        action()
    except (module["Refused"], MemoryError, OSError) as error:
        return type(error).__name__
    return "done"
def connect():
    import socket
    socket.create_connection(("127.0.0.1", 9), timeout=1)
print(refused(connect), refused(lambda: os.system("true")), refused(lambda: open({str(tmp_path / "x")!r}, "w")),
      refused(lambda: bytearray(8 << 30)), refused(lambda: open({str(tmp_path / "allowed/y")!r}, "w")))
"""
    (tmp_path / "allowed").mkdir()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["Refused", "Refused", "Refused", "MemoryError", "done"]


def test_reading_is_stopped_after_its_time(tmp_path: Path) -> None:
    path = save(tmp_path / "a.pt", {"state_dict": {"a": torch.zeros(2)}})
    with pytest.raises(ForeignFileError, match="took longer than 0.01 s and was stopped"):
        read_foreign(path, tmp_path, timeout_s=0.01)
