"""`foreact bench inference`: time of a control step, from pictures in host memory to an action in host memory."""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from foreact.commands.bench_busy import busy_share, warn_if_busy

if TYPE_CHECKING:
    from foreact.vla.runtime import StreamingActor
    from foreact.vla.trainable import TrainablePolicy

_DRIVER = Path(__file__).resolve().parents[3] / "scripts/peers/gr1/bench.py"
Times = list[tuple[float, float]]
"""Wall and processor time of each step [ms]. The latter also says something on a machine that others use, with one
thread; several wait for each other and burn it."""

_DRAWN = 16
"""Different pictures per slot; which ones they are does not change the time."""


@dataclass(frozen=True, kw_only=True)
class InferenceBench:
    """What to measure, and how."""

    checkpoint: Path | None = None
    """A checkpoint folder; without, the full-size published GR-1 with random weights."""
    batches: tuple[int, ...] = (1,)
    """Numbers of robots that act at once."""
    steps: int = 20
    """Streaming steps per round; full passes are a tenth of that, as they take so much longer."""
    rounds: int = 5
    device: str = "cpu"
    threads: int | None = None
    """Of PyTorch; by default one per core."""
    foresight: bool = False
    """Also predict frames; not by the authors' code, whose evaluation never does."""
    precision: str = "float32"
    graphs: bool = False
    compiled: bool = False
    official: Path | None = None
    """A checkout of bytedance/GR-1."""
    official_python: Path | None = None
    """The Python that can import it."""


