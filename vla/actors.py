"""Who can be judged: a checkpoint, somebody else's policy, or a dummy.

Other people's policies come by entry point, never by an import path in data. In their `pyproject.toml`:

    [project.entry-points."foreact.actors"]
    my_actor = "my_package:make_actor"

where `make_actor(contract: Contract) -> Actor` gets the contract that the environment (or robot) offers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import numpy as np

from foreact.vla.contract import Contract
from foreact.vla.errors import ConfigError, ForeActError, did_you_mean
from foreact.vla.files import MANIFEST, sha256_of, verify_folder
from foreact.vla.model_card import CARD
from foreact.vla.policy import Actor, Observation, Plan

GROUP = "foreact.actors"

ActorFactory = Callable[[Contract], Actor]


class ActorError(ForeActError):
    """Somebody else's actor cannot be loaded, or does not keep to the interface."""


def _blind(contract: Contract) -> Contract:
    """The same robot, but nothing needs to be seen."""
    return contract.model_copy(update={"cameras": ()})


class ZeroActor:
    """Does nothing: zero increments, gripper open. The floor that every policy must beat."""

    def __init__(self, contract: Contract) -> None:
        self.contract = _blind(contract)
        self.execute_steps = 1
        self._action = np.zeros(contract.action_size, np.float32)
        at = 0
        for field in contract.action:
            if field.is_gripper:
                self._action[at : at + field.size] = -1.0 if contract.gripper.startswith("-1 open") else 1.0
            elif not field.relative:
                raise ActorError(
                    f"the zero actor needs relative actions; {field.name!r} is absolute, where zero is a place to go to"
                )
            at += field.size

    def reset(self, slots: Sequence[int]) -> None:
        """Nothing to forget."""

    def observe(self, observation: Observation) -> None:
        """Nothing to note."""

    def plan(self, observation: Observation, *, foresight: bool = False) -> Plan:
        """One action of zeros for each slot."""
        return Plan(actions=np.tile(self._action, (len(observation.slots), 1, 1)))


class RandomActor:
    """Uniform random actions within the contract's range, each held for a quarter of a second.

    The numbers of a slot follow from the state and instruction at its first plan, so they depend neither on the
    slot's number nor on what else runs beside it.
    """

    def __init__(self, contract: Contract) -> None:
        self.contract = _blind(contract)
        self.execute_steps = max(1, round(contract.rate_hz / 4))
        for field in contract.action:
            if field.low is None or field.high is None:
                raise ActorError(f"the random actor needs a range; action field {field.name!r} has no low and high")
        self._low = np.concatenate([np.full(f.size, f.low, np.float32) for f in contract.action])
        self._high = np.concatenate([np.full(f.size, f.high, np.float32) for f in contract.action])
        self._rng: dict[int, np.random.Generator] = {}

    def reset(self, slots: Sequence[int]) -> None:
        """Draw from the beginning again."""
        for slot in slots:
            self._rng.pop(slot, None)

    def observe(self, observation: Observation) -> None:
        """Nothing to note."""

    def plan(self, observation: Observation, *, foresight: bool = False) -> Plan:
        """The same random action `execute_steps` times."""
        rows = []
        for row, slot in enumerate(observation.slots):
            if slot not in self._rng:
                seed = hashlib.sha256(observation.instruction[row].encode() + observation.state[row].tobytes()).digest()
                self._rng[slot] = np.random.default_rng(int.from_bytes(seed[:8], "little"))
            rows.append(self._rng[slot].uniform(self._low, self._high).astype(np.float32))
        return Plan(actions=np.repeat(np.stack(rows)[:, None], self.execute_steps, axis=1))


_BUILT_IN: dict[str, ActorFactory] = {"zero": ZeroActor, "random": RandomActor}


def actor_names() -> list[str]:
    """Names that `make_actor` knows: the built-in ones and those of installed packages."""
    return sorted({*_BUILT_IN, *(e.name for e in entry_points(group=GROUP))})


def actor_package(name: str) -> dict[str, str]:
    """Name and version of the installed package that brings an actor; empty for a built-in one.

    Raises:
        ConfigError: If the name is unknown.
        ActorError: If several packages offer it.
    """
    if name in _BUILT_IN:
        return {}
    dist = _entry_point(name).dist
    return {} if dist is None else {dist.name: dist.version}


