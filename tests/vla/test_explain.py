"""Looking inside real policies: what must add up, what must be zero, and what one made for the purpose must show."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from foreact.policies.gr1.foreact import ForeAct
from foreact.policies.gr1.foreact_config import ForeActConfig
from foreact.policies.gr1.published import PublishedGR1
from foreact.policies.gr1.published_config import PublishedGR1Config
from foreact.vla.explain import CannotExplain, Explanation, explain_episode
from foreact.vla.explain_attention import _sums_of_patches, trace_attention
from foreact.vla.explain_numbers import numbers
from foreact.vla.explain_pictures import Painter
from foreact.vla.explain_saliency import gradient, open_tower, score_of
from foreact.vla.explain_sensitivity import Sentence, plan_with
from foreact.vla.explain_windows import Episode, encode, windows_at
from foreact.vla.foresight import foresight_errors
from foreact.vla.policy import Observation
from foreact.vla.runtime import StreamingActor
from foreact.vla.trainable import TrainablePolicy
from foreact.vla.training.synthetic import synthetic_contract
from foreact.vla.vision import PretrainedVision

CAMERAS = ("front", "hand")
COMMON: dict[str, Any] = dict(
    history=3, history_stride=2, foresight_steps=4, chunk=4, execute_steps=3, width=32, layers=2, heads=2,
    vision_width=32, vision_heads=2, text_width=16, text_layers=1, text_heads=2, resampler_heads=2,
    resampler_head_width=8, image_queries=2, decoder_width=16, decoder_layers=1, decoder_heads=2,
)  # fmt: skip
STATISTICS = {"state": {"mean": [0.5, 0.5, 0.0], "std": [0.3, 0.3, 1.0]}}
SENTENCES = [
    Sentence(text="go to red", kind="paraphrase", task="red"),
    Sentence(text="to the blue square", kind="other task", task="blue"),
    Sentence(text="", kind="empty"),
]


def _foreact(**changes: Any) -> ForeAct:
    config = ForeActConfig(**{**COMMON, "visual_count": 2, **changes})
    return _lively(ForeAct(config, synthetic_contract(dict.fromkeys(CAMERAS, (16, 16))), STATISTICS))


def _published() -> PublishedGR1:
    config = PublishedGR1Config(
        history=3, history_stride=2, foresight_steps=4, chunk=2, chunk_queries=True, execute_steps=2, width=32,
        layers=2, heads=4, towers="random", image_size=32, vision_width=16, vision_layers=2, vision_heads=2,
        text_width=12, resampler_depth=2, resampler_heads=2, resampler_head_width=8, resampler_latents=3,
        decoder_layers=1, decoder_heads=4,
    )  # fmt: skip
    return _lively(PublishedGR1(config, synthetic_contract(dict.fromkeys(CAMERAS, (16, 16))), {}))


def _lively(policy: Any) -> Any:
    """So that histories, pictures and sentences really change the actions."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            if weight.ndim > 1 and "embed_timestep" not in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 1.5 / weight.shape[-1] ** 0.5)
    return policy.eval()


POLICIES: dict[str, Callable[[], Any]] = {
    "foreact": _foreact,
    "foreact, two layers of resampler": lambda: _foreact(resampler_depth=2),
    "foreact, told": lambda: _foreact(resampler_told=True, within_step="bidirectional", action_sees="foresight"),
    "foreact, pool": lambda: _foreact(visual_tokens="pool", visual_count=1, action_head="mlp"),
    "foreact, dct": lambda: _foreact(visual_tokens="dct", visual_count=4),
    "foreact, merge": lambda: _foreact(visual_tokens="merge", visual_count=3),
    "published": _published,
}


def _episode(length: int = 12) -> Episode:
    rng = np.random.default_rng(0)
    return Episode(
        images={name: rng.integers(0, 256, (length, 16, 16, 3), dtype=np.uint8) for name in CAMERAS},
        state=rng.normal(size=(length, 3)).astype(np.float32),
        action=rng.uniform(-1, 1, (length, 3)).astype(np.float32),
        instruction="to the red square",
    )


def _explain(policy: TrainablePolicy, frames: tuple[int, ...] = (0, 3, 7, 11), **settings: Any) -> Explanation:
    return explain_episode(policy, _episode(), frames, SENTENCES, **{"batch": 3, "integration_steps": 2, **settings})


