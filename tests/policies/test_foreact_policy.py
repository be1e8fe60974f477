"""The improved policy: every part learns, streams, and does what its name says."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from einops import rearrange

from foreact.policies.gr1.foreact import ForeAct
from foreact.policies.gr1.foreact_config import ForeActConfig
from foreact.sim.embodiment import desk_contract
from foreact.vla.batch import WindowBatch
from foreact.vla.checkpoint import load_policy
from foreact.vla.errors import ConfigError
from foreact.vla.policy import Observation
from foreact.vla.runtime import StreamingActor

TINY: dict[str, Any] = dict(
    history=3, history_stride=2, foresight_steps=4, chunk=3, execute_steps=2, width=32, layers=3, heads=2,
    vision_width=32, vision_heads=2, text_width=16, text_layers=1, text_heads=2, visual_count=4, resampler_heads=2,
    resampler_head_width=8, image_queries=2, decoder_width=16, decoder_layers=1, decoder_heads=2,
)  # fmt: skip
PARTS: dict[str, dict[str, Any]] = {
    "as GR-1": {},
    "bidirectional": {"within_step": "bidirectional"},
    "sees foresight": {"action_sees": "foresight"},
    "mlp": {"action_head": "mlp"},
    "flow": {"action_head": "flow"},
    "tool frame": {"action_frame": "tool"},
    "first frame": {"state_frame": "first"},
    "latent": {"foresight_target": "latent"},
    "pool": {"visual_tokens": "pool"},
    "merge": {"visual_tokens": "merge"},
    "dct": {"visual_tokens": "dct"},
    "told": {"resampler_told": True},
    "all positions": {"foresight_positions": "all"},
    "everything": {
        "within_step": "bidirectional", "action_sees": "foresight", "action_head": "flow", "action_frame": "tool",
        "state_frame": "first", "foresight_target": "latent", "resampler_told": True,
    },
}  # fmt: skip


def make(**changes: Any) -> ForeAct:
    torch.manual_seed(0)
    contract = desk_contract({"rgb_static": (32, 32), "rgb_gripper": (32, 32)})
    size = contract.state_size
    statistics = {"state": {"mean": [0.1] * size, "std": [0.5] * size}}
    return ForeAct(ForeActConfig(**{**TINY, **changes}), contract, statistics)


def windows(policy: ForeAct, count: int = 5, seed: int = 0) -> WindowBatch:
    """Made-up windows of the desk's contract; some lack frames, future, state or actions."""
    rng = np.random.default_rng(seed)
    config, contract = policy.config, policy.contract
    B, T, K = count, config.history, config.chunk
    length = np.array([T, 1, 2, T, T])[:B]
    exists = np.arange(T) < length[:, None]
    future = exists.copy()
    future[0, -1] = False
    known = exists.copy()
    known[3] = False
    acts = np.broadcast_to(known[..., None], (B, T, K)).copy()
    acts[4, -1, -1] = False
    action = rng.uniform(-1, 1, (B, T, K, contract.action_size)).astype(np.float32)
    action[..., -1] = np.sign(action[..., -1])
    pictures = {c.name: rng.integers(0, 255, (2, B, T, 32, 32, 3), np.uint8) for c in contract.cameras}
    return WindowBatch(
        images={name: value[0] for name, value in pictures.items()},
        future={name: value[1] for name, value in pictures.items()},
        future_mask=future, history_mask=exists, state=rng.normal(size=(B, T, contract.state_size)).astype(np.float32),
        state_mask=known, action=action, action_mask=acts,
        instruction=["open the drawer", "", "push the door", "lift", "turn it off"][:B],
        index=np.zeros((B, 2), np.int64),
    )  # fmt: skip


