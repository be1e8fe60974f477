"""What requests mean: checked field by field, each client's slots kept apart, plans as the actor made them."""

from __future__ import annotations

import importlib.util
import os
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foreact.vla.contract import Contract
from foreact.vla.errors import ConfigError
from foreact.vla.images import resize_frame
from foreact.vla.serving.gr00t_names import PROMPT, from_reply, join_actions, modality_config, to_request
from foreact.vla.serving.requests import BadRequest, check_instruction, read_request
from foreact.vla.serving.service import PolicyService, TooManyClients

_SPEC = importlib.util.spec_from_file_location("serving_actor", Path(__file__).with_name("serving_actor.py"))
assert _SPEC is not None and _SPEC.loader is not None
peer = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(peer)
CONTRACT: Contract = peer.CONTRACT


def _request(**changes: Any) -> dict[str, Any]:
    found = {
        "image/front": np.full((8, 12, 3), 10, np.uint8),
        "image/wrist": np.full((6, 6, 3), 20, np.uint8),
        "state": np.array([1.0, 2.0, 3.0], np.float32),
        "prompt": "tidy up",
    }
    found |= {key.replace("__", "/"): value for key, value in changes.items()}
    return {key: value for key, value in found.items() if value is not None}


def _service(**options: Any) -> PolicyService:
    service = PolicyService(peer.TellingActor(), **options)
    service.warm_up(3)
    service.join("me")
    return service


def _ask(service: PolicyService, message: Any, client: str = "me") -> dict[str, Any]:
    return service.submit(client, message).result(timeout=10)


def _steps(reply: dict[str, Any]) -> int:
    return int(reply["actions"][0, 0])


def test_a_plan_is_what_the_actor_made_of_the_request() -> None:
    service = _service()
    reply = _ask(service, _request(sequence=5, step=9, instruction_id=2))
    assert reply["actions"].dtype == np.float32 and reply["actions"].shape == (4, 6)
    np.testing.assert_array_equal(reply["actions"][0], [1, 10, 20, 1, 2, 3])
    assert (reply["sequence"], reply["step"], reply["instruction_id"]) == (5, 9, 2)
    assert reply["server_timing"]["infer_ms"] > 0 and "foresight/front" not in reply
    reply = _ask(service, _request(foresight=True))
    np.testing.assert_array_equal(reply["foresight/front"], np.full((8, 12, 3), 245, np.uint8))
    assert reply["foresight_steps"] == 7 and _steps(reply) == 2


def test_the_metadata_says_all_that_a_client_needs() -> None:
    service = _service(about={"checkpoint": "c0ffee"})
    told = service.metadata
    assert told["server"] == "foreact" and told["checkpoint"] == "c0ffee" and told["robot"] is False
    assert Contract.from_yaml(told["contract"]) == CONTRACT and told["contract_hash"] == CONTRACT.hash
    assert (told["execute_steps"], told["chunk"], told["foresight_steps"], told["looks_back"]) == (2, 4, 7, [1])
    assert len(told["warmup_ms"]) == 3 and 0 < told["latency_ms"]["p50"] <= told["latency_ms"]["p99"]


@pytest.mark.fault("B14", n=1, event="the first inferences are ten times slower; they are not counted")
def test_cold_inferences_are_not_counted() -> None:
    actor = peer.TellingActor()
    calls = iter(range(1000))

    class Cold(peer.TellingActor):
        def plan(self, observation, *, foresight=False):
            self.slow_s = 0.05 if next(calls) < 4 else 0.005
            return super().plan(observation, foresight=foresight)

    service = PolicyService(Cold())
    took = service.warm_up(20)
    assert len(took) == 20 and max(took) < 0.045 and service.metadata["latency_ms"]["p99"] < 45
    assert actor.steps == {}


def test_clients_and_slots_do_not_see_each_others_past() -> None:
    service = _service()
    service.join("other")
    assert [_steps(_ask(service, _request())) for _ in range(3)] == [1, 2, 3]
    assert _steps(_ask(service, _request(), "other")) == 1
    assert _steps(_ask(service, _request(slot=7))) == 1
    assert _steps(_ask(service, _request())) == 4
    # A new instruction begins without a past, the same one again does not.
    assert _steps(_ask(service, _request(prompt="go home"))) == 1
    assert _steps(_ask(service, _request(prompt="go home"))) == 2
    # A reset of one slot, then of all.
    assert _ask(service, {"kind": "reset", "slot": [7], "sequence": 3}) == {"sequence": 3, "reset": True}
    assert _steps(_ask(service, _request(slot=7))) == 1 and _steps(_ask(service, _request(prompt="go home"))) == 3
    _ask(service, {"kind": "reset"})
    assert _steps(_ask(service, _request(slot=7))) == 1 and _steps(_ask(service, _request(prompt="go home"))) == 1
    assert _steps(_ask(service, _request(), "other")) == 2
    # Whoever leaves is forgotten, and whoever comes is new.
    service.leave("me")
    service.join("me")
    assert _steps(_ask(service, _request())) == 1
    service.leave("me")
    service.leave("other")
    service.join("last")
    _ask(service, {"kind": "reset"}, "last")
    assert service.actor.steps == {}  # type: ignore[attr-defined]


