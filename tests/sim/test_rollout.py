"""Rollouts in lockstep: the same as one by one, chunks executed as promised, predictions measured where asked for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import cast

import numpy as np
import pytest

from foreact.sim.border import Border, find_border
from foreact.sim.desk_suite import DeskSuite
from foreact.sim.embodiment import desk_contract
from foreact.sim.env import DeskEnv
from foreact.sim.experts import Expert
from foreact.sim.language import task_of, validation_instruction
from foreact.sim.rollout import Job, Lockstep
from foreact.sim.starts import Start, plan_starts
from foreact.vla.actors import ActorError, RandomActor, make_actor
from foreact.vla.contract import Contract, ContractMismatch
from foreact.vla.policy import Actor, Observation, Plan

CONTRACT = desk_contract()
TASKS = ("move_slider_left", "open_drawer", "turn_on_led", "turn_on_lightbulb")


@pytest.fixture(scope="module")
def starts() -> list[Start]:
    return plan_starts("D", starts_per_task=1, tasks_per_start=2, tasks=TASKS, seed=5)


def _jobs(starts: Sequence[Start], record: bool = False) -> list[Job]:
    return [
        Job(
            index=i,
            seed=start.seed,
            start={"robot_obs": start.robot_obs, "scene_obs": start.scene_obs},
            tasks=(task,),
            instructions=(validation_instruction(task),),
            record=record,
        )
        for i, start in enumerate(starts)
        for task in start.tasks
    ]


class _Watched:
    """Passes everything on to another actor and keeps what it saw and what it was asked."""

    def __init__(self, actor: Actor) -> None:
        self._actor = actor
        self.contract, self.execute_steps = actor.contract, actor.execute_steps
        self.states: dict[str, list[np.ndarray]] = defaultdict(list)
        self.calls: list[tuple[str, tuple[int, ...], bool]] = []
        self.begun = 0
        self._key: dict[int, str] = {}

    def reset(self, slots: Sequence[int]) -> None:
        for slot in slots:
            self._key[slot] = ""
        self._actor.reset(slots)

    def _see(self, kind: str, observation: Observation, foresight: bool) -> None:
        self.calls.append((kind, tuple(observation.slots), foresight))
        for slot, state, task in zip(observation.slots, observation.state, observation.instruction, strict=True):
            self._key[slot] = self._key[slot] or f"{task} {state[:3].round(6).tolist()}"
            self.states[self._key[slot]].append(state)

    def observe(self, observation: Observation) -> None:
        self._see("observe", observation, False)
        self._actor.observe(observation)

    def plan(self, observation: Observation, *, foresight: bool = False) -> Plan:
        self._see("plan", observation, foresight)
        return self._actor.plan(observation, foresight=foresight)


class _Counting:
    """Blind; plans six actions whose first number counts up in hundredths, and expects nothing to change."""

    def __init__(self, cameras: bool = False) -> None:
        self.contract: Contract = CONTRACT if cameras else CONTRACT.model_copy(update={"cameras": ()})
        self.execute_steps = 4
        self._count: dict[int, int] = {}

    def reset(self, slots: Sequence[int]) -> None:
        self._count.update(dict.fromkeys(slots, 0))

    def observe(self, observation: Observation) -> None:
        pass

    def plan(self, observation: Observation, *, foresight: bool = False) -> Plan:
        actions = np.zeros((len(observation.slots), 6, 7), np.float32)
        for row, slot in enumerate(observation.slots):
            actions[row, :, 0] = 0.01 * (self._count[slot] + np.arange(6))
            self._count[slot] += 4
        return Plan(actions=actions, foresight=dict(observation.images) if foresight else None, foresight_steps=5)


@pytest.fixture
def desks() -> Iterator[Callable[[Actor, int], tuple[list[DeskEnv], Border]]]:
    opened: list[DeskEnv] = []

    def make(actor: Actor, n: int) -> tuple[list[DeskEnv], Border]:
        border = find_border(actor.contract, DeskSuite("D"), "test")
        opened.extend(envs := [cast(DeskEnv, border.make_env(record=True)) for _ in range(n)])
        return envs, border

    yield make
    for env in opened:
        env.close()


def test_experts_solve_their_tasks_in_lockstep_as_they_do_alone(starts: list[Start], desks: Callable) -> None:
    actor = DeskSuite("D").expert()
    envs, border = desks(actor, 2)
    found = list(Lockstep(actor, envs, border, max_steps=180, foresight=False).run(_jobs(starts)))
    assert len(found) == sum(len(s.tasks) for s in starts) and all(r.solved == 1 for r in found)
    alone = DeskEnv("D", render=False)
    for rollout in found:
        (task,) = rollout.job.tasks
        obs, _ = alone.reset(options={**rollout.job.start, "task": task})
        expert, steps, done = Expert(task, alone.scene), 0, False
        while not done:
            known = (obs[key].astype(np.float32).astype(np.float64) for key in ("robot_obs", "scene_obs"))
            obs, _, done, _, _ = alone.step(expert.act(*known).astype(np.float32))
            steps += 1
        assert rollout.attempts[0].steps == steps


def test_a_rollout_does_not_depend_on_what_runs_beside_it(starts: list[Start], desks: Callable) -> None:
    seen = []
    for n, order in ((1, 1), (3, -1)):
        actor = _Watched(RandomActor(CONTRACT))
        envs, border = desks(actor, n)
        done = list(Lockstep(actor, envs, border, max_steps=25, foresight=False).run(_jobs(starts)[::order]))
        assert {(r.job.index, r.job.tasks) for r in done} == {(j.index, j.tasks) for j in _jobs(starts)}
        seen.append(actor.states)
    assert len(seen[0]) == len(_jobs(starts)) and seen[0].keys() == seen[1].keys()
    for key, states in seen[0].items():
        assert len(states) == 25
        np.testing.assert_array_equal(states, seen[1][key])


def test_a_chunk_is_executed_in_order_and_the_steps_between_are_observed(starts: list[Start], desks: Callable) -> None:
    actor = _Watched(_Counting())
    envs, border = desks(actor, 1)
    executed: list[float] = []
    step = envs[0].step
    envs[0].step = lambda action: (executed.append(float(action[0])), step(action))[1]
    (rollout,) = Lockstep(actor, envs, border, max_steps=10, foresight=True).run(_jobs(starts)[:1])
    assert rollout.solved == 0 and rollout.attempts[0].steps == 10 and rollout.recording is None
    assert executed == pytest.approx([0.01 * i for i in range(10)])
    kinds = ["plan", "observe", "observe", "observe"] * 3
    assert actor.calls == [(kind, (0,), False) for kind in kinds[:10]]  # not recorded: no foresight


def test_slots_that_need_a_plan_together_get_it_from_one_call(starts: list[Start], desks: Callable) -> None:
    actor = _Watched(_Counting())
    envs, border = desks(actor, 3)
    list(Lockstep(actor, envs, border, max_steps=4, foresight=False).run(_jobs(starts)[:3]))
    assert [slots for kind, slots, _ in actor.calls] == [(0, 1, 2)] * 4


def test_predictions_of_recorded_rollouts_are_measured(starts: list[Start], desks: Callable) -> None:
    actor = _Watched(_Counting(cameras=True))
    envs, border = desks(actor, 2)
    first, second = _jobs(starts)[:2]
    jobs = [Job(**{**vars(first), "record": True}), second]
    done = {r.job.record: r for r in Lockstep(actor, envs, border, max_steps=12, foresight=True).run(jobs)}
    assert done[False].recording is None
    recording = done[True].recording
    assert recording is not None and len(recording.seen) == 13 and sorted(recording.predicted) == [0, 4, 8]
    assert {slots for kind, slots, foresight in actor.calls if foresight} == {(0,)}
    sums = recording.foresight()
    assert set(sums) == {"rgb_static", "rgb_gripper"}
    for errors in sums.values():
        assert errors.frames == 2  # the moment of the third prediction, step 13, was not reached
        assert errors.pixels > 0 and errors.predicted == errors.copied  # it predicted that nothing changes


def test_a_blind_actor_is_filmed_all_the_same(starts: list[Start], desks: Callable) -> None:
    actor = make_actor("zero", CONTRACT)
    envs, border = desks(actor, 1)
    assert not envs[0].renders
    (rollout,) = Lockstep(actor, envs, border, max_steps=3, foresight=True).run(_jobs(starts, record=True)[:1])
    assert rollout.recording is not None and rollout.recording.foresight() == {}
    assert [f["rgb_static"].shape for f in rollout.recording.seen] == [(200, 200, 3)] * 4


def test_the_border_resizes_selects_and_reorders() -> None:
    cameras = (CONTRACT.cameras[0].model_copy(update={"height": 64, "width": 64}),)
    actor = CONTRACT.model_copy(
        update={"cameras": cameras, "state": CONTRACT.state[2:3], "action": CONTRACT.action[::-1]}
    )
    border = find_border(actor, DeskSuite("D"), "test")
    env = border.make_env(record=False)
    obs, _ = env.reset(seed=0)
    frames = env.frames()
    assert list(frames) == ["rgb_static"]  # the other one is not even drawn
    seen = border.observation([7], [obs], [frames], ["open the drawer"])
    assert seen.images["rgb_static"].shape == (1, 64, 64, 3) and list(seen.images) == ["rgb_static"]
    assert seen.state.dtype == np.float32 and seen.state.tolist() == [[np.float32(obs["robot_obs"][6])]]
    # gripper, euler 1-3, position 4-6 -> position, euler, gripper
    assert border.action(np.arange(7.0)).tolist() == [4, 5, 6, 1, 2, 3, 0]
    env.close()


def test_the_action_mode_follows_the_actor() -> None:
    for mode in ("relative_cartesian", "absolute_cartesian", "relative_joint", "absolute_joint"):
        suite = find_border(desk_contract(action_mode=mode), DeskSuite("D"), "test").suite
        assert isinstance(suite, DeskSuite) and suite.action_mode == mode


def test_an_actor_that_does_not_fit_is_told_every_difference() -> None:
    other = CONTRACT.model_copy(update={"embodiment": "ur5", "rate_hz": 10.0, "action": CONTRACT.action[:2]})
    with pytest.raises(ContractMismatch, match=r"(?s)my policy does not fit the desk.*'ur5'.*10\.0"):
        find_border(other, DeskSuite("D"), "my policy")
    with pytest.raises(ContractMismatch, match="actions lack gripper"):
        find_border(CONTRACT.model_copy(update={"action": CONTRACT.action[:2]}), DeskSuite("D"), "my policy")


@pytest.mark.parametrize(("value", "shape", "message"), [(np.nan, (1, 1, 7), "returned nan"), (0.0, (1, 7), "shape")])
def test_a_bad_plan_is_named(
    starts: list[Start], desks: Callable, value: float, shape: tuple[int, ...], message: str
) -> None:
    actor = make_actor("zero", CONTRACT)
    actor.plan = lambda observation, *, foresight=False: Plan(actions=np.full(shape, value, np.float32))  # type: ignore[method-assign]
    envs, border = desks(actor, 1)
    with pytest.raises(ActorError, match=message):
        list(Lockstep(actor, envs, border, max_steps=3, foresight=False).run(_jobs(starts)[:1]))


def test_only_what_a_plan_will_look_at_is_drawn(starts: list[Start], desks: Callable) -> None:
    """Four actions a plan, looking back two steps: of each four steps the first and the third are drawn."""

    class LooksBack(_Counting):
        looks_back = (2,)

    actor = _Watched(LooksBack(cameras=True))
    actor.looks_back = (2,)  # type: ignore[attr-defined]
    envs, border = desks(actor, 1)
    drawn: list[int] = []
    frames = envs[0].frames
    envs[0].frames = lambda: (drawn.append(len(actor.calls)), frames())[1]  # type: ignore[method-assign]
    list(Lockstep(actor, envs, border, max_steps=12, foresight=True).run(_jobs(starts)[:1]))
    assert drawn == [0, 2, 4, 6, 8, 10]


def test_a_chain_goes_on_where_the_last_task_ended(desks: Callable) -> None:
    env = DeskEnv("D", render=False)
    env.reset(seed=3, options={"task": "open_drawer"})
    start = {"robot_obs": env.robot_obs, "scene_obs": env.scene_obs}
    tasks = ("open_drawer", "close_drawer", "open_drawer", "move_slider_left", "close_drawer")
    jobs = [
        Job(index=i, seed=i, start=start, tasks=tasks[i:], instructions=tuple(map(validation_instruction, tasks[i:])))
        for i in (0, 1)
    ]
    actor = _Watched(DeskSuite("D").expert())
    envs, border = desks(actor, 1)
    done = {r.job.index: r for r in Lockstep(actor, envs, border, max_steps=180, foresight=False).run(jobs)}
    # The second one begins with a drawer that is closed already: it cannot be closed, so the chain ends there.
    assert [a.success for a in done[1].attempts] == [False] and done[1].attempts[0].steps == 180
    assert done[0].solved >= 3 and task_of(jobs[0].instructions[0]) == "open_drawer"
    # No reset in between: replaying the first chain in another desk, task by task, gives the same numbers of steps.
    expert = DeskSuite("D").expert()
    obs, _ = env.reset(options={**start, "task": tasks[0]})
    for number, attempt in enumerate(done[0].attempts):
        env.begin_task(tasks[number])
        expert.reset([0])
        for step in range(attempt.steps):
            seen = border.observation([0], [obs], [{}], [validation_instruction(tasks[number])])
            obs, *_, info = env.step(border.action(expert.plan(seen).actions[0, 0]))
            assert info["is_success"] == (attempt.success and step == attempt.steps - 1)
    env.close()
