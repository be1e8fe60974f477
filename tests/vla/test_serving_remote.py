"""An actor behind a server is the actor itself: the same plans, the same results of an evaluation."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import zmq
from websockets.sync.server import serve

from foreact.commands.main import app, run
from foreact.vla.contract import Contract
from foreact.vla.errors import ConfigError
from foreact.vla.images import resize_frame
from foreact.vla.policy import Actor, Observation
from foreact.vla.serving import remote as remote_module
from foreact.vla.serving.background import in_background
from foreact.vla.serving.client import ClientSettings, PolicyServerError, ServerRefused, connect
from foreact.vla.serving.foreign import Foreign, ForeignActor
from foreact.vla.serving.gr00t_server import Gr00tServer
from foreact.vla.serving.openpi_server import OpenPiServer
from foreact.vla.serving.remote import RemoteActor, connect_actor
from foreact.vla.serving.service import PolicyService

_SPEC = importlib.util.spec_from_file_location("serving_actor", Path(__file__).with_name("serving_actor.py"))
assert _SPEC is not None and _SPEC.loader is not None
peer = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(peer)
CONTRACT: Contract = peer.CONTRACT
CHECKPOINT = Path(__file__).parents[2] / "checkpoints" / "foreact_desk"
STRICT = ClientSettings(reconnect=False)


def _observation(slots: tuple[int, ...], rng: np.random.Generator, *, blind: bool = False) -> Observation:
    sizes = {c.name: (len(slots), c.height, c.width, 3) for c in CONTRACT.cameras}
    return Observation(
        slots=slots,
        images={} if blind else {name: rng.integers(256, size=size, dtype=np.uint8) for name, size in sizes.items()},
        state=rng.random((len(slots), 3)).astype(np.float32),
        instruction=tuple(f"task {slot}" for slot in slots),
    )


@pytest.mark.parametrize("dialect", [OpenPiServer, Gr00tServer])
def test_a_remote_actor_plans_as_the_actor_itself(dialect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_module, "_ROOM", 3_000)  # so that several slots need several messages
    local, rng = peer.TellingActor(), np.random.default_rng(0)
    service = PolicyService(peer.TellingActor())
    service.warm_up(1)
    with in_background(dialect(service, port=0)) as (url,):
        actor = connect_actor(url, CONTRACT, STRICT)
        assert isinstance(actor, RemoteActor) and isinstance(actor, Actor)
        assert (actor.contract, actor.execute_steps, actor.looks_back) == (CONTRACT, 2, (1,))
        for step in range(12):
            slots = ((0, 1, 2, 3, 4, 5, 6), (2,), (5, 1))[step % 3]
            observation = _observation(slots, rng, blind=step % 4 == 1)
            if step % 4 == 1:
                local.observe(observation)
                actor.observe(observation)
                continue
            if step == 6:
                local.reset([2, 5])
                actor.reset([2, 5])
            expected, found = (a.plan(observation, foresight=step % 2 == 0) for a in (local, actor))
            np.testing.assert_array_equal(found.actions, expected.actions)
            assert found.actions.dtype == np.float32 and found.foresight_steps == expected.foresight_steps
            assert (found.foresight is None) == (expected.foresight is None)
            for name, frames in (expected.foresight or {}).items():
                assert found.foresight is not None
                np.testing.assert_array_equal(found.foresight[name], frames)
        actor.reset([])
        assert connect_and_close(url, 3) == 3
        with pytest.raises(ConfigError, match="1 to 4"):
            connect_and_close(url, 5)
        actor.close()


def connect_and_close(url: str, execute_steps: int) -> int:
    actor = connect_actor(url, CONTRACT, STRICT, Foreign(execute_steps=execute_steps))
    actor.close()
    return actor.execute_steps


# --- servers of others, written from their documented wire


@contextmanager
def _openpi_peer(seen: list[dict[str, Any]], actions: np.ndarray) -> Iterator[str]:
    """As openpi's `websocket_policy_server.py` speaks."""

    def array(value: np.ndarray) -> dict[bytes, Any]:
        return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}

    def unpack(found: Any) -> Any:
        if b"__ndarray__" in found:
            return np.ndarray(buffer=found[b"data"], dtype=np.dtype(found[b"dtype"]), shape=found[b"shape"])
        return found

    def talk(connection: Any) -> None:
        connection.send(msgpack.packb({"name": "trivial"}))
        for message in connection:
            request = msgpack.unpackb(message, object_hook=unpack)
            if request["prompt"] == "fail":
                connection.send("Traceback (most recent call last):\n  File x\nValueError: no such prompt\n")
                connection.close(1011)
                return
            seen.append(request)
            connection.send(msgpack.packb({"actions": array(actions), "server_timing": {"infer_ms": 1.0}}))

    with serve(talk, "127.0.0.1", 0, compression=None, max_size=None) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        finally:
            server.shutdown()
            thread.join()