def encoded(policy: ForeAct, batch: WindowBatch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    B, T = batch.history_mask.shape
    flat = {n: rearrange(torch.from_numpy(v), "b t h w c -> (b t) h w c") for n, v in batch.images.items()}
    state, known = torch.from_numpy(batch.state), torch.from_numpy(batch.state_mask)
    frames = policy.encode_frames(flat, state.reshape(B * T, -1), known.reshape(B * T))
    mask = torch.from_numpy(batch.history_mask)
    return rearrange(frames, "(b t) f d -> b t f d", t=T), policy.encode_text(batch.instruction), mask


@pytest.mark.parametrize("changes", PARTS.values(), ids=PARTS)
def test_every_weight_of_every_part_learns(changes: dict[str, Any]) -> None:
    policy = make(**changes).train()
    losses = policy.loss(windows(policy))
    losses["total"].backward()
    idle = [name for name, p in policy.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    # Paint weights start small but not at zero; the only tensors allowed to be idle are those no window touches.
    assert not [name for name in idle if "positions" not in name and "embed.weight" not in name]
    assert all(torch.isfinite(value).all() for value in losses.values())


@pytest.mark.parametrize("changes", PARTS.values(), ids=PARTS)
def test_fifty_steps_on_one_batch_bring_the_error_down(changes: dict[str, Any]) -> None:
    policy = make(**changes).train()
    batch = windows(policy)
    optimizer = torch.optim.Adam([p for p in policy.parameters() if p.requires_grad], lr=3e-3)
    totals = []
    for step in range(50):
        torch.manual_seed(step)
        optimizer.zero_grad()
        losses = policy.loss(batch)
        losses["total"].backward()
        optimizer.step()
        policy.after_step()
        totals.append(float(losses["total"].detach()))
    assert np.mean(totals[-5:]) < 0.8 * np.mean(totals[:5])


@pytest.mark.parametrize("changes", PARTS.values(), ids=PARTS)
@torch.no_grad()
def test_streaming_gives_the_numbers_of_the_full_pass(changes: dict[str, Any], tmp_path) -> None:
    policy = make(**changes).eval()
    policy.save_pretrained(tmp_path / "p")
    policy = load_policy(tmp_path / "p")
    config, contract, rng = policy.config, policy.contract, np.random.default_rng(1)
    actor = StreamingActor(policy)
    frames = [
        {c.name: rng.integers(0, 255, (2, c.height, c.width, 3), np.uint8) for c in contract.cameras} for _ in range(9)
    ]
    states = rng.normal(size=(9, 2, contract.state_size)).astype(np.float32)
    words = ["open the drawer", "lift the block"]
    for now in range(9):
        seen = Observation(slots=[0, 1], images=frames[now], state=states[now], instruction=words)
        if now % 2:
            actor.observe(seen)
            continue
        plan = actor.plan(seen, foresight=True)
        back = (config.history - 1) * config.history_stride
        times = [t for t in range(now - back, now + 1, config.history_stride) if t >= 0]
        pad = config.history - len(times)
        mask = torch.tensor([[True] * len(times) + [False] * pad] * 2)
        images = {
            c.name: torch.from_numpy(np.stack([frames[t][c.name] for t in times + times[:1] * pad], axis=1))
            for c in contract.cameras
        }
        state = torch.from_numpy(np.stack([states[t] for t in times + times[:1] * pad], axis=1))
        full = policy.plan(images, state, mask, mask, words, foresight=True)
        np.testing.assert_allclose(plan.actions, full.actions, atol=2e-5)
        assert plan.foresight is not None and full.foresight is not None
        for name, predicted in full.foresight.items():
            assert np.abs(plan.foresight[name].astype(int) - predicted).max() <= 1


@torch.no_grad()
def test_actions_follow_the_foresight_queries_exactly_when_they_may_see_them() -> None:
    for sees in ("context", "foresight"):
        policy = make(action_sees=sees).eval()
        frames, language, mask = encoded(policy, windows(policy))
        last = mask.sum(1, keepdim=True) - 1
        before = policy.answer(frames, language, mask, last_only=True, image_step_BI=last)
        policy.image_queries["rgb_static"] += torch.randn(2, 32)
        after = policy.answer(frames, language, mask, last_only=True, image_step_BI=last)
        changed = not torch.allclose(before.actions_BTKD, after.actions_BTKD, atol=1e-5)
        assert changed == (sees == "foresight")
        torch.testing.assert_close(after.images["rgb_gripper"], before.images["rgb_gripper"], rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_asking_for_pictures_changes_no_action() -> None:
    for sees in ("context", "foresight"):
        policy = make(action_sees=sees).eval()
        frames, language, mask = encoded(policy, windows(policy))
        last = mask.sum(1, keepdim=True) - 1
        blind = policy.answer(frames, language, mask, last_only=True, image_step_BI=None)
        asked = policy.answer(frames, language, mask, last_only=True, image_step_BI=last)
        torch.testing.assert_close(blind.actions_BTKD, asked.actions_BTKD, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_asking_at_all_steps_and_at_the_last_agree() -> None:
    policy = make(action_sees="foresight", within_step="bidirectional").eval()
    frames, language, mask = encoded(policy, windows(policy))
    rows, last = torch.arange(len(mask)), mask.sum(1) - 1
    every = policy.answer(frames, language, mask, last_only=False, image_step_BI=last[:, None])
    one = policy.answer(frames, language, mask, last_only=True, image_step_BI=last[:, None])
    torch.testing.assert_close(every.actions_BTKD[rows, last], one.actions_BTKD[:, 0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(every.images["rgb_static"], one.images["rgb_static"], rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("within", ["causal", "bidirectional"])
def test_who_looks_at_whom_within_a_step(within: str) -> None:
    policy = make(within_step=within).eval()
    frames, language, _ = encoded(policy, windows(policy))
    mask = torch.ones(frames.shape[:2], dtype=torch.bool)
    hidden: list[torch.Tensor] = []
    policy.blocks[1].register_forward_hook(lambda *call: hidden.append(call[2]))
    for change in (0.0, 1.0):
        frames[:, 1, -1] += change * torch.randn(32)  # the wrist's summary, the last context token of step 1
        policy.answer(frames, language, mask, last_only=True, image_step_BI=None)
    changed = (hidden[0] - hidden[1]).abs().amax(dim=(0, 2)) > 1e-6
    G = policy.context(frames, language).shape[2]
    assert not changed[:G].any()
    assert changed[2 * G - 1]
    assert changed[G : 2 * G - 1].all() == (within == "bidirectional")
    assert not changed[G : 2 * G - 1].any() or within == "bidirectional"
    assert changed[2 * G : 3 * G].all()


@torch.no_grad()
def test_padding_is_invisible_with_everything() -> None:
    policy = make(**PARTS["everything"]).eval()
    frames, language, mask = encoded(policy, windows(policy))
    before = policy.answer(frames, language, mask, last_only=True, image_step_BI=None).actions_BTKD
    poisoned = torch.where(mask[..., None, None], frames, torch.full_like(frames, 3.0))
    after = policy.answer(poisoned, language, mask, last_only=True, image_step_BI=None).actions_BTKD
    torch.testing.assert_close(after, before, rtol=0, atol=0)


@torch.no_grad()
def test_a_plan_in_the_tools_frame_turns_with_the_tool() -> None:
    """Turning the tool turns the executed translation by the same angle, if the network sees no difference."""
    policy = make(action_frame="tool", state_frame="first", history=1).eval()
    policy.get_parameter("action_head.answer.weight").mul_(0.3)  # so that nothing is clipped
    batch = windows(policy)
    state = torch.zeros(5, 1, policy.contract.state_size)
    state[..., 3:6] = torch.tensor([np.pi, 0.0, 0.3])
    turned = state.clone()
    turned[..., 5] += np.pi / 2
    images = {name: torch.from_numpy(value) for name, value in batch.images.items()}
    mask = torch.ones(5, 1, dtype=torch.bool)
    a = policy.plan(images, state, mask, mask, batch.instruction).actions
    b = policy.plan(images, turned, mask, mask, batch.instruction).actions
    assert 0.05 < np.abs(a[..., :3]).max() < 0.7
    quarter = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    np.testing.assert_allclose(b[..., :3], a[..., :3] @ quarter.T, atol=1e-5)
    np.testing.assert_allclose(b[..., 3:], a[..., 3:], atol=1e-5)


@torch.no_grad()
def test_with_relative_states_the_place_in_the_room_does_not_matter() -> None:
    policy = make(state_frame="first").eval()
    batch = windows(policy)
    images = {name: torch.from_numpy(value) for name, value in batch.images.items()}
    state = torch.from_numpy(batch.state)
    mask = torch.ones(5, 3, dtype=torch.bool)
    a = policy.plan(images, state, mask, mask, batch.instruction).actions
    moved = state.clone()
    moved[..., :3] += torch.tensor([0.3, -0.2, 0.1])
    b = policy.plan(images, moved, mask, mask, batch.instruction).actions
    np.testing.assert_allclose(a, b, atol=1e-5)
    moved[:, 1, 0] += 0.05  # but how it moves does
    assert np.abs(policy.plan(images, moved, mask, mask, batch.instruction).actions - a).max() > 1e-6


def test_pieces_of_a_batch_add_up() -> None:
    from dataclasses import fields, replace

    from foreact.vla.rows import Rows

    for changes in ({"action_head": "flow"}, PARTS["everything"]):
        policy = make(**changes).train()
        whole = windows(policy, 5)

        def piece(rows: slice, whole: WindowBatch = whole) -> WindowBatch:
            cut = {
                f.name: {k: v[rows] for k, v in value.items()} if isinstance(value, dict) else value[rows]
                for f in fields(whole)
                if (value := getattr(whole, f.name)) is not None
            }
            return replace(whole, **cut)

        counts = policy.loss_counts(whole)
        policy.set_rows(Rows(0, 7, 0, 5, 5))
        expected = policy.loss(whole)
        found: dict[str, torch.Tensor] = {}
        for a, b in pairwise([0, 2, 5]):
            policy.set_rows(Rows(0, 7, a, b - a, 5))
            for name, value in policy.loss(piece(slice(a, b)), counts).items():
                found[name] = found.get(name, torch.zeros(())) + value
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_the_latent_target_follows_slowly_and_is_not_trained() -> None:
    policy = make(foresight_target="latent", target_decay=0.9)
    live, target = policy.vision.stem[0].weight, policy.target_vision.stem[0].weight  # type: ignore[union-attr]
    before = target.clone()
    with torch.no_grad():
        live += 1.0
    policy.after_step()
    torch.testing.assert_close(target, before + 0.1, rtol=1e-5, atol=1e-6)
    assert not any(p.requires_grad for p in policy.target_vision.parameters())


def test_latent_targets_keep_pixels_from_teaching_the_trunk() -> None:
    policy = make(foresight_target="latent").train()
    losses = policy.loss(windows(policy))
    (losses["pixels/rgb_static"] + losses["pixels/rgb_gripper"]).backward()
    assert policy.decoder.paint.weight.grad is not None
    assert all(p.grad is None for p in policy.blocks.parameters())


@torch.no_grad()
def test_a_flow_plan_is_the_same_every_time() -> None:
    policy = make(action_head="flow").eval()
    features = torch.randn(4, 3, 32)
    first = policy.action_head(features)
    torch.manual_seed(5)
    torch.testing.assert_close(policy.action_head(features), first, rtol=0, atol=0)


def test_a_flow_head_learns_both_of_two_answers() -> None:
    """Where two different chunks are right, a point head learns their mean; the flow head draws one of them."""
    from foreact.policies.gr1.heads import build_head

    torch.manual_seed(0)
    settings = dict(gripper=None, beta=0.1, chunk=2, heads=2, steps=10)
    flow, point = build_head("flow", 32, 1, **settings), build_head("linear", 32, 1, **settings)  # type: ignore[arg-type]
    optimizer = torch.optim.Adam([*flow.parameters(), *point.parameters()], lr=3e-3)
    features = torch.zeros(64, 2, 32)
    counts = {"arm": 128.0, "gripper": 0.0}
    for _ in range(400):
        target = torch.sign(torch.randn(64, 1, 1)).expand(64, 2, 1).contiguous() * 0.8
        loss = sum(h.losses(features, target, torch.ones(64, 2, 1).bool(), counts, None)["arm"] for h in (flow, point))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[union-attr]
        optimizer.step()
    flow.eval()
    with torch.no_grad():
        starts = torch.randn(200, 2, 1)
        drawn = torch.cat([_from(flow, features[:1], start) for start in starts])
        assert point(features[:1]).abs().max() < 0.4
    assert (drawn.abs() - 0.8).abs().median() < 0.2
    assert 0.25 < float((drawn[:, 0] > 0).float().mean()) < 0.75
    assert (torch.sign(drawn[:, 0]) == torch.sign(drawn[:, 1])).float().mean() > 0.9


def _from(flow: Any, features: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
    flow.start_KA.copy_(start)
    return flow(features)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"within_step": "both"}, "within_step"),
        ({"action_head": "flwo"}, "did you mean 'flow'"),
        ({"visual_tokens": "pool", "visual_count": 5}, "square number"),
        ({"visual_tokens": "merge", "visual_count": 99}, "only 16 patches"),
        ({"foresight_target": "latent", "decoder_patch": 4}, "decoder_patch"),
        ({"action_sees": "foresight", "foresight_weight": 0.0}, "foresight_weight"),
        ({"flow_steps": 0}, "flow_steps"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict[str, Any], names: str) -> None:
    with pytest.raises(ConfigError, match=names):
        make(**changes)


def test_relative_frames_need_a_pose() -> None:
    contract = desk_contract({"rgb_static": (32, 32)}, "relative_joint")
    with pytest.raises(ConfigError, match="action_frame=base"):
        ForeAct(
            ForeActConfig(**TINY, action_frame="tool"), contract,
            {"state": {"mean": [0.0] * contract.state_size, "std": [1.0] * contract.state_size}},
        )  # fmt: skip
