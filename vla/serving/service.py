"""A policy that several clients may ask: their slots kept apart, one inference at a time, all on one thread.

What speaks a dialect (`openpi_server`, `gr00t_server`) reads messages and hands requests over with `submit`.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from foreact.vla.actors import check_plan
from foreact.vla.errors import ForeActError
from foreact.vla.policy import Actor, Observation, Plan
from foreact.vla.serving.keys import check_keys, openpi_keys
from foreact.vla.serving.requests import MAX_SLOTS, Anchor, BadRequest, Request, read_request

PROTOCOL = 1
"""Of what ForeAct adds to both dialects."""
COLD = 3
"""First inferences that are not counted: memory is taken, kernels are chosen."""

ToJoints = Callable[[Observation, Plan, Anchor], Mapping[str, Any]]
"""Turns one robot's plan into `joint_position` (K, J) [rad] and `gripper` (K,), or `refused`, a sentence why not."""


class TooManyClients(ForeActError):
    """Another client has to leave first."""


@dataclass
class _Client:
    slots: dict[int, int] = field(default_factory=dict)
    """The client's number of a slot -> the actor's."""


class PolicyService:
    """An actor and its clients.

    Everything that touches the actor runs on one thread of the service, in the order in which it was submitted.

    Args:
        actor: What answers.
        about: Further facts for the metadata, such as the checkpoint's name and hash.
        max_clients: How many may be connected at once.
        keys: Ours -> theirs, names that requests may use besides ours; openpi's are always known.
        to_joints: For robots: turns plans into joint targets.
    """

    def __init__(
        self,
        actor: Actor,
        *,
        about: Mapping[str, Any] | None = None,
        max_clients: int = 4,
        keys: Mapping[str, str] | None = None,
        to_joints: ToJoints | None = None,
    ):
        self.actor, self.contract = actor, actor.contract
        self.max_clients = max_clients
        self.metadata: dict[str, Any] = {}
        """What a client is told first; complete after `warm_up`."""
        self._about, self._to_joints = dict(about or {}), to_joints
        self._keys = {**openpi_keys(self.contract), **check_keys(keys or {}, self.contract)}
        self._clients: dict[Any, _Client] = {}
        self._words: dict[int, str] = {}
        self._next_slot = 0
        self._jobs: queue.SimpleQueue[tuple[Callable[[], Any], Future]] = queue.SimpleQueue()
        # A daemon: an inference that never ends must not keep the process from ending.
        threading.Thread(target=self._work, name="inference", daemon=True).start()

    # --- any thread

    def warm_up(self, count: int = 20) -> list[float]:
        """Plan as often from made-up pictures of the real size, and time it [s]. Slow first plans are left out.

        Raises:
            ForeActError: If the actor fails or its plans are not what its contract says.
        """
        return self._run(lambda: self._warm_up(count)).result()

    def join(self, client: Any) -> None:
        """A client arrives; `client` is anything that identifies it.

        Raises:
            TooManyClients: If there is no room.
        """
        if len(self._clients) >= self.max_clients:
            raise TooManyClients(f"{self.max_clients} clients are connected, and no more are served")
        self._clients[client] = _Client()

    def leave(self, client: Any) -> None:
        """A client is gone: what was remembered for it is forgotten."""
        found = self._clients.pop(client, None)
        if found is not None:
            self._run(lambda: self._forget(found, list(found.slots)))

    @property
    def full(self) -> bool:
        """Whether one more client would be too many."""
        return len(self._clients) >= self.max_clients

    def submit(self, client: Any, message: Any) -> Future[dict[str, Any]]:
        """Have a message answered; the result is the reply under our names (`actions`, `foresight/<camera>`, ...).

        The future fails with a ForeActError for what a client can mend, with anything else for a bug or a broken actor.
        """
        known = self._clients[client]
        return self._run(lambda: self._answer(known, read_request(message, self.contract, self._keys)))

    # --- the inference thread

    def _run(self, job: Callable[[], Any]) -> Future:
        future: Future = Future()
        self._jobs.put((job, future))
        return future

    def _work(self) -> None:
        while True:
            job, future = self._jobs.get()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(job())
            except BaseException as error:
                future.set_exception(error)
            del job, future  # else the last request's pictures stay until the next one

    def _forget(self, client: _Client, slots: Sequence[int]) -> None:
        gone = [client.slots.pop(slot) for slot in slots if slot in client.slots]
        for slot in gone:
            self._words.pop(slot, None)
        if gone:
            self.actor.reset(gone)

    def _own_slots(self, client: _Client, request: Request) -> list[int]:
        """The actor's slots for those of a request, made where new; a new instruction begins without a past."""
        if len({*client.slots, *request.slots}) > MAX_SLOTS:
            raise BadRequest(f"one client may have {MAX_SLOTS} slots; reset those that are done")
        fresh = []
        for slot, words in zip(request.slots, request.instructions, strict=True):
            if slot not in client.slots:
                client.slots[slot], self._next_slot = self._next_slot, self._next_slot + 1
            own = client.slots[slot]
            if self._words.get(own) != words:
                self._words[own] = words
                fresh.append(own)
        if fresh:
            self.actor.reset(fresh)
        return [client.slots[slot] for slot in request.slots]

    def _answer(self, client: _Client, request: Request) -> dict[str, Any]:
        began = time.perf_counter()
        reply: dict[str, Any] = dict(request.echo)
        if request.kind == "reset":
            self._forget(client, request.slots or list(client.slots))
            return {**reply, "reset": True}
        observation = Observation(
            slots=self._own_slots(client, request),
            images=request.images,
            state=request.state,
            instruction=request.instructions,
        )
        if request.kind == "observe":
            self.actor.observe(observation)
        else:
            plan = self.actor.plan(observation, foresight=request.foresight)
            reply |= self._planned(observation, plan, request)
        return {**reply, "server_timing": {"infer_ms": 1e3 * (time.perf_counter() - began)}}

    def _planned(self, observation: Observation, plan: Plan, request: Request) -> dict[str, Any]:
        check_plan(self.actor, plan, len(request.slots))
        only = slice(None) if request.batched else 0
        found: dict[str, Any] = {"actions": np.asarray(plan.actions, np.float32)[only]}
        if request.foresight and plan.foresight is not None:
            found |= {f"foresight/{name}": frames[only] for name, frames in plan.foresight.items()}
            found["foresight_steps"] = plan.foresight_steps
        if request.anchor is not None:
            if self._to_joints is None:
                raise BadRequest("this server was started without a robot (--robot CONFIG); it knows no joints")
            if len(request.slots) != 1:
                raise BadRequest("an anchor goes with one slot")
            found |= self._to_joints(observation, plan, request.anchor)
        return found

    def _warm_up(self, count: int) -> list[float]:
        actor, contract = self.actor, self.contract
        rng = np.random.default_rng(0)
        observation = Observation(
            slots=(-1,),
            images={
                c.name: rng.integers(256, size=(1, c.height, c.width, 3), dtype=np.uint8) for c in contract.cameras
            },
            state=np.zeros((1, contract.state_size), np.float32),
            instruction=("warm up",),
        )
        actor.reset([-1])
        seen = actor.plan(observation, foresight=True)
        check_plan(actor, seen, 1)
        took: list[float] = []
        for _ in range(COLD + count):
            began = time.perf_counter()
            plan = actor.plan(observation)
            took.append(time.perf_counter() - began)
        check_plan(actor, plan, 1)
        actor.reset([-1])
        warm = took[COLD:]
        self.metadata = {
            "server": "foreact",
            "protocol": PROTOCOL,
            **self._about,
            "contract": contract.model_dump_json(),
            "contract_hash": contract.hash,
            "execute_steps": actor.execute_steps,
            "chunk": int(np.shape(seen.actions)[1]),
            "foresight_steps": seen.foresight_steps if seen.foresight is not None else 0,
            **_looks_back(actor),
            "robot": self._to_joints is not None,
            "warmup_ms": [round(1e3 * t, 3) for t in warm],
            "latency_ms": {
                name: round(1e3 * float(np.percentile(warm, q)), 3) for name, q in (("p50", 50), ("p99", 99))
            },
        }
        return warm


def _looks_back(actor: Actor) -> dict[str, list[int]]:
    found = getattr(actor, "looks_back", None)
    return {} if found is None else {"looks_back": [int(n) for n in found]}