def _entry_point(name: str) -> EntryPoint:
    found = [e for e in entry_points(group=GROUP) if e.name == name]
    if not found:
        raise ConfigError(
            f"unknown actor {name!r}; {did_you_mean(name, actor_names())}. "
            f"An installed package adds one by the entry-point group {GROUP!r}; a trained policy is given "
            "as checkpoint=DIR."
        )
    if len({e.value for e in found}) > 1:
        raise ActorError(f"several installed packages offer the actor {name!r}: {[e.value for e in found]}")
    return found[0]


def make_actor(name: str, contract: Contract) -> Actor:
    """Make the actor registered under a name.

    Args:
        name: "zero", "random", or a name in the entry-point group "foreact.actors".
        contract: What the environment offers; handed to the factory.

    Raises:
        ConfigError: If the name is unknown.
        ActorError: If its package cannot be imported, its factory fails, or what it returns is no Actor.
    """
    factory: ActorFactory | None = _BUILT_IN.get(name)
    if factory is None:
        entry = _entry_point(name)
        try:
            factory = entry.load()
        except Exception as error:
            raise ActorError(f"actor {name!r} ({entry.value}) cannot be loaded: {error!r}") from error
    assert factory is not None
    try:
        actor = factory(contract)
    except ForeActError:
        raise
    except Exception as error:
        raise ActorError(f"the factory of actor {name!r} failed: {error!r}") from error
    if not isinstance(actor, Actor):
        missing = [m for m in ("contract", "execute_steps", "reset", "observe", "plan") if not hasattr(actor, m)]
        raise ActorError(
            f"actor {name!r} is a {type(actor).__name__} without {', '.join(missing)}; see foreact.vla.policy"
        )
    return actor


def checkpoint_sha256(folder: Path) -> str:
    """What identifies a checkpoint: the SHA-256 of its `manifest.json`, which holds those of all other files.

    The model card is left out of it first: measured results may be written there without making it another policy.

    Raises:
        DamagedFolder: If the folder is no checkpoint, or a file in it is missing or damaged.
    """
    verify_folder(folder)
    manifest = json.loads((folder / MANIFEST).read_bytes())
    if manifest["files"].pop(CARD, None) is None:
        return sha256_of(folder / MANIFEST)
    return hashlib.sha256((json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode()).hexdigest()


def load_checkpoint_actor(
    folder: Path,
    *,
    device: str = "cpu",
    execute_steps: int | None = None,
    batch_size: int | None = None,
    precision: str = "float32",
    graphs: bool = False,
    compiled: bool = False,
) -> Actor:
    """The policy in a checkpoint folder, ready to act. Imports torch.

    Args:
        folder: What `foreact train` wrote.
        device: Where it runs.
        execute_steps: Actions of a plan executed before the next; None: as the policy's config says.
        batch_size: Rows of every pass of the network, see `StreamingActor`; so for the rest.
        precision: What most of the network is computed in.
        graphs: Whether to replay CUDA graphs.
        compiled: Whether to go through `torch.compile`.

    Raises:
        ForeActError: If the folder is not a checkpoint, is damaged, or needs a device that is not there.
    """
    from foreact.vla.checkpoint import load_policy
    from foreact.vla.lora import merge_lora
    from foreact.vla.runtime import StreamingActor

    policy = load_policy(folder)
    merge_lora(policy)
    return StreamingActor(
        policy, execute_steps, device, batch_size, precision=precision, graphs=graphs, compiled=compiled
    )


def check_plan(actor: Actor, plan: Plan, n: int) -> np.ndarray:
    """The actions (N, execute_steps, A) that are to be executed.

    Raises:
        ActorError: If the plan has another shape than promised, or numbers that are not finite.
    """
    actions = np.asarray(plan.actions)
    size, steps = actor.contract.action_size, actor.execute_steps
    if actions.ndim != 3 or actions.shape[0] != n or actions.shape[2] != size or actions.shape[1] < steps:
        raise ActorError(
            f"{type(actor).__name__}.plan returned actions of shape {actions.shape}; "
            f"expected ({n}, at least {steps}, {size}): slots, steps, action size of its contract"
        )
    actions = actions[:, :steps]
    if not np.all(np.isfinite(actions)):
        row, step, column = np.argwhere(~np.isfinite(actions))[0]
        raise ActorError(
            f"{type(actor).__name__}.plan returned {actions[row, step, column]} "
            f"(slot {row}, step {step}, number {column})"
        )
    return actions
