"""The frozen tower that ships: its pieces, its arithmetic, what it understands, and the way into a checkpoint."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save

from foreact.policies.gr1.foreact import ForeAct
from foreact.policies.gr1.foreact_config import ForeActConfig
from foreact.sim.language import TRAINING, UNSEEN, VALIDATION, normalise
from foreact.vla.checkpoint import load_policy
from foreact.vla.contract import Camera, Contract
from foreact.vla.errors import ConfigError
from foreact.vla.text import build_text, text_from_files
from foreact.vla.text_distilled import ASSET, DistilledText, split_words

ASSET_SHA256 = "2bf554b0e0de6eab8d21ea66d9f79a35ec93fbf341c59b9d350550ac11478fe8"
AWKWARD = [
    "", "   ", "Öffne die Schublade!", "don't push it, please...", "naïve café", "打开 抽屉", "led on/off?", "a\tb\nc",
    "pneumonoultramicroscopicsilicovolcanoconiosis", "x" * 101, "$5 + 3 <= 9", "🤖 lift", "rightwards", "ANTICLOCKWISE",
    "zero\u200bwidth", "e\u0301clair", "l’œuf", "٣ blocks", "re-open; half_shut", "the [SEP] of things", "ﬁve",
]  # fmt: skip
SAID = {
    "rotate_red_block_right": "swing the ruby brick around the way a clock runs",
    "rotate_red_block_left": "revolve the scarlet brick counterclockwise",
    "rotate_blue_block_right": "twirl the navy brick clockwise",
    "rotate_blue_block_left": "whirl the azure cube anticlockwise",
    "rotate_pink_block_right": "swivel the magenta cube clockwise for me",
    "rotate_pink_block_left": "pivot the fuchsia brick anticlockwise",
    "push_red_block_right": "scoot the ruby brick rightwards",
    "push_red_block_left": "nudge the vermilion cube over to the left",
    "push_blue_block_right": "propel the cobalt cube to the right",
    "push_blue_block_left": "budge the sapphire brick to the left",
    "push_pink_block_right": "thrust the fuchsia brick to the right",
    "push_pink_block_left": "prod the magenta cube leftwards",
    "move_slider_left": "glide the wooden panel over to the left",
    "move_slider_right": "haul the sliding panel over to the right",
    "open_drawer": "yank the tray open",
    "close_drawer": "slam the tray shut",
    "lift_red_block_table": "hoist the crimson brick",
    "lift_red_block_slider": "retrieve the ruby brick out of the closet",
    "lift_red_block_drawer": "extract the scarlet brick from the tray",
    "lift_blue_block_table": "elevate the azure cube",
    "lift_blue_block_slider": "withdraw the navy cube from the closet",
    "lift_blue_block_drawer": "recover the sapphire brick from the tray",
    "lift_pink_block_table": "seize the magenta brick and hoist it",
    "lift_pink_block_slider": "pluck the fuchsia cube out of the closet",
    "lift_pink_block_drawer": "snatch the magenta cube out of the tray",
    "place_in_slider": "stash the brick inside the closet",
    "place_in_drawer": "stow the brick you carry in the tray",
    "stack_block": "balance the brick atop another one",
    "unstack_block": "dismantle the pile of bricks",
    "turn_on_lightbulb": "illuminate the incandescent bulb",
    "turn_off_lightbulb": "quench the incandescent bulb",
    "turn_on_led": "energise the diode",
    "turn_off_led": "deactivate the diode",
    "push_into_drawer": "sweep the brick over the edge so that it tumbles into the tray",
}
"""One sentence of each task that no table has, each with a word that no training sentence has; the thesaurus of
scripts/distil_words.txt has most of those words."""
FURTHER = {
    "grasp the maroon cube": "lift_red_block_table",
    "lift the burgundy block from the drawer": "lift_red_block_drawer",
    "pick the cyan block up": "lift_blue_block_table",
    "rummage in the drawer and get the blue block": "lift_blue_block_drawer",
    "jostle the pink block to the left": "push_pink_block_left",
    "pirouette the red block clockwise": "rotate_red_block_right",
    "gyrate the blue cube to the left": "rotate_blue_block_left",
    "drawer should be unsealed": "open_drawer",
    "cram the block in the cupboard": "place_in_slider",
    "plunk the block into the drawer": "place_in_drawer",
    "superimpose the block on the other": "stack_block",
    "raze the tower of blocks": "unstack_block",
    "make the light bulb gleam": "turn_on_lightbulb",
    "snuff the light bulb": "turn_off_lightbulb",
    "jab the button so that the led is radiant": "turn_on_led",
    "thwack the sliding door leftwards": "move_slider_left",
}
"""Sentences with a word that the thesaurus does not have either: what MiniLM's table alone has to tell."""
MEANING = slice(128, None)
"""The half of a frozen vector that the blocks make."""


