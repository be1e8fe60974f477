"""The streaming actor against the full forward pass, with robots in different phases."""

from typing import Any

import numpy as np
import pytest
import torch

from foreact.policies.gr1.foreact import ForeAct
from foreact.policies.gr1.foreact_config import ForeActConfig
from foreact.vla.errors import ConfigError
from foreact.vla.policy import Actor, Observation, Plan
from foreact.vla.runtime import BadObservation, StreamingActor
from foreact.vla.training.synthetic import synthetic_contract

SIZES: dict[str, Any] = dict(
    history=3, history_stride=2, foresight_steps=4, chunk=4, execute_steps=3, width=32, layers=2, heads=2,
    vision_width=32, vision_heads=2, text_width=16, text_layers=1, text_heads=2, visual_count=2, resampler_heads=2,
    resampler_head_width=8, image_queries=2, decoder_width=16, decoder_layers=1, decoder_heads=2,
)  # fmt: skip
CAMERAS = ("front", "hand")


@pytest.fixture
def policy() -> ForeAct:
    torch.manual_seed(0)
    statistics = {"state": {"mean": [0.5, 0.5, 0.0], "std": [0.3, 0.3, 1.0]}}
    policy = ForeAct(ForeActConfig(**SIZES), synthetic_contract(dict.fromkeys(CAMERAS, (16, 16))), statistics)
    with torch.no_grad():  # so that histories and sentences really change the actions
        for parameter in policy.blocks.parameters():
            parameter.mul_(3.0)
    return policy