def test_several_slots_in_one_request() -> None:
    service = _service()
    images = {"image/front": np.zeros((2, 8, 12, 3), np.uint8), "image/wrist": np.zeros((2, 6, 6, 3), np.uint8)}
    state = np.arange(6, dtype=np.float32).reshape(2, 3)
    both = {"slot": [3, 4], **images, "state": state, "prompt": ["a", "b"]}
    reply = _ask(service, {**both, "foresight": True})
    assert reply["actions"].shape == (2, 4, 6) and reply["foresight/wrist"].shape == (2, 6, 6, 3)
    np.testing.assert_array_equal(reply["actions"][:, 0, 3:], state)
    # Steps that no plan looks at come without pictures, and count.
    noted = _ask(service, {"kind": "observe", "slot": [4], "state": state[1:], "prompt": ["b"]})
    assert set(noted) == {"server_timing"}
    assert list(_ask(service, both)["actions"][:, 0, 0]) == [2, 3]


def test_names_and_shapes_of_openpi_and_of_others_are_understood() -> None:
    service = _service(keys={"image/wrist": "cam_hand", "state/arm": "joints"})
    front = np.random.default_rng(0).integers(256, size=(16, 24, 3), dtype=np.uint8)
    reply = _ask(
        service,
        {
            "observation/image": np.moveaxis(front, -1, 0),  # channels first
            "cam_hand": np.full((6, 6, 3), 0.5, np.float32),
            "joints": [1, 2],
            "state/hand": 3.0,
            "prompt": "tidy up",
            "unknown": "ignored",
        },
    )
    expected = [1, resize_frame(front, 8, 12).mean(), 127, 1, 2, 3]
    np.testing.assert_allclose(reply["actions"][0], np.array(expected, np.float32), rtol=1e-6)
    for keys, words in (({"image/front2": "x"}, "image/front"), ({"state": "x", "prompt": "x"}, "two keys")):
        with pytest.raises(ConfigError, match=words):
            PolicyService(peer.TellingActor(), keys=keys)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "dance"}, "known: plan"),
        ({"image__front": None}, "no 'image/front'"),
        ({"image__front": "picture"}, "found str"),
        ({"image__front": np.zeros((8, 12), np.uint8)}, r"\(8, 12\)"),
        ({"image__front": np.zeros((8, 12, 4), np.uint8)}, "3 colours"),
        ({"image__front": np.zeros((0, 12, 3), np.uint8)}, "pixels"),
        ({"image__front": np.zeros((1, 5000, 3), np.uint8)}, "4096 pixels"),
        ({"image__front": np.zeros((8, 12, 3), np.int16)}, "uint8"),
        ({"image__front": np.full((8, 12, 3), 2.0)}, "from 0 to 1"),
        ({"image__front": np.full((8, 12, 3), np.nan)}, "from 0 to 1"),
        ({"state": None}, r"arm \(2\), hand \(1\)"),
        ({"state": np.zeros(4)}, r"\(3,\)"),
        ({"state": np.array([1, 2, np.inf])}, "finite"),
        ({"state": np.array([1, 2, 1e300])}, "finite"),
        ({"state": np.array([True] * 3)}, "numbers"),
        ({"state": ["a", "b", "c"]}, "numbers"),
        ({"state": [[1], [2, 3]]}, "numbers"),
        ({"state": [10**400, 1, 2]}, "numbers"),
        ({"prompt": None}, "NoneType"),
        ({"prompt": ["tidy up"]}, "list"),
        ({"prompt": memoryview(b"tidy up")}, "memoryview"),
        ({"slot": -1}, "slot"),
        ({"slot": True}, "slot"),
        ({"slot": []}, "slot"),
        ({"slot": list(range(65))}, "1 to 64"),
        ({"slot": [[1]]}, "slot"),
        ({"slot": [1, 1]}, "twice"),
        ({"slot": 2**60}, "slot"),
        ({"foresight": "yes"}, "true or false"),
        ({"step": 1.5}, "step"),
        ({"sequence": None, "instruction_id": -1}, "instruction_id"),
        ({"anchor": [1.0]}, "anchor"),
        ({"anchor": np.zeros((2, 2))}, "anchor"),
        ({"anchor": np.array([np.nan])}, "anchor"),
        ({"anchor": np.zeros(33)}, "anchor"),
        ({"anchor": np.zeros(6), "gripper_command": np.nan}, "gripper_command"),
        ({"anchor": np.zeros(6)}, "without a robot"),
    ],
)
def test_requests_that_are_none_are_refused(changes: dict[str, Any], words: str) -> None:
    service = _service()
    with pytest.raises(BadRequest, match=words):
        _ask(service, _request(**changes))
    assert _steps(_ask(service, _request())) <= 2  # and nothing is broken by it


