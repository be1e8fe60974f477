"""Fits a store into a mixture: which of its cameras and numbers stand for what the policy requires, at which pace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from foreact.datasets.mixture import StorePart
from foreact.datasets.resampling import Pace, action_rules, state_rules
from foreact.datasets.store import Store
from foreact.datasets.window_spec import WindowSpec
from foreact.vla.contract import Contract, ContractMismatch, Field, Rename, adapt
from foreact.vla.errors import ConfigError, did_you_mean

MISSING = -1


@dataclass(frozen=True, kw_only=True)
class Affine:
    """scale * x + offset, per component; exact arithmetic is float64, results are float32."""

    scale: np.ndarray
    """(D,) float64, positive."""
    offset: np.ndarray
    """(D,) float64."""

    def apply(self, values: np.ndarray) -> np.ndarray:
        """(..., D) numbers of a store -> (..., D) float32 in the spread of the reference."""
        return (values.astype(np.float64) * self.scale + self.offset).astype(np.float32)

    def undo(self, values: np.ndarray) -> np.ndarray:
        """The inverse of `apply`."""
        return ((values.astype(np.float64) - self.offset) / self.scale).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How windows of one store are made for a mixture; S and A are the sizes that the policy requires."""

    part: StorePart
    spec: WindowSpec
    cameras: dict[str, str]
    """Our camera -> theirs."""
    state_index: tuple[int, ...]
    """(S,) positions in the stored state; MISSING where this store has, or shall give, none."""
    action_index: tuple[int, ...]
    """(A,) positions in the stored action, likewise."""
    state_how: tuple[str, ...] = ()
    """(S,) rules of `foreact.datasets.resampling`."""
    action_how: tuple[str, ...] = ()
    pace: Pace = Pace()
    state_map: Affine | None = None
    action_map: Affine | None = None
    state_fill: np.ndarray | None = None
    """(S,) float32: stands in for what is MISSING; None: zeros."""
    notes: tuple[str, ...] = ()
    """What is adapted, one sentence each, to be printed once."""

    @property
    def has_state(self) -> bool:
        """Whether its windows have any state."""
        return not self.state_index or any(at != MISSING for at in self.state_index)

    @property
    def has_action(self) -> bool:
        """Whether its windows have any action."""
        return not self.action_index or any(at != MISSING for at in self.action_index)

    @property
    def uses(self) -> np.ndarray:
        """(A,) bool: the action components that its windows teach; all, if they teach none (and are masked whole)."""
        known = np.array(self.action_index, np.int64) != MISSING
        return known if known.any() else ~known


def fit_as_is(store: Store, spec: WindowSpec, part: StorePart | None = None) -> Fit:
    """For a store that is taken as it is, without a contract to fit.

    Raises:
        ContractMismatch: If it lacks a camera.
    """
    for camera in spec.cameras:
        store.contract.camera(camera)

    def index(chosen: tuple[int, ...] | None, size: int) -> tuple[int, ...]:
        return tuple(range(size)) if chosen is None else chosen

    return Fit(
        part=part or StorePart(path=store.address),
        spec=spec,
        cameras={name: name for name in spec.cameras},
        state_index=index(spec.state_index, store.contract.state_size),
        action_index=index(spec.action_index, store.contract.action_size),
    )


def fit(store: Store, spec: WindowSpec, required: Contract, part: StorePart | None = None) -> Fit:
    """Compare a store with what is required.

    Args:
        store: The store.
        spec: What windows hold; only `required`'s cameras that it names are wanted.
        required: The policy's contract.
        part: Its settings; by default everything must be the same.

    Raises:
        ContractMismatch: With one line per difference that the settings do not allow, and the setting that would.
        ConfigError: If the settings name what is not there, or ask for a rate that cannot be.
    """
    part = part or StorePart(path=store.address)
    offered = store.contract
    _check_names(part, required, store)
    video = not offered.state and not offered.action  # whoever made it, only its frames count
    state = () if video else _wanted(required.state, part.use_state)
    action = () if video else _wanted(required.action, part.use_action)
    any_robot = video or part.embodiment == "any"
    wanted = required.model_copy(
        update={
            "cameras": tuple(c for c in required.cameras if c.name in spec.cameras),
            "state": state,
            "action": action,
            "gripper": required.gripper if any(f.is_gripper for f in action) else "none",
            "embodiment": offered.embodiment if any_robot else required.embodiment,
            "rate_hz": offered.rate_hz if part.rate == "resample" else required.rate_hz,
        }
    )
    rename = Rename(part.cameras, part.state, part.action)
    try:
        adapter = adapt(wanted, offered, required_by="training", offered_by=f"the store {store.path}", rename=rename)
    except ContractMismatch as error:
        raise ContractMismatch(f"{error}\n{_hint(wanted, offered, part)}") from error
    pace = Pace.between(offered.rate_hz, required.rate_hz) if part.rate == "resample" else Pace()
    notes = [*adapter.notes, *_notes(part, required, store, (state, action), pace)]
    return Fit(
        part=part,
        spec=replace(spec, cameras=adapter.resize),
        cameras={c.name: part.cameras.get(c.name, c.name) for c in wanted.cameras},
        state_index=_spread(required.state, state, adapter.state_index),
        action_index=_spread(required.action, action, adapter.action_index),
        state_how=tuple(state_rules(required.state)),
        action_how=tuple(action_rules(required.action)),
        pace=pace,
        notes=tuple(f"{store.path}: {note}" for note in notes),
    )


