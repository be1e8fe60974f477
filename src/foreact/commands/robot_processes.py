"""Robot, policy server and gate as processes of their own on this machine, for demonstrations and tests."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from foreact.vla.errors import ForeActError

_GRACE_S = 10.0


class ProcessEnded(ForeActError):
    """One of the processes is gone, or did not get ready."""


class Child:
    """One process that speaks JSON lines on its standard output.

    Args:
        name: For messages.
        argv: Of `foreact`.
        log: Gets its standard error.
        environ: Of the process.
        talks: Whether it is asked things on its standard input.
    """

    def __init__(self, name: str, argv: list[str], log: Path, environ: dict[str, str], talks: bool = False):
        self.name, self.log = name, log
        self._file = log.open("a")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "foreact.commands.main", *argv], stdout=subprocess.PIPE, stderr=self._file,
            stdin=subprocess.PIPE if talks else subprocess.DEVNULL, env=environ, text=True,
        )  # fmt: skip
        self.lines: queue.Queue[dict[str, Any]] = queue.Queue()
        self._answers: queue.Queue[dict[str, Any]] = queue.Queue()
        assert self.process.stdout is not None
        self._reader = threading.Thread(target=self._read, args=(self.process.stdout,), daemon=True)
        self._reader.start()

    def _read(self, out: IO[str]) -> None:
        for line in out:
            try:
                said = json.loads(line)
            except ValueError:
                continue
            (self._answers if "ok" in said else self.lines).put(said)

    def next(self, timeout_s: float) -> dict[str, Any] | None:
        """The next line that is no answer, or None if none comes in time.

        Raises:
            ProcessEnded: If the process is gone.
        """
        return self._take(self.lines, timeout_s)

    def _take(self, lines: queue.Queue[dict[str, Any]], timeout_s: float) -> dict[str, Any] | None:
        end = time.monotonic() + timeout_s
        while True:
            try:
                return lines.get(timeout=min(0.2, max(0.0, end - time.monotonic())))
            except queue.Empty:
                self.check()
                if time.monotonic() >= end:
                    return None

    def ask(self, request: dict[str, Any], timeout_s: float = 60.0) -> dict[str, Any]:
        """Write a line, and wait for the answer; what else comes meanwhile is for `next`.

        Raises:
            ProcessEnded: If no answer comes.
            ForeActError: If the answer is no.
        """
        assert self.process.stdin is not None
        while not self._answers.empty():  # one that came too late for whoever asked
            self._answers.get_nowait()
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except OSError as error:
            raise ProcessEnded(f"{self.name} is gone; its log is {self.log}") from error
        answer = self._take(self._answers, timeout_s)
        if answer is None:
            raise ProcessEnded(f"{self.name} did not answer {request} within {timeout_s:g} s; its log is {self.log}")
        if not answer["ok"]:
            raise ForeActError(f"{self.name}: {answer['error']}")
        return answer

    def check(self) -> None:
        """Raises:
        ProcessEnded: If the process is gone, with the end of its log.
        """
        status = self.process.poll()
        if status is not None:
            last = "\n".join(self.log.read_text(errors="replace").splitlines()[-5:])
            raise ProcessEnded(f"{self.name} ended with status {status}; {self.log} ends with:\n{last}")

    def end(self) -> None:
        """SIGTERM, and SIGKILL if that does not help."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._reader.join(_GRACE_S)
        for pipe in (self.process.stdin, self.process.stdout, self._file):
            if pipe is not None and not (pipe is self.process.stdout and self._reader.is_alive()):
                with contextlib.suppress(OSError):
                    pipe.close()


class Stand:
    """A simulated robot, a policy server and a gate, on loopback and a domain of their own.

    Args:
        checkpoint: What is served.
        robot: Robot file.
        out: Folder for logs, events and the store.
        store: Whether episodes are recorded, in `out/store`.
        domain_id: ROS domain.
        sim: Further words for `foreact robot sim`.
    """

    def __init__(
        self, checkpoint: str, robot: str, out: Path, *, store: bool = True, domain_id: int = 0,
        sim: tuple[str, ...] = (),
    ):  # fmt: skip
        self.out, self.robot, self.domain_id = out, robot, domain_id
        self._checkpoint, self._store, self._sim = checkpoint, store, sim
        self.children: dict[str, Child] = {}
        self.served: dict[str, Any] = {}
        """What the policy server said of itself."""

    def __enter__(self) -> Stand:
        self.out.mkdir(parents=True, exist_ok=True)
        try:
            self._start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The gate first: it disarms while the robot still listens.
        for name in ("gate", "policy", "robot"):
            if name in self.children:
                self.children[name].end()

    def _start(self) -> None:
        robot = self._begin("robot")
        policy = self._begin("policy")
        _wait(robot, lambda line: line.get("event") == "ready", 120.0)
        self.served = _wait(policy, lambda line: "urls" in line, 300.0)
        _wait(self._begin("gate"), lambda line: line.get("kind") == "ready", 120.0)

    def restart(self, name: str) -> None:
        """Start the gate or the policy's process anew, and wait until it is ready; what is left of the old one ends. A
        policy server keeps its port, where the gate finds it.

        Raises:
            ProcessEnded: If it does not get ready.
        """
        old = self.children[name]
        old.end()
        child = self._begin(name)
        if name == "policy":
            self.served = _wait(child, lambda line: "urls" in line, 300.0)
        else:
            _wait(child, lambda line: line.get("kind") == "ready", 120.0)

    def _begin(self, name: str) -> Child:
        domain = ["--domain-id", str(self.domain_id)]
        match name:
            case "robot":
                argv = ["robot", "sim", "--robot", self.robot, "--control", *domain, *self._sim]
            case "policy":
                port = self.served["urls"]["openpi"].rpartition(":")[2] if self.served else "0"
                argv = ["serve", self._checkpoint, "--robot", self.robot, "--port", port, "--json"]
            case _:
                store = ["--store", str(self.out / "store")] if self._store else []
                argv = ["robot", "run", self.robot, "--url", self.served["urls"]["openpi"], "--json", *domain, *store,
                        "--events", str(self.out / "events.jsonl")]  # fmt: skip
        return self._child(name, argv, name == "robot")

    def _child(self, name: str, argv: list[str], talks: bool) -> Child:
        # One thread each, and sleeping waits: three processes share few cores with a real-time loop.
        environ = {
            **os.environ, "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "PASSIVE", "PYTHONUNBUFFERED": "1",
        }  # fmt: skip
        child = Child(name, argv, self.out / f"{name}.log", environ, talks)
        self.children[name] = child
        return child


def _wait(child: Child, wanted, timeout_s: float) -> dict[str, Any]:
    end = time.monotonic() + timeout_s
    while (line := child.next(max(0.0, end - time.monotonic()))) is not None:
        if wanted(line):
            return line
    raise ProcessEnded(f"{child.name} was not ready within {timeout_s:g} s; its log is {child.log}")
