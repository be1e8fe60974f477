"""Static buffers, padding, precisions and compilation of the streaming actor; on a CPU as far as that goes."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from foreact.policies.gr1.foreact import ForeAct
from foreact.policies.gr1.foreact_config import ForeActConfig
from foreact.vla.errors import ConfigError
from foreact.vla.policy import Observation
from foreact.vla.runtime import StreamingActor
from foreact.vla.runtime_device import Recorded, Uploader
from foreact.vla.runtime_linear import ActingLinear, can_pack, for_acting
from foreact.vla.runtime_stages import listen, stage
from foreact.vla.training.synthetic import synthetic_contract

CPU = torch.device("cpu")
SIZES: dict[str, Any] = dict(
    history=3, history_stride=1, foresight_steps=4, chunk=2, execute_steps=1, width=32, layers=2, heads=2,
    vision_width=32, vision_heads=2, text_width=16, text_layers=1, text_heads=2, visual_count=2,
    resampler_heads=2, resampler_head_width=8, image_queries=2, decoder_width=16, decoder_layers=1, decoder_heads=2,
)  # fmt: skip


def make() -> ForeAct:
    """A small policy that has nothing faster than itself."""
    torch.manual_seed(0)
    statistics = {"state": {"mean": [0.5, 0.5, 0.0], "std": [0.3, 0.3, 1.0]}}
    return ForeAct(ForeActConfig(**SIZES), synthetic_contract({"front": (16, 16), "hand": (16, 16)}), statistics).eval()


def see(step: int, slots: int = 3) -> Observation:
    """What some robots see at a step."""
    rng = np.random.default_rng(step)
    return Observation(
        slots=range(slots),
        images={name: rng.integers(0, 256, (slots, 16, 16, 3), dtype=np.uint8) for name in ("front", "hand")},
        state=rng.normal(size=(slots, 3)).astype(np.float32),
        instruction=["go"] * slots,
    )


# --- buffers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("staged", [False, True])
def test_uploads_keep_their_values_when_buffers_are_used_again(staged: bool) -> None:
    upload = Uploader(CPU, staged)
    first = upload("front", [np.full((2, 3), value, np.uint8) for value in (1, 2)])
    upload("front", [np.full((2, 3), value, np.uint8) for value in (3, 4)])
    third = upload("front", [np.full((2, 3), 5, np.uint8)])  # fewer rows
    assert first.dtype == torch.uint8 and first.tolist() == [[[1] * 3] * 2, [[2] * 3] * 2]
    assert third.shape == (1, 2, 3) and third.unique().tolist() == [5]


def test_recorded_functions_return_copies_and_keep_buffers_per_shape() -> None:
    seen: list[int] = []

    def double(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        seen.append(x.data_ptr())
        return x * 2, x + y

    recorded = Recorded(double, graphs=False)
    ones = torch.ones(3)
    first, sums = recorded(ones, ones)
    recorded(ones * 5, ones)
    assert first.tolist() == [2.0] * 3 and sums.tolist() == [2.0] * 3
    assert seen[0] == seen[1] != ones.data_ptr()
    assert recorded(torch.ones(2), torch.ones(2))[0].shape == (2,) and len(recorded) == 2


def test_static_buffers_are_padded_to_powers_of_two() -> None:
    actor = StreamingActor(make(), graphs=True)
    assert actor._batches(1) == [[0]]
    assert actor._batches(3) == [[0, 1, 2, 2]]
    assert actor._batches(8) == [list(range(8))]
    assert StreamingActor(make(), graphs=True, batch_size=2)._batches(3) == [[0, 1], [2, 2]]
    for slots in (3, 4, 2, 1, 3):
        actor.plan(see(0, slots))
        actor.reset(range(slots))
    assert isinstance(actor._encode_rows, Recorded) and len(actor._encode_rows) == 3  # 1, 2 and 4 rows


def test_static_buffers_and_padding_change_no_number() -> None:
    plain, static = StreamingActor(make()), StreamingActor(make(), graphs=True)
    plans = []
    for step in range(6):
        plans.append([actor.plan(see(step, 3 - step % 2), foresight=step == 4) for actor in (plain, static)])
    for expected, found in plans:  # compared afterwards: a later step must not have changed an earlier plan
        np.testing.assert_allclose(found.actions, expected.actions, rtol=0, atol=1e-5)
    expected, found = plans[4]
    for name in ("front", "hand"):
        assert np.abs(found.foresight[name].astype(int) - expected.foresight[name]).max() <= 1


# --- precision -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_acts_nearly_alike_and_answers_in_float32(precision: str) -> None:
    exact, near = StreamingActor(make()), StreamingActor(make(), precision=precision)
    expected, found = exact.plan(see(0)).actions, near.plan(see(0)).actions
    for step in range(1, 4):
        expected, found = exact.plan(see(step)).actions, near.plan(see(step)).actions
    assert found.dtype == np.float32
    assert 1e-6 < np.abs(found - expected).max() < 0.05


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ConfigError, match="precision 'float8' is not one to act in; known: bfloat16, float16, float32"):
        StreamingActor(make(), precision="float8")


# --- linear layers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_packed_layers_multiply_as_before(bias: bool) -> None:
    layer = nn.Linear(48, 80, bias=bias)
    packed = ActingLinear(layer.weight, layer.bias)
    assert (packed.packed is not None) == can_pack(layer.weight)
    for shape in ((1, 48), (7, 48), (2, 5, 48)):
        x = torch.randn(*shape)
        exact = (x.double() @ layer.weight.double().T + (layer.bias.double() if bias else 0.0)).float()
        torch.testing.assert_close(packed(x), exact, rtol=0, atol=1e-5)
    assert packed.weight.data_ptr() == layer.weight.data_ptr()


@torch.no_grad()
def test_a_copy_for_acting_leaves_the_module_alone() -> None:
    class Transposed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.randn(4, 6)), nn.Parameter(torch.randn(6))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.weight + self.bias

    module = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), Transposed()).train()
    x = torch.randn(3, 4)
    twin = for_acting(module, transposed=(Transposed,))
    torch.testing.assert_close(twin(x), module(x), rtol=0, atol=1e-5)
    kinds = [type(part).__name__ for part in twin.children()]
    assert kinds == ["ActingLinear", "LayerNorm", "ActingLinear"]
    assert [type(part).__name__ for part in module.children()] == ["Linear", "LayerNorm", "Transposed"]
    assert module.training and not twin.training
    assert twin.get_parameter("1.weight") is module.get_parameter("1.weight")


# --- stages ----------------------------------------------------------------------------------------------------------


def test_stages_inside_each_other_and_listeners_one_after_another() -> None:
    with stage("unheard"), listen() as outer, stage("a"):
        with stage("b"):
            pass
        with listen() as inner, stage("c"):
            pass
    assert set(outer.seconds) == {"a", "b"} and set(inner.seconds) == {"c"}
    assert outer.seconds["a"][0] >= outer.seconds["b"][0] >= 0.0


# --- compilation and GPUs --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_compiled_policies_act_alike() -> None:
    plain, compiled = StreamingActor(make()), StreamingActor(make(), compiled=True)
    for step in range(4):
        expected, found = plain.plan(see(step)).actions, compiled.plan(see(step)).actions
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


@pytest.mark.gpu
def test_pinned_uploads_arrive_in_order() -> None:
    upload = Uploader(torch.device("cuda"))
    arrived = [upload("front", [np.full((256, 256, 3), value, np.uint8)] * 4) for value in range(50)]
    assert [int(tensor.float().mean()) for tensor in arrived] == list(range(50))


@pytest.mark.gpu
@pytest.mark.parametrize("options", [{"graphs": True}, {"precision": "bfloat16"}, {"compiled": True}], ids=str)
def test_a_gpu_acts_like_a_cpu(options: dict[str, Any]) -> None:
    plain, there = StreamingActor(make()), StreamingActor(make(), device="cuda", **options)
    for step in range(6):
        slots = 3 - step % 2
        expected, found = plain.plan(see(step, slots)).actions, there.plan(see(step, slots)).actions
        np.testing.assert_allclose(found, expected, rtol=0, atol=0.05 if "precision" in options else 1e-3)