@pytest.mark.parametrize("message", [None, 5, "text", [1], memoryview(b"x")])
def test_what_is_no_map_is_no_request(message: Any) -> None:
    with pytest.raises(BadRequest, match="map"):
        read_request(message, CONTRACT, {})


@pytest.mark.fault("S18", n=8, event="instructions that are too long, of another type, or look like commands")
def test_instructions_are_short_texts_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for bad in ("x" * 513, "ä" * 257, "\ud800", 5, b"go", ["go"]):
        with pytest.raises(BadRequest, match="instruction"):
            check_instruction(bad)
    monkeypatch.chdir(tmp_path)
    service = _service()
    hostile = [
        "$(touch owned)",
        "`touch owned`; touch owned",
        "{0.__class__}%s%n",
        "../../etc/passwd",
        "__import__('os')",
    ]
    for text in ["x" * 512, "ä" * 256, "", *hostile]:
        assert check_instruction(text) == text
        _ask(service, _request(prompt=text))
    said = [text for texts in service.actor.said.values() for text in texts]  # type: ignore[attr-defined]
    assert said == [hostile[-1]] and os.listdir(tmp_path) == []  # passed on as it is, and done nothing else with


def test_a_client_has_so_many_slots_and_a_server_so_many_clients() -> None:
    service = _service(max_clients=2)
    for slot in range(64):
        _ask(service, {"kind": "observe", "slot": slot, "state": np.zeros(3), "prompt": "x"})
    with pytest.raises(BadRequest, match="64 slots"):
        _ask(service, _request(slot=64))
    _ask(service, {"kind": "reset", "slot": [0]})
    _ask(service, _request(slot=64))
    service.join("other")
    assert service.full
    with pytest.raises(TooManyClients, match="2 clients"):
        service.join("third")
    service.leave("other")
    service.join("third")


def test_one_inference_at_a_time_on_one_thread() -> None:
    actor = peer.TellingActor()
    threads: set[int] = set()
    inside = threading.Lock()

    class Watched(peer.TellingActor):
        def plan(self, observation, *, foresight=False):
            assert inside.acquire(blocking=False), "two inferences at once"
            threads.add(threading.get_ident())
            try:
                self.slow_s = 0.005
                return super().plan(observation, foresight=foresight)
            finally:
                inside.release()

    service = PolicyService(Watched())
    service.warm_up(1)
    for number in range(4):
        service.join(number)
    futures: list[Future] = [service.submit(number, _request()) for _ in range(5) for number in range(4)]
    assert [_steps(future.result(timeout=10)) for future in futures] == [n for n in range(1, 6) for _ in range(4)]
    assert len(threads) == 1 and threading.get_ident() not in threads and actor.rows == 0


def test_a_robots_plan_becomes_joint_targets() -> None:
    def to_joints(observation: Any, plan: Any, anchor: Any) -> dict[str, Any]:
        if anchor.gripper_command < 0:
            return {"refused": "the hand is closed"}
        assert observation.slots and plan.actions.shape == (1, 4, 6)
        return {"joint_position": anchor.joint_position + np.arange(4.0)[:, None], "gripper": plan.actions[0, :, 2]}

    service = _service(to_joints=to_joints)
    assert service.metadata["robot"] is True
    reply = _ask(service, _request(anchor=np.arange(6.0), gripper_command=1.0, sequence=8))
    np.testing.assert_array_equal(reply["joint_position"], np.arange(6.0) + np.arange(4.0)[:, None])
    assert reply["joint_position"].dtype == np.float64 and list(reply["gripper"]) == [20] * 4 and reply["sequence"] == 8
    assert _ask(service, _request(anchor=np.arange(6.0), gripper_command=-1.0))["refused"] == "the hand is closed"