def test_an_openpi_server_is_asked_in_its_own_names() -> None:
    seen: list[dict[str, Any]] = []
    actions = np.arange(12, dtype=np.float32).reshape(2, 6)
    observation = _observation((4, 9), np.random.default_rng(1))
    with _openpi_peer(seen, actions) as url:
        actor = connect_actor(url, CONTRACT, STRICT, Foreign(image_size=16))
        assert isinstance(actor, ForeignActor) and isinstance(actor, Actor) and actor.looks_back == ()
        plan = actor.plan(observation, foresight=True)
        np.testing.assert_array_equal(plan.actions, np.stack([actions] * 2))
        assert actor.execute_steps == 2 and plan.foresight is None
        assert [request["prompt"] for request in seen] == ["task 4", "task 9"]
        assert set(seen[0]) == {"observation/image", "observation/wrist_image", "observation/state", "prompt"}
        for row, request in enumerate(seen):
            np.testing.assert_array_equal(
                request["observation/image"], resize_frame(observation.images["front"][row], 16, 16)
            )
            np.testing.assert_array_equal(request["observation/state"], observation.state[row])
        actor.close()

        keys = {"image/front": "cam", "state/arm": "joints", "state/hand": "grip", "prompt": "prompt"}
        actor = connect_actor(url, CONTRACT, STRICT, Foreign(keys=keys, execute_steps=1))
        actor.plan(observation)
        assert set(seen[-1]) == {"cam", "observation/wrist_image", "joints", "grip", "prompt"}
        assert seen[-1]["joints"].shape == (2,) and seen[-1]["cam"].shape == (8, 12, 3) and actor.execute_steps == 1
        failing = Observation(**{**vars(observation), "instruction": ("fail", "fail")})
        with pytest.raises(ServerRefused, match=r"refuses: ValueError: no such prompt$"):
            actor.plan(failing)
        actor.close()
        with pytest.raises(ConfigError, match="image/front"):
            connect_actor(url, CONTRACT, STRICT, Foreign(keys={"image/fron": "x"}))


@contextmanager
def _gr00t_peer(seen: list[dict[str, Any]], prefix: str) -> Iterator[str]:
    """As GR00T's `server_client.py` speaks."""
    import io

    def encode(value: Any) -> Any:
        file = io.BytesIO()
        np.save(file, value, allow_pickle=False)
        return {"__ndarray_class__": True, "as_npy": file.getvalue()}

    def decode(found: Any) -> Any:
        return np.load(io.BytesIO(found["as_npy"]), allow_pickle=False) if "__ndarray_class__" in found else found

    def config(keys: list[str], steps: list[int]) -> dict[str, Any]:
        return {"__ModalityConfig_class__": True, "as_json": {"delta_indices": steps, "modality_keys": keys}}

    context = zmq.Context()
    answerer = context.socket(zmq.REP)
    port = answerer.bind_to_random_port("tcp://127.0.0.1")

    def answer(request: dict[str, Any]) -> Any:
        if request["endpoint"] == "ping":
            return {"status": "ok", "message": "Server is running"}
        if request["endpoint"] == "get_modality_config":
            return {"video": config(["front", "wrist"], [-5, 0]), "language": config(["task"], [0])}
        seen.append(request["data"]["observation"])
        n = len(next(iter(request["data"]["observation"].values() if prefix else seen[-1]["video"].values())))
        sizes = {"steps": 1, "seen": 2, "felt": 3}
        return [{prefix + k: np.full((n, 5, d), d, np.float32) for k, d in sizes.items()}, {}]

    def work() -> None:
        while (message := answerer.recv()) != b"end":
            reply = msgpack.packb(answer(msgpack.unpackb(message, object_hook=decode)), default=encode)
            assert reply is not None
            answerer.send(reply)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield f"zmq+tcp://127.0.0.1:{port}"
    finally:
        ender = context.socket(zmq.REQ)
        ender.connect(f"tcp://127.0.0.1:{port}")
        ender.send(b"end")
        thread.join()
        ender.close(0)
        answerer.close(0)
        context.term()


@pytest.mark.parametrize("flat", [False, True])
def test_a_gr00t_server_is_asked_in_its_own_names(flat: bool) -> None:
    seen: list[dict[str, Any]] = []
    observation = _observation((4, 9), np.random.default_rng(1))
    with _gr00t_peer(seen, "action." if flat else "") as url:
        actor = connect_actor(url, CONTRACT, STRICT, Foreign(layout="flat" if flat else "nested"))
        plan = actor.plan(observation)
        np.testing.assert_array_equal(plan.actions, np.tile(np.array([1, 2, 2, 3, 3, 3], np.float32), (2, 5, 1)))
        assert actor.execute_steps == 5
        (asked,) = seen
        if flat:
            assert asked["task"] == ["task 4", "task 9"]
            front, arm = asked["video.front"], asked["state.arm"]
        else:
            assert asked["language"] == {"task": [["task 4"], ["task 9"]]}
            front, arm = asked["video"]["front"], asked["state"]["arm"]
        # The present, as often as the policy wants steps of time.
        np.testing.assert_array_equal(front, np.repeat(observation.images["front"][:, None], 2, axis=1))
        np.testing.assert_array_equal(arm, observation.state[:, None, :2])
        actor.close()