def _stream(slot: int, length: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What one robot sees: frames and states that name their own slot and step."""
    rng = np.random.default_rng(slot)
    images = {name: rng.integers(0, 255, (length, 16, 16, 3), dtype=np.uint8) for name in CAMERAS}
    return images, rng.normal(size=(length, 3)).astype(np.float32)


def _full(policy: ForeAct, images: dict[str, np.ndarray], state: np.ndarray, now: int, sentence: str) -> Plan:
    """The plan at step `now` from the whole window, padded on the right, as in training."""
    config = policy.config
    steps = [
        t for t in range(now - (config.history - 1) * config.history_stride, now + 1, config.history_stride) if t >= 0
    ]
    exists = torch.arange(config.history)[None] < len(steps)
    padded = steps + [0] * (config.history - len(steps))
    return policy.plan(
        {name: torch.from_numpy(frames[padded][None]) for name, frames in images.items()},
        torch.from_numpy(state[padded][None]), exists, exists, [sentence], foresight=True,
    )  # fmt: skip


def _observation(streams: dict, clocks: dict[int, int], sentences: dict[int, str], slots: list[int]) -> Observation:
    return Observation(
        slots=slots,
        images={name: np.stack([streams[s][0][name][clocks[s]] for s in slots]) for name in CAMERAS},
        state=np.stack([streams[s][1][clocks[s]] for s in slots]),
        instruction=[sentences[s] for s in slots],
    )


def test_streaming_equals_the_full_forward_pass_in_every_phase(policy: ForeAct) -> None:
    actor = StreamingActor(policy)
    assert isinstance(actor, Actor)
    rng = np.random.default_rng(0)
    streams = {slot: _stream(slot, 40) for slot in range(4)}
    clocks, sentences = dict.fromkeys(range(4), 0), {s: f"do thing {s % 2}" for s in range(4)}
    compared = 0
    for _ in range(25):
        slots = [int(s) for s in rng.permutation(4)[: rng.integers(1, 5)]]
        observation = _observation(streams, clocks, sentences, slots)
        if rng.random() < 0.4:
            actor.observe(observation)
        else:
            plan = actor.plan(observation, foresight=True)
            assert plan.foresight is not None
            for row, slot in enumerate(slots):
                expected = _full(policy, *streams[slot], clocks[slot], sentences[slot])
                # Matrix products round differently for another number of rows; actions are of size 1.
                np.testing.assert_allclose(plan.actions[row], expected.actions[0], rtol=0, atol=5e-5)
                for name in CAMERAS:
                    assert expected.foresight is not None
                    painted = plan.foresight[name][row].astype(int) - expected.foresight[name][0]
                    assert np.abs(painted).max() <= 1  # a value next to one half may be rounded to either side
                compared += 1
        for slot in slots:
            clocks[slot] += 1
    assert compared > 20
    assert min(clocks.values()) > policy.config.history * policy.config.history_stride


def test_the_history_and_the_sentence_matter(policy: ForeAct) -> None:
    images, state = _stream(0, 10)
    alone = _full(policy, {n: f[9:] for n, f in images.items()}, state[9:], 0, "a").actions
    assert np.abs(_full(policy, images, state, 9, "a").actions - alone).max() > 1e-3
    assert (
        np.abs(_full(policy, images, state, 9, "b").actions - _full(policy, images, state, 9, "a").actions).max() > 1e-4
    )


def test_after_reset_only_the_new_frame_counts(policy: ForeAct) -> None:
    actor = StreamingActor(policy)
    streams, sentences = {s: _stream(s, 12) for s in range(2)}, {0: "a", 1: "a"}
    for t in range(8):
        actor.observe(_observation(streams, {0: t, 1: t}, sentences, [0, 1]))
    actor.reset([0])
    plan = actor.plan(_observation(streams, {0: 8, 1: 8}, sentences, [0, 1]))
    later = ({n: f[8:] for n, f in streams[0][0].items()}, streams[0][1][8:])
    np.testing.assert_allclose(plan.actions[0], _full(policy, *later, 0, "a").actions[0], atol=1e-5)
    np.testing.assert_allclose(plan.actions[1], _full(policy, *streams[1], 8, "a").actions[0], atol=1e-5)


def test_a_new_instruction_forgets_the_old_history(policy: ForeAct) -> None:
    actor = StreamingActor(policy)
    streams = {0: _stream(0, 12)}
    for t in range(6):
        actor.observe(_observation(streams, {0: t}, {0: "a"}, [0]))
    plan = actor.plan(_observation(streams, {0: 6}, {0: "b"}, [0]))
    later = ({n: f[6:] for n, f in streams[0][0].items()}, streams[0][1][6:])
    np.testing.assert_allclose(plan.actions[0], _full(policy, *later, 0, "b").actions[0], atol=1e-5)


def test_a_frame_is_encoded_at_most_once_and_a_sentence_once(policy: ForeAct, monkeypatch: pytest.MonkeyPatch) -> None:
    frames, sentences = [0], [0]
    encode_frames, encode_text = policy.encode_frames, policy.encode_text

    def count_frames(images, state, known):
        frames[0] += len(known)
        return encode_frames(images, state, known)

    def count_text(texts):
        sentences[0] += len(texts)
        return encode_text(texts)

    monkeypatch.setattr(policy, "encode_frames", count_frames)
    monkeypatch.setattr(policy, "encode_text", count_text)
    actor, streams = StreamingActor(policy), {s: _stream(s, 20) for s in range(3)}
    for t in range(12):
        actor.plan(_observation(streams, dict.fromkeys(range(3), t), dict.fromkeys(range(3), "same"), [0, 1, 2]))
    assert frames[0] == 3 * 12
    assert sentences[0] == 1
    for t in range(12, 16):
        actor.observe(_observation(streams, dict.fromkeys(range(3), t), dict.fromkeys(range(3), "same"), [0, 1, 2]))
    assert frames[0] == 3 * 12


def test_memory_does_not_grow(policy: ForeAct) -> None:
    actor, streams = StreamingActor(policy), {0: _stream(0, 40)}
    for t in range(40):
        actor.observe(_observation(streams, {0: t}, {0: "a"}, [0]))
    assert len(actor._slots[0].frames) == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": {"front": np.zeros((1, 16, 16, 3), np.uint8)}}, "camera 'hand': expected .* found nothing"),
        ({"images": {n: np.zeros((1, 16, 16, 3), np.float32) for n in CAMERAS}}, "camera 'front': expected uint8"),
        (
            {"images": {n: np.zeros((1, 8, 16, 3), np.uint8) for n in CAMERAS}},
            r"\(1, 16, 16, 3\), found uint8 \(1, 8, 16, 3\)",
        ),
        ({"state": np.zeros((1, 4), np.float32)}, r"expected \(1, 3\) finite numbers, found shape \(1, 4\)"),
        ({"state": np.array([[0.0, np.nan, 0.0]], np.float32)}, "finite"),
        ({"instruction": []}, "1 different slots, one instruction each; found"),
    ],
)
def test_a_bad_observation_is_refused_before_anything_is_remembered(
    policy: ForeAct, change: dict, message: str
) -> None:
    actor = StreamingActor(policy)
    good = dict(
        slots=[0], images={n: np.zeros((1, 16, 16, 3), np.uint8) for n in CAMERAS}, state=np.zeros((1, 3), np.float32),
        instruction=["a"],
    )  # fmt: skip
    with pytest.raises(BadObservation, match=message):
        actor.plan(Observation(**{**good, **change}))
    assert not actor._slots


def test_impossible_settings_are_refused(policy: ForeAct) -> None:
    with pytest.raises(ConfigError, match="execute_steps must be 1 to 4"):
        StreamingActor(policy, execute_steps=5)
    with pytest.raises(ConfigError, match="device 'gpu' is not one"):
        StreamingActor(policy, device="gpu")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="device 'cuda' is not there"):
            StreamingActor(policy, device="cuda")
    blind = ForeAct(policy.config, policy.contract.model_copy(update={"action": ()}), policy.statistics)
    with pytest.raises(ConfigError, match="video alone"):
        StreamingActor(blind)