def _wanted(fields: Sequence[Field], use: Sequence[str] | None) -> tuple[Field, ...]:
    return tuple(field for field in fields if use is None or field.name in use)


def _spread(required: Sequence[Field], wanted: Sequence[Field], index: Sequence[int]) -> tuple[int, ...]:
    """Positions of the wanted fields at their places among all required ones, MISSING at the others'."""
    found, places = [], iter(index)
    names = {field.name for field in wanted}
    for field in required:
        found += [next(places) if field.name in names else MISSING for _ in range(field.size)]
    return tuple(found)


def _check_names(part: StorePart, required: Contract, store: Store) -> None:
    """Refuse names of ours that the policy does not have: they would silently do nothing."""
    known = {
        "cameras": [c.name for c in required.cameras],
        "state": [f.name for f in required.state],
        "action": [f.name for f in required.action],
    }
    for key, names in (("use_state", part.use_state), ("use_action", part.use_action)):
        ours = known[key.removeprefix("use_")]
        for name in names or ():
            if name not in ours:
                raise ConfigError(f"{store.path}: {key}: the policy has no field {name!r}; {did_you_mean(name, ours)}")
    for key in known:
        word = "camera" if key == "cameras" else f"{key} field"
        # A policy that only watches has no actions: a map of them may stay in the configuration.
        for name in getattr(part, key) if known[key] else ():
            if name not in known[key]:
                raise ConfigError(
                    f"{store.path}: {key} maps {name!r}, but the policy has no such {word} (read it as ours: theirs); "
                    f"{did_you_mean(name, known[key])}"
                )


def _hint(wanted: Contract, offered: Contract, part: StorePart) -> str:
    """Which settings of the entry would allow the differences, for those that there are."""
    hints = []
    if wanted.embodiment != offered.embodiment:
        hints.append("embodiment: any (another robot is meant)")
    if wanted.rate_hz != offered.rate_hz:
        hints.append("rate: resample (read it at the required rate)")
    for key in ("cameras", "state", "action"):
        theirs = {item.name for item in getattr(offered, key)}
        missing = [x.name for x in getattr(wanted, key) if getattr(part, key).get(x.name, x.name) not in theirs]
        if missing:
            leave = f", or use_{key} without it" if key != "cameras" else ""
            hints.append(f"{key}: {{{missing[0]}: their name}}{leave}")
    if not hints:
        return "Units, sizes and bounds must be the same: convert the store first."
    return "If that is meant, say so in the store's entry in data.stores: " + "; ".join(hints)


def _notes(
    part: StorePart, required: Contract, store: Store, used: tuple[Sequence[Field], Sequence[Field]], pace: Pace
) -> list[str]:
    offered, notes = store.contract, []
    video = not offered.state and not offered.action
    if part.embodiment == "any" and offered.embodiment != required.embodiment:
        notes.append(f"recorded by {offered.embodiment!r}, not {required.embodiment!r}; taken as it is")
    if part.rate == "resample" and not pace.same:
        notes.append(f"resampled from {offered.rate_hz:g} to {required.rate_hz:g} Hz ({pace})")
    if video:
        return notes
    for kind, fields, taken in (("state", required.state, used[0]), ("action", required.action, used[1])):
        left = [field.name for field in fields if field not in taken]
        if left:
            fate = "filled with the mean" if kind == "state" and taken else "masked"
            notes.append(f"{kind}: {', '.join(left)} {fate}")
    if part.language == "drop":
        notes.append("without sentences")
    return notes