def inference(
    checkpoint: Annotated[
        Path | None, typer.Argument(help="A checkpoint folder; without: full-size gr1_published, random weights.")
    ] = None,
    batch: Annotated[list[int] | None, typer.Option(help="Robots that act at once; repeatable. Default: 1.")] = None,
    steps: Annotated[int, typer.Option(help="Streaming steps per round; a tenth of it full passes.", min=1)] = 20,
    rounds: Annotated[int, typer.Option(help="Rounds in which all take turns.", min=1)] = 5,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    threads: Annotated[int | None, typer.Option(help="Threads of PyTorch; one per core by default.", min=1)] = None,
    foresight: Annotated[bool, typer.Option("--foresight", help="Also predict frames.")] = False,
    precision: Annotated[str, typer.Option(help="float32, bfloat16 or float16; of streaming alone.")] = "float32",
    graphs: Annotated[bool, typer.Option("--graphs", help="Replay CUDA graphs.")] = False,
    compiled: Annotated[bool, typer.Option("--compiled", help="Through torch.compile.")] = False,
    official: Annotated[
        Path | None, typer.Option(help="Checkout of bytedance/GR-1, to be measured too (batch 1).")
    ] = None,
    official_python: Annotated[
        Path | None, typer.Option(help="Python that can import it; see scripts/peers/gr1/bench.py.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Milliseconds of a control step: streaming, full recompute, the authors' code of GR-1; and of each stage."""
    bench = InferenceBench(
        checkpoint=checkpoint, batches=tuple(batch or [1]), steps=steps, rounds=rounds, device=device, threads=threads,
        foresight=foresight, precision=precision, graphs=graphs, compiled=compiled, official=official,
        official_python=official_python,
    )  # fmt: skip
    found = measure_inference(bench, note=lambda text: print(f"{text} ...", file=sys.stderr))
    print(json.dumps(found, indent=2) if as_json else as_text(found))
    warn_if_busy(found["busy_before"])


def measure_inference(bench: InferenceBench, note: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """Percentiles of each way and stage, and ratios of interleaved medians.

    Before the clock runs, every way has filled its history, so steps are those of a sliding window.

    Raises:
        ForeActError: If a setting cannot be, the checkpoint is damaged, or the authors' code does not run.
    """
    import torch

    from foreact.commands.bench_data_process import Measurer
    from foreact.vla.errors import ConfigError
    from foreact.vla.runtime import StreamingActor, find_device

    if any(n < 1 for n in bench.batches):
        raise ConfigError(f"--batch must be at least 1, found {min(bench.batches)}")
    if (bench.official is None) != (bench.official_python is None):
        raise ConfigError("--official DIR and --official-python PYTHON go together: code and what runs it")
    find_device(bench.device)
    busy = busy_share()
    threads = bench.threads or os.cpu_count() or 1
    torch.set_num_threads(threads)
    note("building the policy")
    policy = _policy(bench)
    options = {"precision": bench.precision, "graphs": bench.graphs, "compiled": bench.compiled}
    found: dict[str, Any] = {"busy_before": busy, "settings": _settings(bench, policy, threads), "batches": {}}
    with ExitStack() as stack:
        authors = None
        if bench.official is not None:
            note("building the authors' network")
            authors = Measurer("bytedance/GR-1", [str(bench.official_python), str(_DRIVER)])
            stack.enter_context(authors)
            official = str(bench.official.resolve())
            asked = {"do": "setup", "threads": threads, "device": bench.device, "official": official}
            found["settings"]["official"] = authors.ask(asked)
        for n in bench.batches:
            robots = _Robots(policy, n)
            actor = StreamingActor(policy, device=bench.device, **options)
            # Stages inside a graph cannot be heard.
            whole = bench.graphs or bench.compiled
            plain = StreamingActor(policy, device=bench.device, precision=bench.precision) if whole else actor
            ways: dict[str, Callable[[int], Times]] = {
                "streaming": lambda count, robots=robots, actor=actor: robots.stream(actor, count, bench.foresight),
                "full recompute": lambda count, robots=robots: robots.recompute(count, bench.foresight),
            }
            if authors is not None and n == 1:
                ways["bytedance/GR-1"] = lambda count, authors=authors: authors.ask(
                    {"do": "steps", "count": count, "sizes": {"static": 200, "gripper": 84}}
                )["took"]
            rounds = _take_turns(ways, bench, _span(policy), lambda text, n=n: note(f"batch {n}, {text}"))
            note(f"batch {n}, stages")
            found["batches"][str(n)] = {
                "ways": {
                    way: _percentiles([wall for taken in each for wall, _ in taken]) for way, each in rounds.items()
                },
                "cpu_ms": {
                    way: statistics.median(cpu for taken in each for _, cpu in taken) for way, each in rounds.items()
                },
                "ratios": {f"{way} / streaming": _ratio(rounds[way], rounds["streaming"]) for way in list(ways)[1:]},
                "stages": robots.stages(plain, bench.steps, bench.foresight),
            }
    return found


def _take_turns(
    ways: dict[str, Callable[[int], Times]], bench: InferenceBench, span: int, note: Callable[[str], None]
) -> dict[str, list[Times]]:
    """Times per way and round; the order turns around from round to round, so that no way is always first."""
    note("warming up")
    for way, run in ways.items():
        run(span + 2 if way == "streaming" else 1)
    rounds: dict[str, list[Times]] = {way: [] for way in ways}
    for number in range(bench.rounds):
        note(f"round {number + 1} of {bench.rounds}")
        for way in list(ways)[:: -1 if number % 2 else 1]:
            rounds[way].append(ways[way](bench.steps if way == "streaming" else max(1, bench.steps // 10)))
    return rounds


class _Robots:
    """Made-up robots with what they see; full passes look at a whole window of it."""

    def __init__(self, policy: TrainablePolicy, n: int):
        self.policy, self.n, self._clock = policy, n, 0
        rng = np.random.default_rng(0)
        T, cameras = max(_DRAWN, policy.config.history), policy.contract.cameras
        self._images = {c.name: rng.integers(0, 256, (n, T, c.height, c.width, 3), dtype=np.uint8) for c in cameras}
        self._state = rng.uniform(-1.0, 1.0, (n, T, policy.contract.state_size)).astype(np.float32)
        self._sentences = ["push the red block to the left"] * n

    def stream(self, actor: StreamingActor, count: int, foresight: bool) -> Times:
        """Of so many steps, at each of which a plan is made."""
        from foreact.vla.policy import Observation

        took: Times = []
        for _ in range(count):
            now = self._clock % self._state.shape[1]
            self._clock += 1
            observation = Observation(
                slots=range(self.n),
                images={name: image[:, now] for name, image in self._images.items()},
                state=self._state[:, now],
                instruction=self._sentences,
            )
            began, cpu = time.perf_counter(), time.process_time()
            actor.plan(observation, foresight=foresight)
            took.append((1e3 * (time.perf_counter() - began), 1e3 * (time.process_time() - cpu)))
        return took

    def recompute(self, count: int, foresight: bool) -> Times:
        """Of so many steps, each from a whole window; the numbers are the same."""
        import torch

        T, device = self.policy.config.history, next(self.policy.parameters()).device
        exists = torch.ones(self.n, T, dtype=torch.bool, device=device)
        took: Times = []
        for _ in range(count):
            began, cpu = time.perf_counter(), time.process_time()
            self.policy.plan(
                {name: torch.from_numpy(image[:, :T]).to(device) for name, image in self._images.items()},
                torch.from_numpy(self._state[:, :T]).to(device), exists, exists, self._sentences, foresight=foresight,
            )  # fmt: skip
            took.append((1e3 * (time.perf_counter() - began), 1e3 * (time.process_time() - cpu)))
        return took

    def stages(self, actor: StreamingActor, count: int, foresight: bool) -> dict[str, dict[str, float]]:
        """Percentiles of each stage [ms] of streaming, and of whole steps beside them."""
        from foreact.vla.runtime_stages import listen

        self.stream(actor, _span(self.policy) + 2, foresight)
        with listen(actor.device) as stages:
            whole = self.stream(actor, count, foresight)
        # A stage can come several times in a step (uploads); what counts is what the step spends on it.
        found = {
            name: 1e3 * np.array(seconds).reshape(len(whole), -1).sum(axis=1)
            for name, seconds in stages.seconds.items()
        }
        return {name: _percentiles(ms) for name, ms in [*found.items(), ("whole step", [wall for wall, _ in whole])]}


def _policy(bench: InferenceBench) -> TrainablePolicy:
    from foreact.vla.checkpoint import load_policy

    if bench.checkpoint is not None:
        return load_policy(bench.checkpoint)
    import torch

    from foreact.policies.gr1.published import PublishedGR1
    from foreact.policies.gr1.published_config import PublishedGR1Config
    from foreact.policies.gr1.published_import import calvin_contract

    torch.manual_seed(0)
    return PublishedGR1(PublishedGR1Config(towers="random"), calvin_contract(), {})


def _span(policy: TrainablePolicy) -> int:
    """Control steps until the history is full."""
    return (policy.config.history - 1) * policy.config.history_stride + 1


def _settings(bench: InferenceBench, policy: TrainablePolicy, threads: int) -> dict[str, Any]:
    import torch

    parts = {"precision": bench.precision, "graphs": bench.graphs, "compiled": bench.compiled}
    device = torch.device(bench.device)
    return {
        "policy": policy.name,
        "weights": str(bench.checkpoint) if bench.checkpoint else "random",
        "parameters": sum(parameter.numel() for parameter in policy.parameters()),
        "history": policy.config.history,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "threads": threads,
        "torch": torch.__version__,
        "foresight": bench.foresight,
        **parts,
        "steps": bench.steps,
        "rounds": bench.rounds,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return "cpu"


def _percentiles(values: Sequence[float] | np.ndarray) -> dict[str, float]:
    return {f"p{p}_ms": float(np.percentile(values, p)) for p in (50, 90, 99)}


def _ratio(slow: list[Times], quick: list[Times]) -> dict[str, float]:
    """The ratio of medians over all rounds, the range of those within a round, and that of processor times."""

    def of(a: Times, b: Times, clock: int = 0) -> float:
        return statistics.median(step[clock] for step in a) / statistics.median(step[clock] for step in b)

    each = [of(a, b) for a, b in zip(slow, quick, strict=True)]
    a, b = sum(slow, []), sum(quick, [])
    return {"median": of(a, b), "low": min(each), "high": max(each), "cpu": of(a, b, 1)}


def as_text(found: dict[str, Any]) -> str:
    """What `measure_inference` found, as text for people."""
    lines = [", ".join(f"{key}: {value}" for key, value in found["settings"].items())]
    for n, batch in found["batches"].items():
        lines.append(
            f"\n{n} robot{'s' if n != '1' else ''}, a control step [ms]{'':12}p50       p90       p99   processor"
        )
        for title in ("ways", "stages"):
            for name, times in batch[title].items():
                cpu = f"{batch['cpu_ms'][name]:12.2f}" if title == "ways" else ""
                name = name if title == "ways" else f"  {name}"
                lines.append(f"{name:32}" + "".join(f"{value:10.2f}" for value in times.values()) + cpu)
        for name, ratio in batch["ratios"].items():
            lines.append(
                f"{name}: {ratio['median']:.2f} ({ratio['low']:.2f} - {ratio['high']:.2f} within a round), "
                f"processor time {ratio['cpu']:.2f}"
            )
    return "\n".join(lines)
