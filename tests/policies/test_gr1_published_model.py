"""The published GR-1's mask, its numbers at full size, its training and its life in a runtime."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foreact.policies.gr1.published import PublishedGR1
from foreact.policies.gr1.published_config import PublishedGR1Config
from foreact.policies.gr1.published_import import calvin_contract
from foreact.policies.gr1.published_losses import standardised
from foreact.sim.embodiment import desk_contract
from foreact.vla.batch import WindowBatch
from foreact.vla.checkpoint import load_policy
from foreact.vla.contract import adapt
from foreact.vla.errors import ConfigError
from foreact.vla.policy import Observation
from foreact.vla.rows import Rows
from foreact.vla.runtime import StreamingActor
from foreact.vla.training.synthetic import SyntheticWindows, synthetic_contract

TINY: dict[str, Any] = dict(
    history=4, foresight_steps=2, width=32, layers=2, heads=4, towers="random", image_size=32, vision_width=16,
    vision_layers=1, vision_heads=2, text_width=12, resampler_depth=1, resampler_heads=2, resampler_head_width=8,
    resampler_latents=2, decoder_layers=1, decoder_heads=4,
)  # fmt: skip


def make(**changes: Any) -> PublishedGR1:
    """A tiny network for the synthetic contract, in evaluation mode."""
    torch.manual_seed(0)
    contract = synthetic_contract({"front": (20, 20), "hand": (12, 12)})
    return PublishedGR1(PublishedGR1Config(**{**TINY, **changes}), contract, {}).eval()


@pytest.fixture(scope="module")
def policy() -> PublishedGR1:
    return make()


def windows(policy: PublishedGR1, seed: int = 3, size: int = 6) -> WindowBatch:
    """Made-up windows, some with missing frames, future, or robot."""
    return SyntheticWindows(policy.config, policy.contract, batch_size=size, seed=seed).batch_at(0)


# --- size ------------------------------------------------------------------------------------------------------------


def test_full_size_has_the_published_tensors_and_counts() -> None:
    """45,988,039 trainable parameters, and each group of them as in the authors' code."""
    with torch.device("meta"):
        policy = PublishedGR1(PublishedGR1Config(towers="random"), calvin_contract(), {})
    rows = csv.reader((Path(__file__).parent / "golden_gr1/keys.tsv").read_text().splitlines()[3:], delimiter="\t")
    wanted = {
        name: tuple(map(int, shape.split("x"))) for family, name, shape, kind in rows
        if family == "gr1" and kind != "buffer" and not name.startswith("model_clip")
    }  # fmt: skip
    own = {n: tuple(t.shape) for n, t in policy.state_dict().items() if not n.startswith("text.")}
    assert own == wanted and len(wanted) == 396
    trainable = {name: p.numel() for name, p in policy.named_parameters() if p.requires_grad}
    assert sum(trainable.values()) == 45_988_039
    groups: dict[str, int] = {}
    for name, number in trainable.items():
        group = "embed" if name.startswith("embed_") else name.split(".")[0]
        groups[group] = groups.get(group, 0) + number
    assert groups == {
        "transformer": 21_294_720, "perceiver_resampler": 18_897_408, "embed": 1_681_920, "action_queries": 384,
        "obs_queries": 3_840, "obs_hand_queries": 3_840, "pred_act_mlps": 110_976, "pred_arm_act": 1_158,
        "pred_gripper_act": 193, "decoder_embed": 147_840, "decoder_blocks": 3_548_928, "decoder_norm": 768,
        "decoder_pred": 295_680, "mask_token": 384,
    }  # fmt: skip
    assert policy.config.step_tokens == 43
    assert PublishedGR1Config(chunk=10, chunk_queries=True).step_tokens == 52


def test_its_contract_fits_the_desk() -> None:
    adapter = adapt(calvin_contract(), desk_contract(), required_by="gr1_published", offered_by="the desk")
    assert adapter.state_index == (0, 1, 2, 3, 4, 5, 14)
    assert adapter.action_index == (0, 1, 2, 3, 4, 5, 6)


