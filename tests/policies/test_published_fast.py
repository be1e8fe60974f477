"""The published GR-1 laid out for acting against the network itself: the same numbers in every phase of a stream."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from foreact.policies.gr1.published import PublishedGR1
from foreact.policies.gr1.published_config import PublishedGR1Config
from foreact.policies.gr1.published_fast import FastGR1
from foreact.policies.gr1.published_import import calvin_contract
from foreact.vla.contract import Contract
from foreact.vla.policy import Observation, Plan
from foreact.vla.runtime import StreamingActor
from foreact.vla.runtime_acting import PlansOnDevice
from foreact.vla.runtime_stages import listen
from foreact.vla.training.synthetic import synthetic_contract

SMALL: dict[str, Any] = dict(
    history=5, foresight_steps=2, width=32, layers=3, heads=4, towers="random", image_size=32, vision_width=32,
    vision_layers=2, vision_heads=2, text_width=12, resampler_depth=2, resampler_heads=2, resampler_head_width=8,
    resampler_latents=3, decoder_layers=1, decoder_heads=4,
)  # fmt: skip
TOLERANCE = 1e-5
"""Of the largest value of the reference."""


@torch.no_grad()
def shaken(policy: PublishedGR1) -> PublishedGR1:
    """Weights that keep numbers of size one, let attention choose, and leave no bias or scale at its default."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in policy.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim == 1:
            parameter.copy_(noise * 0.2 + (name.endswith("weight") and "norm" in name or "ln" in name))
        elif parameter.ndim == 2 and not any(part in name for part in ("queries", "timestep", "latents", "text.")):
            fan_in = parameter.shape[0] if ".c_" in name else parameter.shape[1]
            parameter.copy_(noise * 1.3 * fan_in**-0.5)
    return policy.eval()


def make(contract: Contract | None = None, **changes: Any) -> PublishedGR1:
    """A scaled-down network."""
    torch.manual_seed(0)
    contract = contract or synthetic_contract({"front": (20, 20), "hand": (12, 12)})
    return shaken(PublishedGR1(PublishedGR1Config(**{**SMALL, **changes}), contract, {}))


def assert_same(found: Tensor, expected: Tensor) -> None:
    """Within 1e-5 of the largest expected value."""
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE * expected.abs().max().item())