@pytest.mark.parametrize("name", POLICIES)
def test_everything_adds_up_and_padded_frames_get_nothing(name: str) -> None:
    torch.manual_seed(0)
    policy = POLICIES[name]()
    found = _explain(policy)
    look, tokens = found.attention, found.tokens
    assert look is not None and tokens is not None
    np.testing.assert_allclose(look.context_BC.sum(dim=1) + look.own_B, 1.0, atol=1e-5)
    if all(token.kind == "action query" for token in tokens.queries):  # nobody looks at these, whatever the weights
        np.testing.assert_allclose(look.even_BC.sum(dim=1) + look.own_B, 1.0, atol=1e-5)
    steps = np.array([token.step for token in tokens.context])
    assert [list(row) for row in found.mask_BT] == [[True, False, False], [True, True, False], [True] * 3, [True] * 3]
    for row in range(2):  # the episode has just begun: the last steps are padding
        padded = ~found.mask_BT[row]
        assert (look.context_BC[row, padded[steps]] == 0).all() and (look.even_BC[row, padded[steps]] == 0).all()
        for camera in CAMERAS:
            assert (found.attended[camera][row, padded] == 0).all()
            assert (found.gradients[camera][row, padded] == 0).all()
            assert (found.integrated[camera][row, padded] == 0).all()
    for camera in CAMERAS:
        of_camera = [place for place, token in enumerate(tokens.context) if token.camera == camera]
        whole = look.patches[camera].sum(dim=(1, 2)) + look.constants[camera].sum(dim=1)
        np.testing.assert_allclose(whole, look.context_BC[:, of_camera].sum(dim=1), atol=1e-6)
        assert (look.patches[camera] >= 0).all() and (look.constants[camera] >= -1e-6).all()
        assert look.patches[camera].shape[-1] == tokens.grid[0] * tokens.grid[1]
        assert (found.gradients[camera][found.mask_BT] > 0).all()
    attended = numbers(found)["attention"]
    for parts in (attended["shares"], attended["steps"]):
        for key in ("share", "even"):
            assert sum(part[key] for part in parts.values()) == pytest.approx(1.0, abs=1e-5)
    assert list(attended["steps"]) == ["0", "-2", "-4"]
    assert Painter(found).still(0).shape[1] == 7 * 160


@pytest.mark.parametrize("name", POLICIES)
def test_saliency_is_the_slope_of_the_action(name: str) -> None:
    """Against central differences in a random direction, pixels of all cameras and history frames together."""
    torch.manual_seed(0)
    policy = POLICIES[name]()
    tokens = policy.describe_tokens()
    windows = windows_at(policy, _episode(), [3, 9])
    language = policy.encode_text(["to the red square"] * 2).detach()
    generator = torch.Generator().manual_seed(1)
    middle = {camera: image.float() for camera, image in windows.images.items()}
    way = {camera: torch.randn(image.shape, generator=generator) for camera, image in middle.items()}
    with open_tower(policy, tokens):
        score = score_of(policy, tokens, windows, language, [0, 1])
        value, slopes = gradient(score, middle)
        with torch.no_grad():
            step = 0.05 if "merge" not in name else 0.01
            up, down = (score({c: middle[c] + sign * step * way[c] for c in middle}) for sign in (1, -1))
    expected = (up - down) / (2 * step)
    slope = sum((slopes[camera] * way[camera]).flatten(1).sum(dim=1) for camera in middle)
    np.testing.assert_allclose(slope, expected, rtol=0.02, atol=2e-4 * float(value.abs().max()))
    assert expected.abs().min() > 1e-5