# --- mask ------------------------------------------------------------------------------------------------------------


def trunk_outputs(
    policy: PublishedGR1, context: torch.Tensor, mask: torch.Tensor, queries: torch.Tensor
) -> torch.Tensor:
    """All outputs, those of context tokens too (B, C + Q, D); the queries ask at steps 0, 1, ... in turn."""
    seen: list[torch.Tensor] = []
    hook = policy.transformer.ln_f.register_forward_hook(lambda *call: seen.append(call[-1]))
    T = context.shape[1]
    step = torch.arange(len(queries)).remainder(T).expand(len(context), -1)
    policy.trunk(context, mask, queries, step, torch.zeros(len(queries), dtype=torch.long))
    hook.remove()
    return seen[0]


def context_of(policy: PublishedGR1, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, 4, 8, policy.config.width, generator=generator)  # 1 + 1 + (2 + 1) + (2 + 1) tokens


@settings(max_examples=15, deadline=None)
@given(query=st.integers(0, 7), seed=st.integers(0, 99))
@torch.no_grad()
def test_a_query_changes_no_output_but_its_own(query: int, seed: int) -> None:
    policy = make()
    context, mask = context_of(policy, seed), torch.ones(1, 4, dtype=torch.bool)
    queries = torch.randn(8, 32, generator=torch.Generator().manual_seed(seed))
    before = trunk_outputs(policy, context, mask, queries)
    queries[query] = torch.linspace(-3, 3, 32).sin() * 5  # not a shift: LayerNorm would not see it
    changed = (trunk_outputs(policy, context, mask, queries) - before).abs().amax(dim=(0, 2)) > 0
    assert changed.nonzero().flatten().tolist() == [4 * 8 + query]


@settings(max_examples=15, deadline=None)
@given(valid=st.integers(1, 3), place=st.integers(0, 7), seed=st.integers(0, 99))
@torch.no_grad()
def test_padded_frames_change_nothing_before_them(valid: int, place: int, seed: int) -> None:
    policy = make()
    context, mask = context_of(policy, seed), torch.arange(4)[None] < valid
    queries = torch.randn(4, 32, generator=torch.Generator().manual_seed(seed))
    before = trunk_outputs(policy, context, mask, queries)
    context[0, valid, place] = torch.linspace(-3, 3, 32).sin() * 5
    changed = (trunk_outputs(policy, context, mask, queries) - before).abs().amax(dim=(0, 2)) > 0
    # Its own residual stream follows it, but nobody looks there.
    assert changed.nonzero().flatten().tolist() == [valid * 8 + place]


@settings(max_examples=15, deadline=None)
@given(step=st.integers(0, 3), place=st.integers(0, 7), seed=st.integers(0, 99))
@torch.no_grad()
def test_a_token_changes_itself_and_what_comes_later(step: int, place: int, seed: int) -> None:
    """place 7 is the wrist's picture: the earlier tokens of its step do not see it, its step's query does."""
    policy = make()
    context, mask = context_of(policy, seed), torch.ones(1, 4, dtype=torch.bool)
    queries = torch.randn(4, 32, generator=torch.Generator().manual_seed(seed))
    before = trunk_outputs(policy, context, mask, queries)
    context[0, step, place] = torch.linspace(-3, 3, 32).sin() * 5
    changed = (trunk_outputs(policy, context, mask, queries) - before).abs().amax(dim=(0, 2)) > 0
    assert changed[:32].tolist() == [index >= step * 8 + place for index in range(32)]
    assert changed[32:].tolist() == [query >= step for query in range(4)]