def rows(policy: PublishedGR1, n: int) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Images, state and its mask of n made-up frames."""
    g = torch.Generator().manual_seed(n)
    images = {
        c.name: torch.randint(0, 256, (n, c.height, c.width, 3), dtype=torch.uint8, generator=g)
        for c in policy.contract.cameras
    }
    return images, torch.randn(n, policy.contract.state_size, generator=g), torch.ones(n, dtype=torch.bool)


ONE_CAMERA = synthetic_contract({"front": (20, 20)})
KINDS: dict[str, PublishedGR1 | dict[str, Any]] = {
    "published": {},
    "GR1-Training": dict(chunk=4, chunk_queries=True, positions=256),
    "one camera": dict(contract=ONE_CAMERA),
    "no state": dict(contract=ONE_CAMERA.model_copy(update={"state": ()})),
    "one layer": dict(layers=1),
}


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_frames_actions_and_pictures_are_those_of_the_network(kind: str) -> None:
    policy = make(**KINDS[kind])  # type: ignore[arg-type]
    fast = policy.for_acting()
    assert isinstance(fast, FastGR1) and isinstance(fast, PlansOnDevice)
    B, T = 4, policy.config.history
    images, state, known = rows(policy, B * T)
    frames = policy.encode_frames(images, state, known)
    assert_same(fast.encode_frames(images, state, known), frames)

    mask = torch.arange(T) < torch.tensor([[1], [3], [T], [T - 1]])
    frames_BTFD, language = frames.unflatten(0, (B, T)), policy.encode_text(["a", "b", "c", "d"])
    current = {name: image[:B] for name, image in images.items()}
    last = mask.sum(dim=1, keepdim=True) - 1
    raw, patches = policy.answer(frames_BTFD, language, mask, step_BI=last, actions=True, images=True)
    painted = {camera: policy.paint(patch[:, 0], current[camera]) for camera, patch in patches.items()}
    for asked in (None, current):
        actions, pictures = fast.plan_tensors(frames_BTFD, language, mask, asked)
        assert_same(actions[..., :-1], raw[:, 0, :, :-1])
        assert torch.equal(actions[..., -1], torch.where(raw[:, 0, :, -1] > 0, 1.0, -1.0))
        assert set(pictures) == (set(policy.cameras) if asked else set())
        for camera, picture in pictures.items():
            assert (picture.int() - painted[camera].int()).abs().max() <= 1
    assert raw[..., -1].abs().min() > 1e-4  # no gripper so near to zero that rounding could turn it
    assert (raw[1:] - raw[:-1]).abs().max() > 0.05  # the rows do differ


@torch.no_grad()
def test_a_window_may_be_as_short_as_its_longest_history() -> None:
    policy = make()
    fast = FastGR1(policy)
    images, state, known = rows(policy, 6)
    frames = policy.encode_frames(images, state, known).unflatten(0, (2, 3))
    mask = torch.tensor([[True, False, False], [True, True, True]])
    padded = torch.cat([frames, torch.randn(2, 2, *frames.shape[2:])], dim=1)
    longer = torch.cat([mask, torch.zeros(2, 2, dtype=torch.bool)], dim=1)
    language = policy.encode_text(["a", "b"])
    assert_same(
        fast.plan_tensors(frames, language, mask, None)[0], fast.plan_tensors(padded, language, longer, None)[0]
    )


@torch.no_grad()
def test_folded_matrices_are_the_layers_they_stand_for() -> None:
    policy = make()
    fast = FastGR1(policy)
    x = torch.randn(7, policy.config.width)
    assert_same(x @ fast.head_DA + fast.head_A, policy.act(x))
    for gripper in (-1.0, 1.0):
        state = torch.cat([torch.randn(5, policy.contract.state_size - 1), torch.full((5, 1), gripper)], dim=1)
        assert_same(fast._embed_robot(state), policy.embed_robot(state))


def test_weights_are_shared_and_nothing_of_the_policy_changes() -> None:
    policy = make()
    before = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    fast = FastGR1(policy)
    own = {id(parameter) for parameter in policy.parameters()}
    assert {id(parameter) for parameter in fast.mae.parameters() if parameter.ndim == 1} & own
    first = policy.model_mae.get_parameter("blocks.0.attn.qkv.weight")
    assert fast.mae.get_parameter("blocks.0.attn.qkv.weight").data_ptr() == first.data_ptr()
    assert all(torch.equal(before[name], tensor) for name, tensor in policy.state_dict().items())
    assert sum(parameter.requires_grad for parameter in policy.parameters()) > 100


def test_a_subclass_acts_by_itself() -> None:
    class Other(PublishedGR1):
        pass

    other = Other(PublishedGR1Config(**SMALL), synthetic_contract({"front": (20, 20)}), {})
    assert other.for_acting() is other


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision_is_near(dtype: torch.dtype) -> None:
    policy = make()
    images, state, known = rows(policy, 5)
    exact = policy.encode_frames(images, state, known)
    near = policy.for_acting(dtype).encode_frames(images, state, known)
    assert near.dtype == torch.float32
    error = (near - exact).abs().max() / exact.abs().max()
    assert 1e-5 < error < (0.05 if dtype == torch.bfloat16 else 0.01)


# --- streams ---------------------------------------------------------------------------------------------------------


class Streams:
    """What robots see, and the plan of the full pass at any of their steps."""

    def __init__(self, policy: PublishedGR1, slots: int, length: int):
        self.policy, self.length = policy, length
        rng = np.random.default_rng(0)
        self.images = {
            c.name: rng.integers(0, 256, (slots, length, c.height, c.width, 3), dtype=np.uint8)
            for c in policy.contract.cameras
        }
        self.state = rng.normal(size=(slots, length, policy.contract.state_size)).astype(np.float32)

    def observation(self, slots: Sequence[int], now: Mapping[int, int]) -> Observation:
        """Of these slots, each at its own step."""
        at = [now[slot] % self.length for slot in slots]
        return Observation(
            slots=slots,
            images={name: image[slots, at] for name, image in self.images.items()},
            state=self.state[slots, at],
            instruction=[f"task {slot % 3}" for slot in slots],
        )

    def full(self, slot: int, first: int, now: int) -> Plan:
        """`TrainablePolicy.plan` of the window that ends now, of a history that began at `first`."""
        steps = list(range(max(first, now - self.policy.config.history + 1), now + 1))
        exists = torch.arange(self.policy.config.history)[None] < len(steps)
        at = [step % self.length for step in steps] + [0] * (self.policy.config.history - len(steps))
        return self.policy.plan(
            {name: torch.from_numpy(image[slot, at][None]) for name, image in self.images.items()},
            torch.from_numpy(self.state[slot, at][None]), exists, exists, [f"task {slot % 3}"],
        )  # fmt: skip


def largest_error(policy: PublishedGR1, actor: StreamingActor, slots: int, steps: int, check_every: int = 1) -> float:
    """Of streams in different phases with resets between, relative to the largest action; grippers must be equal."""
    streams, rng = Streams(policy, slots, 40), np.random.default_rng(1)
    now, first, seen = dict.fromkeys(range(slots), 0), dict.fromkeys(range(slots), 0), set()
    errors, largest = [0.0], 0.0
    for step in range(steps):
        asked = sorted(int(s) for s in rng.permutation(slots)[: max(1, slots - step % 3)])
        if slots > 1 and step % 4 == 3:
            gone = int(rng.integers(slots))
            actor.reset([gone])
            first[gone] = now[gone]
        plan = actor.plan(streams.observation(asked, now))
        for row, slot in enumerate(asked):
            seen.add(min(now[slot] - first[slot], policy.config.history))
            if (step + row) % check_every == 0:
                expected = streams.full(slot, first[slot], now[slot]).actions[0]
                largest = max(largest, float(np.abs(expected).max()))
                errors.append(float(np.abs(plan.actions[row, :, :-1] - expected[:, :-1]).max()))
                np.testing.assert_array_equal(plan.actions[row, :, -1], expected[:, -1])
            now[slot] += 1
    assert seen == set(range(policy.config.history + 1))  # filling, just full, and sliding
    return max(errors) / largest


@pytest.mark.parametrize(
    ("slots", "options"),
    [(1, {}), (8, {}), (1, {"batch_size": 1}), (8, {"batch_size": 4}), (8, {"graphs": True})],
    ids=["one", "eight", "one, fixed", "eight, fixed", "eight, static buffers"],
)
def test_streaming_equals_the_full_pass_over_25_steps(slots: int, options: dict[str, Any]) -> None:
    policy = make()
    error = largest_error(policy, StreamingActor(policy, **options), slots, 25)
    assert error < TOLERANCE


def test_rows_of_a_fixed_batch_do_not_depend_on_each_other() -> None:
    policy = make()
    streams = Streams(policy, 3, 8)
    alone, together = StreamingActor(policy, batch_size=4), StreamingActor(policy, batch_size=4)
    for step in range(8):
        now = dict.fromkeys(range(3), step)
        if step == 4:
            together.reset([1, 2])
        first = alone.plan(streams.observation([0], now)).actions[0]
        np.testing.assert_array_equal(together.plan(streams.observation([0, 1, 2], now)).actions[0], first)


def test_stages_of_a_step_are_recorded_only_while_somebody_listens() -> None:
    policy = make()
    actor, streams = StreamingActor(policy), Streams(policy, 1, 4)
    with listen() as stages:
        actor.plan(streams.observation([0], {0: 0}), foresight=True)
    wanted = {"upload", "language", "resize", "vision", "resampler", "embed", "trunk", "head", "foresight", "download"}
    assert set(stages.seconds) == wanted
    counts = {name: len(times) for name, times in stages.seconds.items()}
    actor.plan(streams.observation([0], {0: 1}))
    assert counts == {name: len(times) for name, times in stages.seconds.items()}


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("slots", "steps", "check_every"), [(1, 25, 4), (8, 25, 16)])
def test_streaming_equals_the_full_pass_at_full_size(slots: int, steps: int, check_every: int) -> None:
    policy = shaken(PublishedGR1(PublishedGR1Config(towers="random"), calvin_contract(), {}))
    error = largest_error(policy, StreamingActor(policy), slots, steps, check_every)
    print(f"{slots} slots: largest error {error:.1e} of the largest action")
    assert error < TOLERANCE


@pytest.mark.gpu
@pytest.mark.parametrize("slots", [1, 8])
@pytest.mark.parametrize("options", [{}, {"graphs": True}, {"compiled": True}], ids=["plain", "graphs", "compiled"])
def test_a_gpu_computes_the_same(slots: int, options: dict[str, Any]) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    policy = make()
    error = largest_error(make().to("cpu"), StreamingActor(policy, device="cuda", **options), slots, 25)
    assert error < 10 * TOLERANCE
