"""`foreact bench serve`: what a policy server adds to an inference, over loopback, in both dialects."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from foreact.commands.bench_busy import busy_share, warn_if_busy
from foreact.vla.errors import ForeActError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from foreact.vla.contract import Contract
    from foreact.vla.serving.client import PolicyClient

_COLD = 10


def serve(
    checkpoint: Annotated[str, typer.Argument(help="A checkpoint folder.")],
    requests: Annotated[int, typer.Option(help="Plans per measurement.", min=20)] = 300,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    threads: Annotated[int, typer.Option(help="Threads of PyTorch in the server.", min=1)] = 1,
    foresight: Annotated[bool, typer.Option("--foresight", help="Also predict frames.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Milliseconds from a request to its reply, by a server in another process; and how many of them are inference."""
    found = measure_serve(checkpoint, requests, device, threads, foresight)
    print(json.dumps(found, indent=2) if as_json else as_text(found))
    warn_if_busy(found["busy_before"])


def measure_serve(checkpoint: str, requests: int, device: str, threads: int, foresight: bool) -> dict[str, Any]:
    """Percentiles [ms] of the round trip, of the inference in it, and of the rest.

    Raises:
        ForeActError: If the server does not start.
    """
    from foreact.vla.contract import Contract
    from foreact.vla.serving.client import ClientSettings, connect

    busy = busy_share()
    found: dict[str, Any] = {"busy_before": busy, "requests": requests, "foresight": foresight, "dialects": {}}
    with _server(checkpoint, device, threads) as told:
        contract = Contract.from_yaml(told["contract"])
        for dialect, url in told["urls"].items():
            client = connect(url, ClientSettings(request_timeout_s=60.0, silence_s=60.0))
            try:
                found["dialects"][dialect] = _measure(client, contract, requests, foresight)
            finally:
                client.close()
    sizes = [f"{camera.name} {camera.height}x{camera.width}" for camera in contract.cameras]
    return {**found, "settings": {"checkpoint": told["title"], "device": device, "threads": threads, "cameras": sizes}}


@contextmanager
def _server(checkpoint: str, device: str, threads: int) -> Iterator[dict[str, Any]]:
    words = ["serve", checkpoint, "--dialect", "both", "--port", "0", "--gr00t-port", "0", "--json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "foreact.commands.main", *words, "--device", device, "--threads", str(threads)],
        stdout=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        text=True,
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            raise ForeActError("the server did not start; it said why above")
        yield json.loads(line)
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def _measure(client: PolicyClient, contract: Contract, requests: int, foresight: bool) -> dict[str, dict[str, float]]:
    rng = np.random.default_rng(0)
    drawn = [
        {f"image/{c.name}": rng.integers(256, size=(c.height, c.width, 3), dtype=np.uint8) for c in contract.cameras}
        for _ in range(8)
    ]
    rest = {"state": np.zeros(contract.state_size, np.float32), "prompt": "open the drawer", "foresight": foresight}
    whole, inside = [], []
    for number in range(_COLD + requests):
        began = time.perf_counter()
        reply = client.infer({**drawn[number % len(drawn)], **rest})
        whole.append(1e3 * (time.perf_counter() - began))
        inside.append(float(reply["server_timing"]["infer_ms"]))
    times = np.array([whole, inside])[:, _COLD:]
    rows = {"round trip": times[0], "inference": times[1], "wire": times[0] - times[1]}
    return {name: {f"p{q}": float(np.percentile(row, q)) for q in (50, 90, 99)} for name, row in rows.items()}


def as_text(found: dict[str, Any]) -> str:
    """What `measure_serve` found, for people."""
    lines = [f"{'[ms]':24}{'p50':>9}{'p90':>9}{'p99':>9}"]
    for dialect, rows in found["dialects"].items():
        for name, row in rows.items():
            lines.append(f"{dialect + ' ' + name:24}" + "".join(f"{row[q]:9.2f}" for q in ("p50", "p90", "p99")))
    settings = ", ".join(f"{key}: {value}" for key, value in found["settings"].items())
    return "\n".join([*lines, "", f"{settings}, {found['requests']} requests, foresight: {found['foresight']}"])
