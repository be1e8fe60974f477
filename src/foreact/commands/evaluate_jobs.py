"""What an evaluation has to do: one job per rollout, the same list in every process and after every interruption."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from foreact.commands.evaluate_settings import Chains, EvaluateSettings, Tasks
from foreact.vla.errors import ConfigError

if TYPE_CHECKING:
    from foreact.sim.rollout import Job
    from foreact.sim.suites import Suite

MAX_SEED = 2**31


@dataclass(frozen=True)
class Plan:
    """The jobs, and what is known about how they came about."""

    jobs: list[Job]
    seeds: list[int]
    """One per start or chain."""
    rejected_draws: int = 0
    defects: dict[int, tuple[str, ...]] | None = None
    """Of chains: index -> why it cannot be done."""


def plan_jobs(settings: EvaluateSettings, suite: Suite) -> Plan:
    """The jobs of an evaluation.

    Raises:
        ForeActError: If a task is unknown, or what is asked cannot be begun.
    """
    bench = settings.benchmark
    if isinstance(bench, Chains):
        return _chains(bench, settings, suite)
    return _desk_tasks(bench, settings, suite) if suite.name == "desk" else _other_tasks(bench, settings, suite)


def make_suite(settings: EvaluateSettings) -> Suite:
    """The simulator that the settings name.

    Raises:
        ForeActError: If it is unknown, not installed, or does not know an option.
    """
    from foreact.sim.suites import get_suite

    return get_suite(settings.env.name, settings.env.model_extra or {})


def _chains(bench: Chains, settings: EvaluateSettings, suite: Suite) -> Plan:
    from foreact.sim.chain_states import initial_scene_obs
    from foreact.sim.chains import generate_chains, official_chains
    from foreact.sim.desk_suite import DeskSuite
    from foreact.sim.rollout import Job
    from foreact.sim.starts import NEUTRAL_ROBOT_OBS

    if not isinstance(suite, DeskSuite):
        raise ConfigError(f"chains are known for env=desk alone, found env={suite.name}; use benchmark=single_tasks")
    if bench.chain_list == "official":
        if suite.scene != "D":
            raise ConfigError(
                f"CALVIN's own chains are for scene D, found env.scene={suite.scene}; "
                "use benchmark.chain_list=generated"
            )
        chains = official_chains(settings.seed)
        if bench.chains > len(chains):
            raise ConfigError(f"benchmark.chains={bench.chains}, but the official list has {len(chains)}")
        chains = chains[: bench.chains]
    else:
        from foreact.sim.symbolic import TASK_NAMES

        wanted = set(_named(bench.tasks))
        tasks = tuple(task for task in TASK_NAMES if task in wanted)
        chains = generate_chains(suite.scene, bench.chains, settings.seed, bench.length, tasks)
    jobs = [
        Job(
            index=chain.index,
            seed=chain.seed,
            start={
                "robot_obs": NEUTRAL_ROBOT_OBS,
                "scene_obs": initial_scene_obs(chain.initial_state, suite.scene),
            },
            tasks=chain.tasks,
            instructions=tuple(suite.instruction(task, bench.language, chain.index) for task in chain.tasks),
            record=chain.index < settings.videos_per_task,
        )
        for chain in chains
    ]
    return Plan(jobs, [chain.seed for chain in chains], defects={c.index: c.defects for c in chains})


def _named(tasks: str | tuple[str, ...]) -> tuple[str, ...]:
    from foreact.sim.tasks import TASK_SETS, get_task
    from foreact.vla.errors import did_you_mean

    if not isinstance(tasks, str):
        return tuple(get_task(name).name for name in tasks)
    if tasks not in TASK_SETS:
        raise ConfigError(f"no set of tasks {tasks!r}; {did_you_mean(tasks, TASK_SETS)}")
    return TASK_SETS[tasks]


def _desk_tasks(bench: Tasks, settings: EvaluateSettings, suite: Suite) -> Plan:
    from foreact.sim.desk_suite import DeskSuite
    from foreact.sim.rollout import Job
    from foreact.sim.starts import plan_starts

    assert isinstance(suite, DeskSuite)
    tasks = _named(bench.tasks)
    starts = plan_starts(
        suite.scene,
        starts_per_task=bench.starts_per_task,
        tasks_per_start=bench.tasks_per_start,
        tasks=tasks,
        seed=settings.seed,
    )
    recorded: dict[str, int] = {}
    jobs = []
    for index, start in enumerate(starts):
        for task in start.tasks:
            recorded[task] = recorded.get(task, 0) + 1
            jobs.append(
                Job(
                    index=index,
                    seed=start.seed,
                    start={"robot_obs": start.robot_obs, "scene_obs": start.scene_obs},
                    tasks=(task,),
                    instructions=(suite.instruction(task, bench.language, index),),
                    record=recorded[task] <= settings.videos_per_task,
                )
            )
    return Plan(jobs, [start.seed for start in starts], sum(start.rejected_draws for start in starts))


def _other_tasks(bench: Tasks, settings: EvaluateSettings, suite: Suite) -> Plan:
    """In other simulators a start belongs to one task and is drawn by the simulator from its seed."""
    import numpy as np

    from foreact.sim.rollout import Job
    from foreact.vla.errors import did_you_mean

    names = suite.tasks if bench.tasks in ("all", "fixtures") else bench.tasks
    if isinstance(names, str):
        raise ConfigError(f"no set of tasks {names!r} in env={suite.name}; use benchmark.tasks=all or a list")
    unknown = [name for name in names if name not in suite.tasks]
    if unknown:
        raise ConfigError(f"no task {unknown[0]!r} in env={suite.name}; {did_you_mean(unknown[0], suite.tasks)}")
    jobs, seeds = [], []
    for number, task in enumerate(names):
        for start in range(bench.starts_per_task):
            index = number * bench.starts_per_task + start
            seed = int(np.random.default_rng([settings.seed, index]).integers(MAX_SEED))
            seeds.append(seed)
            jobs.append(
                Job(
                    index=index,
                    seed=seed,
                    tasks=(task,),
                    instructions=(suite.instruction(task, bench.language, start),),
                    record=start < settings.videos_per_task,
                )
            )
    return Plan(jobs, seeds)