def test_a_pretrained_tower_is_not_looked_into_but_gradients_pass_it() -> None:
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    sizes = ViTConfig(
        image_size=32, patch_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    base = _foreact()
    policy = _lively(ForeAct(base.config, base.contract, STATISTICS, vision=PretrainedVision(ViTModel(sizes))))
    found = _explain(policy, (3, 9))
    assert found.tokens is not None and found.tokens.tower_layers == () and found.tokens.grid == (4, 4)
    assert found.attention is not None
    for camera in CAMERAS:
        assert (found.gradients[camera][found.mask_BT] > 0).all()
        assert found.attention.patches[camera].shape == (2, 3, 16)
        assert (found.attention.constants[camera].numpy()[found.mask_BT] > 0).all()  # the summary's share, at least


def test_the_tower_is_closed_again_behind_the_gradients() -> None:
    policy = _published()
    tower = policy.model_mae
    wanted = {name for name, weight in policy.named_parameters() if weight.requires_grad}
    with pytest.raises(RuntimeError, match="oops"), open_tower(policy, policy.describe_tokens()):
        assert not any(weight.requires_grad for weight in policy.parameters())
        raise RuntimeError("oops")
    assert "forward" not in tower.__dict__
    assert {name for name, weight in policy.named_parameters() if weight.requires_grad} == wanted
    pixels = torch.randn(1, 3, 32, 32, requires_grad=True)
    assert not tower(pixels)[0].requires_grad


def test_what_is_explained_is_what_the_actor_would_do() -> None:
    policy = _foreact()
    episode, actor = _episode(), StreamingActor(policy)
    for frame in range(8):
        seen = Observation(
            slots=[0], images={c: v[frame][None] for c, v in episode.images.items()},
            state=episode.state[frame][None] if episode.state is not None else np.zeros((1, 3)),
            instruction=[episode.instruction],
        )  # fmt: skip
        plan = actor.plan(seen, foresight=True)
        found = _explain(policy, (frame,))
        windows = windows_at(policy, episode, [frame])
        with torch.no_grad():
            ours = plan_with(
                policy, encode(policy, windows), policy.encode_text([episode.instruction]), windows.mask_BT
            )
        np.testing.assert_allclose(ours, plan.actions, atol=1e-5)
        assert plan.foresight is not None
        for camera in CAMERAS:
            assert np.abs(found.predicted[camera].astype(int) - plan.foresight[camera].astype(int)).max() <= 1


def test_where_only_one_camera_matters_the_heat_lies_there() -> None:
    policy = _foreact()
    with torch.no_grad():
        for layer in (policy.embed_patches["front"], policy.embed_summary["front"]):
            layer.weight.zero_()  # type: ignore[operator]
    found = _explain(policy)
    assert all((found.gradients["front"] == 0).ravel()) and all((found.integrated["front"] == 0).ravel())
    values = numbers(found)
    assert values["saliency"]["gradient"] == {"front": 0.0, "hand": 1.0}
    moved = {(c["name"], c["detail"]): c["distance"] for c in values["changes"] if c["kind"] == "camera"}
    assert moved["front", "black"] == moved["front", "mean colour"] == 0.0
    assert min(moved["hand", "black"], moved["hand", "mean colour"]) > 1e-3


def test_where_attention_is_made_to_look_at_one_camera_the_heat_lies_there() -> None:
    """Keys are the same for all tokens but the hand camera's, which answer the one question that everybody asks."""
    policy = _foreact()
    sign = torch.tensor([1.0, -1.0]).repeat(16)
    with torch.no_grad():
        policy.embed_timestep_TD.zero_()
        for module in (policy.embed_patches["hand"], policy.embed_summary["hand"]):
            module.weight.zero_()  # type: ignore[operator]
            module.bias.copy_(10.0 * sign)  # type: ignore[operator]
        for block in policy.blocks:
            attention: Any = block.attention
            attention.to_q.weight.zero_()
            attention.to_q.bias.fill_(1.0)
            attention.to_kv.weight.zero_()
            attention.to_kv.bias.zero_()
            attention.to_kv.weight[:32] = 5.0 * sign[None] / 32
    found = _explain(policy, (7, 9, 11))
    shares = numbers(found)["attention"]["shares"]
    assert shares["hand"]["share"] > 0.95 > 0.6 > shares["hand"]["even"]
    assert found.attended["hand"].sum() > 20 * found.attended["front"].sum()


def test_a_policy_that_ignores_text_does_not_move() -> None:
    deaf = _foreact()
    with torch.no_grad():
        deaf.embed_language.weight.zero_()
    heard, unheard = (numbers(_explain(policy))["listening"] for policy in (_foreact(), deaf))
    assert unheard["paraphrase"] == unheard["other_task"] == unheard["empty"] == 0.0
    assert unheard["own_sentence_nearer_to_recorded"] == 0.0
    assert min(heard["paraphrase"], heard["other_task"], heard["empty"]) > 1e-3


def test_distances_are_those_of_the_plans() -> None:
    policy, episode = _foreact(), _episode()
    found = _explain(policy, (10, 11))
    windows = windows_at(policy, episode, [10, 11])
    with torch.no_grad():
        frames = encode(policy, windows)
        old, new = (
            plan_with(policy, frames, policy.encode_text([s] * 2), windows.mask_BT) for s in ("to the red square", "")
        )
    change = next(c for c in found.changes if c.kind == "empty")
    difference = (new - old)[:, :3, :2]
    np.testing.assert_allclose(change.distance_B, np.sqrt((difference**2).mean(axis=(1, 2))), rtol=1e-4)
    assert episode.action is not None
    # Of the three actions that are executed from frame 10 on, two were recorded; from frame 11 on, one.
    error = [
        np.abs(new[0, :2, :2] - episode.action[10:12, :2]).mean(),
        np.abs(new[1, 0, :2] - episode.action[11, :2]).mean(),
    ]
    np.testing.assert_allclose(change.error_B, error, rtol=1e-4)


def test_foresight_is_compared_with_what_came() -> None:
    found = _explain(_foreact(), (2, 7, 9))
    assert found.ahead == 4
    for camera in CAMERAS:  # frame 9 + 4 was not recorded
        seen, predicted = found.episode.images[camera], found.predicted[camera]
        expected = [foresight_errors(seen[f], seen[f + 4], predicted[row]) for row, f in enumerate((2, 7))]
        assert found.foresight[camera] == expected
        ratio = sum(e.predicted for e in expected) / sum(e.copied for e in expected)
        assert numbers(found)["foresight"]["cameras"][camera]["error_ratio"] == pytest.approx(ratio)


def test_pooled_patches_weigh_alike_and_merged_ones_give_back_the_tokens() -> None:
    policy = _foreact(visual_tokens="merge", visual_count=3)
    tokens = policy.describe_tokens()
    windows = windows_at(policy, _episode(), [5])
    patches = torch.randn(6, 4, 32)
    weights = _sums_of_patches(policy.visual_tokens, patches, torch.zeros(6, 32))
    np.testing.assert_allclose(weights @ patches, policy.visual_tokens(patches, torch.zeros(6, 32)), atol=1e-5)
    pooled = _foreact(visual_tokens="pool", visual_count=1)
    np.testing.assert_allclose(_sums_of_patches(pooled.visual_tokens, patches, torch.zeros(6, 32)), 0.25, atol=1e-6)
    look = trace_attention(policy, tokens, windows, policy.encode_text(["x"]))
    assert look.context_BC.shape == (1, len(tokens.context))


def test_without_recorded_actions_or_state_the_rest_is_there() -> None:
    episode = replace(_episode(), action=None, state=None)
    found = explain_episode(_foreact(), episode, (3, 7), SENTENCES, integration_steps=0)
    values = numbers(found)
    assert (
        values["plan"]["error_to_recorded"] is None and values["listening"]["own_sentence_nearer_to_recorded"] is None
    )
    assert "integrated_gradients" not in values["saliency"] and values["listening"]["empty"] > 0


class _Silent(ForeAct):
    describe_tokens = None  # type: ignore[assignment]


def test_a_policy_that_does_not_name_its_tokens_is_explained_without_heat() -> None:
    policy = _lively(_Silent(_foreact().config, _foreact().contract, STATISTICS))
    values = numbers(_explain(policy))
    assert "attention" not in values and values["listening"]["other_task"] > 0 and values["foresight"]["cameras"]


def test_what_cannot_be_explained_is_said() -> None:
    contract = _foreact().contract.model_copy(update={"action": (), "gripper": "none"})
    watcher = ForeAct(_foreact().config, contract, STATISTICS)
    with pytest.raises(CannotExplain, match="video alone"):
        _explain(watcher)
    with pytest.raises(CannotExplain, match="no frames"):
        _explain(_foreact(), ())
    with pytest.raises(CannotExplain, match="--instruction"):
        explain_episode(_foreact(), replace(_episode(), instruction=" "), (1,), SENTENCES)