def _gr00t(batch: int, *, nested: bool, steps: int = 1) -> dict[str, Any]:
    video = {
        "front": np.full((batch, steps, 8, 12, 3), 10, np.uint8),
        "wrist": np.zeros((batch, steps, 6, 6, 3), np.uint8),
    }
    video["front"][:, :-1] = 99  # of several steps, the last one is looked at
    state = {
        "arm": np.tile(np.array([1.0, 2.0], np.float32), (batch, steps, 1)),
        "hand": np.full((batch, steps, 1), 3.0, np.float32),
    }
    if nested:
        return {"video": video, "state": state, "language": {"task": [["tidy up"]] * batch}}
    flat: dict[str, Any] = {f"video.{name}": value for name, value in video.items()}
    flat |= {f"state.{name}": value for name, value in state.items()}
    return {**flat, PROMPT: ["tidy up"] * batch}


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize(("batch", "steps"), [(1, 1), (3, 1), (2, 3)])
def test_gr00ts_observations_and_actions(nested: bool, batch: int, steps: int) -> None:
    service = _service()
    message, layout = to_request(_gr00t(batch, nested=nested, steps=steps), None)
    reply = _ask(service, message)
    np.testing.assert_array_equal(reply["actions"][:, 0], [[1, 10, 0, 1, 2, 3]] * batch)
    action, info = from_reply(reply, CONTRACT, layout)
    names = ["steps", "seen", "felt"]
    assert set(action) == {name if nested else f"action.{name}" for name in names}
    assert [value.shape for value in action.values()] == [(batch, 4, 1), (batch, 4, 2), (batch, 4, 3)]
    assert all(value.dtype == np.float32 for value in action.values()) and info["action_fields"] == names
    np.testing.assert_array_equal(join_actions(action, names), reply["actions"])


def test_gr00ts_flat_observations_may_lack_the_batch() -> None:
    service = _service()
    one = {
        key: value[0] if isinstance(value, np.ndarray) else value[0] for key, value in _gr00t(1, nested=False).items()
    }
    one["state.hand"] = one["state.hand"][0]  # (D,)
    message, layout = to_request(one, {"slot": 5, "foresight": True, "sequence": 1})
    assert message["slot"] == [5] and not layout.batched
    action, info = from_reply(_ask(service, message), CONTRACT, layout)
    assert [value.shape for value in action.values()] == [(4, 1), (4, 2), (4, 3)]
    assert info["sequence"] == 1 and info["foresight/front"].shape == (1, 8, 12, 3)


@pytest.mark.parametrize(
    ("observation", "words"),
    [
        (None, "observation"),
        ({}, "instruction"),
        ({PROMPT: "x"}, "rows"),
        ({PROMPT: "x", "annotation.other": "y"}, "found 2"),
        ({"video": {}, "state": {}, "language": {}}, "language"),
        ({"video": [], "state": {}, "language": {"task": [["x"]]}}, "video must be"),
        ({PROMPT: 5, "state.arm": np.zeros((1, 1, 2))}, "text or a list"),
        ({PROMPT: "x", "state.arm": [1, 2]}, "found list"),
        ({PROMPT: "x", "state.arm": np.zeros((1, 0, 2))}, "something in them"),
        ({PROMPT: "x", "state.arm": np.zeros((1, 1, 2)), "state.hand": np.zeros((1, 1))}, "axes"),
        ({PROMPT: "x", "state.arm": np.zeros((1, 1, 2)), "state.hand": np.zeros((2, 1, 1))}, "rows"),
        ({PROMPT: "x", "state.arm": np.zeros((1, 1, 1, 2))}, "axes"),
    ],
)
def test_gr00t_observations_that_are_none_are_refused(observation: Any, words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        to_request(observation, None)
    with pytest.raises(BadRequest, match="options"):
        to_request({}, [1])


def test_the_modality_config_names_what_is_wanted() -> None:
    groups = modality_config(CONTRACT, 4)
    found = {
        name: (part["as_json"]["modality_keys"], part["as_json"]["delta_indices"]) for name, part in groups.items()
    }
    assert found == {
        "video": (["front", "wrist"], [0]),
        "state": (["arm", "hand"], [0]),
        "action": (["steps", "seen", "felt"], [0, 1, 2, 3]),
        "language": ([PROMPT], [0]),
    }
    blind = CONTRACT.model_copy(update={"cameras": ()})
    assert "video" not in modality_config(blind, 4)  # GR00T allows no empty list