@torch.no_grad()
def test_actions_do_not_depend_on_whether_pictures_are_asked_for(policy: PublishedGR1) -> None:
    generator = torch.Generator().manual_seed(0)
    frames, language = torch.randn(2, 4, 7, 32, generator=generator), torch.randn(2, 32, generator=generator)
    mask = torch.arange(4) < torch.tensor([[2], [4]])
    last = mask.sum(dim=1, keepdim=True) - 1
    alone, none = policy.answer(frames, language, mask, step_BI=last, actions=True, images=False)
    every = torch.arange(4).expand(2, 4)
    beside, painted = policy.answer(frames, language, mask, step_BI=every, actions=True, images=True)
    assert not none and set(painted) == {"front", "hand"}
    torch.testing.assert_close(alone[:, 0], beside[[0, 1], last[:, 0]], rtol=1e-5, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("chunk", [1, 3])
def test_chunks_and_the_position_table_equal_transformers_gpt2(chunk: int) -> None:
    """GR1-Training runs the stock GPT-2 over the flat sequence, with `chunk` action queries and 2 x 3 image queries."""
    import transformers as hf

    policy = make(chunk=chunk, chunk_queries=True, positions=80)
    torch.nn.init.normal_(policy.action_chunk_queries.weight)
    assert policy.transformer.wpe is not None
    torch.nn.init.normal_(policy.transformer.wpe.weight)
    gpt = hf.GPT2Model(
        hf.GPT2Config(
            vocab_size=1, n_positions=80, n_embd=32, n_layer=2, n_head=4, activation_function="relu",
            bos_token_id=0, eos_token_id=0,
        )
    ).eval()  # fmt: skip
    gpt.load_state_dict(policy.transformer.state_dict(), strict=True)
    generator = torch.Generator().manual_seed(0)
    frames, language = torch.randn(2, 4, 7, 32, generator=generator), torch.randn(2, 32, generator=generator)
    mask = torch.arange(4) < torch.tensor([[2], [4]])
    raw, painted = policy.answer(
        frames, language, mask, step_BI=torch.arange(4).expand(2, 4), actions=True, images=True
    )

    rows = [policy.embed(frames, language), policy.action_query().expand(2, 4, -1, -1)]
    rows += [policy.image_query(camera).expand(2, 4, -1, -1) for camera in ("front", "hand")]
    flat = torch.cat(rows, dim=2)
    stride = flat.shape[2]
    assert stride == 8 + chunk + 6 == policy.config.step_tokens
    keys = (mask[..., None] & (torch.arange(stride) < 8)).reshape(2, -1)
    out = gpt(inputs_embeds=flat.reshape(2, -1, 32), attention_mask=keys.long()).last_hidden_state
    out = out.reshape(2, 4, stride, 32)
    torch.testing.assert_close(raw[mask], policy.act(out[:, :, 8 : 8 + chunk])[mask], rtol=1e-4, atol=1e-5)
    theirs = policy.decode(out[:, :, 8 + chunk : 11 + chunk].flatten(0, 1)).reshape(painted["front"].shape)
    torch.testing.assert_close(painted["front"][mask], theirs[mask], rtol=1e-4, atol=1e-5)


# --- pictures --------------------------------------------------------------------------------------------------------


def test_patches_and_painting_are_inverse(policy: PublishedGR1) -> None:
    """A prediction that is exactly the current frame, standardised, is painted as the current frame."""
    ramp = np.linspace(0, 255, 32 * 32 * 3).reshape(1, 32, 32, 3).astype(np.uint8)
    frame = torch.from_numpy(ramp)
    patches = policy.patches(policy.preprocess(frame))
    assert patches.shape == (1, 4, 768)
    # Row in the patch, column in the patch, channel; patches row by row.
    pixels = policy.preprocess(frame)[0]
    assert patches[0, 1, 3 * (16 * 2 + 5) + 1] == pixels[1, 2, 16 + 5]
    again = policy.paint(standardised(patches), frame)
    assert (again.int() - frame.int()).abs().max() <= 1


def test_standardised_patches_have_unbiased_unit_deviation() -> None:
    patches = torch.randn(2, 3, 768) * 4.0 + 2.0
    np.testing.assert_allclose(standardised(patches).numpy().std(axis=-1, ddof=1), 1.0, rtol=1e-5)
    assert standardised(torch.full((1, 1, 768), 0.3)).abs().max() < 1.0  # a flat patch is not blown up


# --- training --------------------------------------------------------------------------------------------------------


def test_the_loss_is_the_papers_sum(policy: PublishedGR1) -> None:
    """Against plain loops over windows and frames."""
    batch = windows(policy)
    parts = policy.loss(batch)
    B, T = batch.history_mask.shape
    arm, gripper, video = [], [], {"front": [], "hand": []}
    for b in range(B):
        n = int(batch.history_mask[b].sum())
        images = {name: torch.from_numpy(value[b, :n]) for name, value in batch.images.items()}
        frames = policy.encode_frames(images, torch.from_numpy(batch.state[b, :n]), torch.ones(n, dtype=torch.bool))
        raw, painted = policy.answer(
            frames[None], policy.encode_text([batch.instruction[b]]), torch.ones(1, n, dtype=torch.bool),
            step_BI=torch.arange(n)[None], actions=True, images=True,
        )  # fmt: skip
        for t in range(n):
            wanted = torch.from_numpy(batch.action[b, t, 0])
            if batch.action_mask[b, t, 0]:
                error = (raw[0, t, 0, :-1] - wanted[:-1]).abs()
                arm.append(torch.where(error < 1, 0.5 * error**2, error - 0.5).mean())
                p = torch.sigmoid(raw[0, t, 0, -1])
                gripper.append(-torch.log(p if wanted[-1] > 0 else 1 - p))
            if t + 2 < n and batch.future_mask[b, t]:
                for name in video:
                    target = policy.patches(policy.preprocess(images[name][t + 2][None]))[0]
                    target = (target - target.mean(-1, keepdim=True)) / (target.std(-1, keepdim=True) + 1e-6)
                    video[name].append(((painted[name][0, t] - target) ** 2).mean())
    assert len(arm) > 4 and len(video["front"]) > 2
    expected = {"arm": arm, "gripper": gripper, "video/front": video["front"], "video/hand": video["hand"]}
    for name, values in expected.items():
        torch.testing.assert_close(parts[name], torch.stack(values).mean(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(parts["total"], sum(parts[name] for name in expected), rtol=1e-5, atol=1e-6)


def test_pieces_of_a_batch_add_up_to_it_dropout_included() -> None:
    policy = make().train()
    batch = windows(policy)
    counts = policy.loss_counts(batch)
    policy.set_rows(Rows(seed=1, step=2, first=0, count=6, total=6))
    whole = policy.loss(batch)["total"]
    pieces = []
    for first, count in ((0, 2), (2, 4)):
        values = {}
        for key, value in vars(batch).items():
            if isinstance(value, dict):
                value = {camera: array[first : first + count] for camera, array in value.items()}
            elif value is not None:
                value = value[first : first + count]
            values[key] = value
        policy.set_rows(Rows(seed=1, step=2, first=first, count=count, total=6))
        pieces.append(policy.loss(WindowBatch(**values), counts)["total"])
    torch.testing.assert_close(sum(pieces), whole, rtol=1e-5, atol=1e-6)
    policy.set_rows(Rows(seed=1, step=3, first=0, count=6, total=6))
    assert abs(policy.loss(batch)["total"] - whole) > 1e-4  # dropout is at work


def test_it_learns_and_the_towers_stay_frozen() -> None:
    policy = make(dropout=0.0).train()
    batch = windows(policy)
    frozen = {name: p.clone() for name, p in policy.named_parameters() if name.startswith(("model_mae.", "text."))}
    assert frozen and not policy.model_mae.training and not policy.text.training
    optimiser = torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad], lr=2e-3)
    losses = []
    for _ in range(30):
        parts = policy.loss(batch)
        optimiser.zero_grad()
        parts["total"].backward()
        optimiser.step()
        losses.append(parts["total"].item())
    assert losses[-1] < 0.8 * losses[0]
    unused = {name for name, p in policy.named_parameters() if p.requires_grad and p.grad is None}
    assert unused == {"transformer.wte.weight"}
    assert all(torch.equal(frozen[name], p) for name, p in policy.named_parameters() if name in frozen)


# --- acting ----------------------------------------------------------------------------------------------------------


def test_streaming_equals_the_full_forward_pass_over_twelve_steps(policy: PublishedGR1) -> None:
    """Filling, full and sliding window: cached frames give the plan of the whole window."""
    rng = np.random.default_rng(0)
    images = {c.name: rng.integers(0, 256, (12, c.height, c.width, 3), dtype=np.uint8) for c in policy.contract.cameras}
    state = rng.uniform(-1, 1, (12, 3)).astype(np.float32)
    actor = StreamingActor(policy)
    for step in range(12):
        now = {name: value[step : step + 1] for name, value in images.items()}
        observation = Observation(slots=[0], images=now, state=state[step : step + 1], instruction=["go"])
        plan = actor.plan(observation, foresight=step == 11)
        first = max(0, step - 3)
        n = step + 1 - first
        full = policy.plan(
            {name: torch.from_numpy(value[None, first : step + 1]) for name, value in images.items()},
            torch.from_numpy(state[None, first : step + 1]), torch.ones(1, n, dtype=torch.bool),
            torch.ones(1, n, dtype=torch.bool), ["go"], foresight=step == 11,
        )  # fmt: skip
        np.testing.assert_allclose(plan.actions, full.actions, rtol=1e-5, atol=1e-5)
        assert plan.actions.shape == (1, 1, 3) and plan.actions[0, 0, -1] in (-1.0, 1.0)
    assert plan.foresight is not None and full.foresight is not None
    assert plan.foresight["front"].shape == (1, 20, 20, 3) and plan.foresight_steps == 2
    assert (plan.foresight["hand"].astype(int) - full.foresight["hand"]).std() < 1.0


def test_a_checkpoint_keeps_towers_and_answers(policy: PublishedGR1, tmp_path: Path) -> None:
    policy.save_pretrained(tmp_path / "policy")
    again = load_policy(tmp_path / "policy")
    batch = windows(policy)
    for name, value in policy.loss(batch).items():
        torch.testing.assert_close(again.loss(batch)[name], value, rtol=0, atol=0)


def test_video_alone_needs_no_robot_and_one_camera() -> None:
    contract = synthetic_contract({"front": (20, 20)}).model_copy(update={"state": (), "action": ()})
    policy = PublishedGR1(PublishedGR1Config(**TINY), contract, {})
    names = {name.split(".")[0] for name in policy.state_dict()}
    assert not names & {"action_queries", "embed_state", "embed_hand_img", "obs_hand_queries", "pred_arm_act"}
    parts = policy.loss(windows(policy))
    assert set(parts) == {"total", "video/front"} and parts["total"] > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(towers=""), "needs its frozen towers: policy.towers=DIR"),
        (dict(chunk=4), "needs policy.chunk_queries=true"),
        (dict(positions=10), "policy.positions must be 0 or at least 60"),
        (dict(width=30), "policy.width must be a multiple of policy.heads"),
        (dict(execute_steps=2), "policy.execute_steps must be 1 to policy.chunk=1"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(**changes)


def test_a_third_camera_and_a_strange_state_are_refused() -> None:
    contract = synthetic_contract({"front": (20, 20), "hand": (12, 12), "top": (12, 12)})
    with pytest.raises(ConfigError, match="a static camera and at most one on the wrist"):
        PublishedGR1(PublishedGR1Config(**TINY), contract, {})
    contract = synthetic_contract({"front": (20, 20)})
    with pytest.raises(ConfigError, match="the arm and then the gripper as one number in the state"):
        PublishedGR1(PublishedGR1Config(**TINY), contract.model_copy(update={"state": contract.state[:1]}), {})