@cache
def tower() -> DistilledText:
    return DistilledText(ASSET.read_bytes())


@cache
def training_rows() -> tuple[torch.Tensor, torch.Tensor]:
    rows = [(sentence, number) for number, task in enumerate(TRAINING) for sentence in TRAINING[task]]
    return tower().frozen([sentence for sentence, _ in rows]), torch.tensor([number for _, number in rows])


@cache
def linear_probe() -> torch.nn.Linear:
    """A linear classifier of tasks that saw the training sentences alone; convex, so it has one solution."""
    X_ND, y_N = training_rows()
    torch.manual_seed(0)
    probe = torch.nn.Linear(X_ND.shape[1], len(TRAINING))
    optimiser = torch.optim.LBFGS(probe.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(probe(X_ND), y_N) + 1e-2 * probe.weight.square().sum()
        loss.backward()
        return loss.item()

    optimiser.step(closure)
    return probe.requires_grad_(False)


def test_the_asset_is_the_one_that_was_measured_and_is_small() -> None:
    content = ASSET.read_bytes()
    assert hashlib.sha256(content).hexdigest() == ASSET_SHA256
    assert len(content) <= 6_000_000


def test_pieces_are_those_of_the_tokenizers_library() -> None:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    pieces = tower().encoder.pieces
    theirs = Tokenizer(models.WordPiece(pieces.numbers, unk_token="[UNK]", max_input_chars_per_word=100))
    theirs.normalizer = normalizers.BertNormalizer(lowercase=True)
    theirs.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    sentences = [*AWKWARD, *SAID.values(), *VALIDATION.values(), *(s for many in UNSEEN.values() for s in many)]
    assert len(sentences) > 1700
    for sentence in sentences:
        assert pieces(sentence) == (theirs.encode(sentence).ids or [pieces.unknown]), sentence


def test_words_without_accents_and_case() -> None:
    assert split_words("Don't  Öffne—CAFÉ!") == ["don", "'", "t", "offne", "—", "cafe", "!"]


def slow_vector(sentence: str) -> torch.Tensor:
    """The frozen vector of one sentence in float64, straight from the asset, one attention head at a time."""
    t = {name: value.double() for name, value in load(ASSET.read_bytes()).items() if name != "vocabulary"}
    ids = tower().encoder.pieces(sentence)
    pieces = torch.stack([t["table"][i] * t["table_scale"][i] for i in ids])

    def affine(name: str, x: torch.Tensor) -> torch.Tensor:
        return x @ t[f"blocks.{name}.weight"].T + t[f"blocks.{name}.bias"]

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        centred = x - x.mean(dim=1, keepdim=True)
        spread = (centred.square().mean(dim=1, keepdim=True) + 1e-5).sqrt()
        return centred / spread * t[f"blocks.{name}.weight"] + t[f"blocks.{name}.bias"]

    x = affine("embed", pieces) + t["blocks.positions_SW"][: len(ids)]
    W = x.shape[1]
    for number in range(2):
        at = f"blocks.{number}"
        h = norm(f"{at}.norm_attention", x)
        q, (k, v) = affine(f"{at}.attention.to_q", h), affine(f"{at}.attention.to_kv", h).split(W, dim=1)
        heads = []
        for cut in range(0, W, W // 4):
            scores = q[:, cut : cut + W // 4] @ k[:, cut : cut + W // 4].T / (W // 4) ** 0.5
            heads.append(torch.exp(scores) / torch.exp(scores).sum(dim=1, keepdim=True) @ v[:, cut : cut + W // 4])
        x = x + affine(f"{at}.attention.out", torch.cat(heads, dim=1))
        h = affine(f"{at}.mlp.0", norm(f"{at}.norm_mlp", x))
        x = x + affine(f"{at}.mlp.2", h * 0.5 * (1 + torch.erf(h / 2**0.5)))
    both = torch.cat([pieces.mean(dim=0), norm("norm", x).mean(dim=0)])
    return (both - t["middle"]) / t["spread"]


@pytest.mark.parametrize("sentence", ["", "seize it", *list(SAID.values())[:3], "öffne die schublade 打开"])
def test_vectors_equal_a_slow_reference(sentence: str) -> None:
    torch.testing.assert_close(tower().frozen([sentence])[0].double(), slow_vector(sentence), rtol=1e-4, atol=1e-4)


def test_a_batch_padded_to_its_longest_gives_the_same_vectors() -> None:
    sentences = ["open", *SAID.values(), "word " * 200]
    torch.testing.assert_close(tower().encoder(sentences), tower().frozen(sentences), rtol=1e-4, atol=1e-4)


def test_any_sentence_has_a_finite_vector() -> None:
    vectors = tower()(AWKWARD)
    assert vectors.shape == (len(AWKWARD), tower().width)
    assert torch.isfinite(vectors).all()


def test_hand_written_sentences_are_new_and_so_is_a_word_of_each() -> None:
    tables = [VALIDATION.values(), *TRAINING.values(), *UNSEEN.values()]
    known = {normalise(sentence) for sentences in tables for sentence in sentences}
    words = {word for sentences in TRAINING.values() for said in sentences for word in normalise(said).split()}
    assert set(SAID) == set(TRAINING)
    for sentence in SAID.values():
        assert normalise(sentence) not in known
        assert set(normalise(sentence).split()) - words, sentence


def test_further_words_are_in_no_table_and_not_in_the_thesaurus() -> None:
    words = {word for sentences in TRAINING.values() for said in sentences for word in normalise(said).split()}
    thesaurus = Path(__file__).parents[2] / "scripts" / "distil_words.txt"
    words |= set(normalise(thesaurus.read_text()).split())
    unseen = {normalise(sentence) for sentences in UNSEEN.values() for sentence in sentences}
    for sentence in FURTHER:
        assert normalise(sentence) not in unseen
        assert set(normalise(sentence).split()) - words, sentence


@pytest.mark.parametrize(("asked", "allowed"), [(SAID, 3), ({task: said for said, task in FURTHER.items()}, 6)])
def test_unseen_words_lie_near_their_synonyms(asked: dict[str, str], allowed: int) -> None:
    """The task whose training sentences lie nearest on average is the one that is asked for."""
    X_ND, y_N = training_rows()
    X_ND = X_ND[:, MEANING]
    unit = torch.nn.functional.normalize
    centres = torch.stack([X_ND[y_N == number].mean(dim=0) for number in range(len(TRAINING))])
    middle = centres.mean(dim=0)
    near = unit(tower().frozen(list(asked.values()))[:, MEANING] - middle, dim=1) @ unit(centres - middle, dim=1).T
    tasks = list(TRAINING)
    wrong = {said: tasks[best] for (task, said), best in zip(asked.items(), near.argmax(dim=1).tolist(), strict=True)
             if tasks[best] != task}  # fmt: skip
    assert len(wrong) <= allowed, wrong


@pytest.mark.parametrize(
    ("said", "same", "other"),
    [
        ("seize the block", "grab the block", "push the block"),
        ("lift the crimson cube", "lift the red cube", "lift the blue cube"),
        ("lift the azure cube", "lift the blue cube", "lift the pink cube"),
        ("put the block in the closet", "put the block in the cabinet", "put the block in the drawer"),
        ("spin the block anticlockwise", "spin the block left", "spin the block right"),
        ("extinguish the lamp", "turn off the lamp", "turn on the lamp"),
        ("hoist the brick", "lift the brick", "rotate the brick"),
    ],
)
def test_a_sentence_is_nearer_to_its_paraphrase_than_to_another_one(said: str, same: str, other: str) -> None:
    a, b, c = tower().frozen([said, same, other])[:, MEANING]
    assert torch.cosine_similarity(a, b, dim=0) > torch.cosine_similarity(a, c, dim=0) + 0.02


def test_a_linear_reader_understands_sentences_that_it_never_saw() -> None:
    tasks = list(TRAINING)
    right = [
        tasks[best] == task
        for task, said in UNSEEN.items()
        for best in linear_probe()(tower().frozen(list(said))).argmax(dim=1).tolist()
    ]
    assert len(right) == 1700
    assert sum(right) / len(right) >= 0.90
    validation = linear_probe()(tower().frozen([VALIDATION[task] for task in tasks])).argmax(dim=1).tolist()
    assert sum(best == number for number, best in enumerate(validation)) >= 33


def test_only_the_adapter_learns_and_only_it_is_saved() -> None:
    text = build_text("distilled", width=24, depth=9, heads=9)
    assert isinstance(text, DistilledText)
    assert text(["open", "shut"]).shape == (2, 24)
    assert set(text.state_dict()) == {"adapter.weight", "adapter.bias"} == {name for name, _ in text.named_parameters()}
    before = text.frozen(["open"]).clone()
    text(["open"]).square().sum().backward()
    assert text.adapter.weight.grad is not None
    text.half().float().train()
    assert not text.encoder.training
    assert torch.equal(text.frozen(["open"]), before)
    assert build_text("distilled", width=0, depth=1, heads=1).width == tower().width


def test_what_was_kept_while_acting_serves_while_learning() -> None:
    text = build_text("distilled", width=8, depth=1, heads=1)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        text(["open the hatch"])
    text(["open the hatch"]).sum().backward()
    assert isinstance(text, DistilledText)
    torch.testing.assert_close(text.frozen(["open the hatch"])[0], tower().encoder(["open the hatch"])[0])


def test_the_tower_comes_back_from_its_files(tmp_path: Path) -> None:
    text = build_text("distilled", width=8, depth=1, heads=1)
    for name, content in text.files().items():
        (tmp_path / name).write_bytes(content)
    again = text_from_files("distilled", tmp_path, width=8)
    assert again is not None
    again.load_state_dict(text.state_dict())
    torch.testing.assert_close(again(["push it"]), text(["push it"]), rtol=0, atol=0)
    assert text_from_files("small", tmp_path, width=8) is None


def test_missing_and_damaged_files_are_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read.*text_distilled"):
        text_from_files("distilled", tmp_path, width=8)
    with pytest.raises(ConfigError, match="no distilled text tower.*fetch the file again"):
        DistilledText(ASSET.read_bytes()[:-100])
    with pytest.raises(ConfigError, match="no distilled text tower"):
        DistilledText(save({"table": torch.zeros(2, 2)}))
    with pytest.raises(ConfigError, match="did you mean 'distilled'"):
        text_from_files("distiled", tmp_path, width=8)


def test_a_checkpoint_needs_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    contract = Contract(
        embodiment="none", rate_hz=10.0, cameras=(Camera(name="rgb_static", height=32, width=32),)
    )  # fmt: skip
    policy = ForeAct(ForeActConfig(text="distilled", text_width=16, width=48, heads=4, layers=1), contract, {})
    policy.save_pretrained(tmp_path / "saved")
    monkeypatch.setattr("foreact.vla.text_distilled.ASSET", tmp_path / "gone" / ASSET.name)
    again = load_policy(tmp_path / "saved")
    said = ["seize the crimson cube"]
    torch.testing.assert_close(again.encode_text(said), policy.eval().encode_text(said), rtol=0, atol=0)