def test_replies_that_are_no_plans_are_named() -> None:
    observation = _observation((0,), np.random.default_rng(1))
    for actions in (np.zeros((2, 3, 6), np.float32), np.zeros((0, 6), np.float32), np.zeros((2, 6), np.int32)):
        with _openpi_peer([], actions) as url:
            actor = connect_actor(url, CONTRACT, STRICT)
            with pytest.raises(PolicyServerError, match="no 'actions' with 2 axes"):
                actor.plan(observation)
            actor.close()


# --- the commands


@contextmanager
def _served(*words: str) -> Iterator[dict[str, Any]]:
    """`foreact serve` in a process of its own: what it says of itself when it is ready."""
    process = subprocess.Popen(
        [sys.executable, "-m", "foreact.commands.main", "serve", *words, "--port", "0", "--gr00t-port", "0", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip
    assert process.stdout is not None and process.stderr is not None
    try:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        yield json.loads(line)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
        assert "Traceback" not in process.stderr.read()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def test_gr00ts_kill_ends_the_command() -> None:
    """Allowed by --allow-kill: the client gets its answer, and the process ends by itself, with status 0."""
    words = ["serve", "--actor", "zero", "--dialect", "gr00t", "--gr00t-port", "0", "--allow-kill", "--json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "foreact.commands.main", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip
    assert process.stdout is not None
    try:
        client: Any = connect(json.loads(process.stdout.readline())["urls"]["gr00t"])
        client.call("kill")
        _, said = process.communicate(timeout=20)
        assert process.returncode == 0 and "Traceback" not in said, said
        client.close()
    finally:
        process.kill()
        process.communicate()


def _rollouts(folder: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "rollouts.jsonl").read_text().splitlines()]
    return sorted(({k: v for k, v in row.items() if k != "wall_s"} for row in rows), key=lambda row: row["start"])


def test_an_evaluation_over_a_server_gives_the_same_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "benchmark.tasks=[open_drawer]", "benchmark.starts_per_task=2", "benchmark.tasks_per_start=1",
        "benchmark.max_steps=24", "videos_per_task=1",
    ]  # fmt: skip

    def evaluate(name: str, *more: str) -> int:
        return run(app, ["evaluate", *words, f"out={tmp_path / name}", *more])

    assert evaluate("local", f"checkpoint={CHECKPOINT}", "workers=0", "envs_per_worker=1") == 0
    with _served(str(CHECKPOINT), "--dialect", "both") as told:
        assert len(told["warmup_ms"]) == 20 and told["chunk"] == 10 and told["execute_steps"] == 5
        openpi, gr00t = told["urls"]["openpi"], told["urls"]["gr00t"]
        assert evaluate("openpi", "policy=remote", f"url={openpi}", "workers=0", "envs_per_worker=1") == 0
        assert evaluate("gr00t", f"url={gr00t}", "workers=0", "envs_per_worker=2") == 0
        capsys.readouterr()
        # The evaluation knows which checkpoint it was, and does not go on with another.
        assert evaluate("openpi", "actor=zero", "workers=0") != 0
        assert "remote there" in capsys.readouterr().err.replace("'", "")
    expected = _rollouts(tmp_path / "local")
    assert len(expected) == 2 and expected[0]["foresight"]
    assert _rollouts(tmp_path / "openpi") == _rollouts(tmp_path / "gr00t") == expected
    results = json.loads((tmp_path / "openpi" / "results.json").read_text())
    local = json.loads((tmp_path / "local" / "results.json").read_text())
    assert results["checkpoint"]["sha256"] == told["checkpoint"] == local["checkpoint"]["sha256"]
    assert results["contract"] == local["contract"] and results["overall"] == local["overall"]
    capsys.readouterr()
    assert evaluate("gone", f"url={openpi}", "workers=0") == 1
    assert "is not there" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["evaluate", "policy=remote"], "url=ws://HOST:PORT"),
        (["evaluate", "url=ws://127.0.0.1:9", "actor=zero"], "not with actor=zero"),
        (["evaluate", "url=http://127.0.0.1:9"], "expected ws://HOST:PORT"),
        (["evaluate", "url=ws://127.0.0.1:9", "device=cuda"], "a server has its own"),
        (["serve"], "either a checkpoint folder or --actor"),
        (["serve", "x", "--actor", "zero"], "either a checkpoint folder or --actor"),
        (["serve", "--actor", "zero", "--dialect", "grpc"], "known: both, gr00t, openpi"),
        (["serve", "--actor", "zero", "--host", "0.0.0.0"], "FOREACT_TOKEN"),
        (["serve", "--actor", "zero", "--tls-cert", "x"], "go together"),
        (["serve", "--actor", "zero", "--key", "state"], "OURS=THEIRS"),
        (["serve", "--actor", "zero", "--token-file", "/nowhere"], "token file"),
        (["serve", "--actor", "nobody"], "unknown actor"),
        (["serve", "/nowhere"], "/nowhere"),
    ],
)
@pytest.mark.fault("S12", n=1, event="foreact serve --host 0.0.0.0 without a token")
def test_mistakes_are_named(words: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    more = [f"out={tmp_path}"] if words[0] == "evaluate" else []
    assert run(app, [*words, *more]) != 0
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error
