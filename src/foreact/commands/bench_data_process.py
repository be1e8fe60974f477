"""One process that measures, and the folder sizes it is compared by."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import foreact
from foreact.vla.errors import ForeActError


class PeerFailed(ForeActError):
    """A measuring process could not be started, or failed."""


class Measurer:
    """A process that answers JSON lines, see `bench_data_loop.serve`; a context manager that ends it.

    Args:
        title: Names it in messages.
        command: What to run.

    Raises:
        PeerFailed: If it cannot be started.
    """

    def __init__(self, title: str, command: Sequence[str]):
        self.title = title
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115  (closed in __exit__)
        source = str(Path(foreact.__file__).parents[1])
        ours = {"PYTHONPATH": os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH", "")]))}
        try:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                text=True,
                env={**os.environ, **(ours if "-m" in command else {})},
            )
        except OSError as error:
            self._log.close()
            raise PeerFailed(f"{title}: {command[0]} could not be run: {error.strerror}") from error

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """One request, one answer.

        Raises:
            PeerFailed: If the process says that it failed, or is gone.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        answer = json.loads(line) if line else {"error": f"it ended with {self._ended()}"}
        if "error" in answer:
            self._ended()
            raise PeerFailed(
                f"{self.title}, {request['do']}: {answer['error']}\n{self._tail()}\n"
                f"Its command was: {' '.join(map(str, self._process.args))}"  # type: ignore[arg-type]
            )
        return answer

    def _ended(self) -> str:
        try:
            return f"status {self._process.wait(timeout=10)}"
        except subprocess.TimeoutExpired:
            return "no answer"

    def _tail(self) -> str:
        self._log.seek(0)
        return "".join(self._log.readlines()[-12:]).strip()

    def __enter__(self) -> Measurer:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._log.close()


def folder_bytes(path: Path, counts: Callable[[Path], bool] = lambda file: True) -> int:
    """Size of all files in a folder for whose path inside it `counts` is true."""
    files = (file for file in path.rglob("*") if file.is_file())
    return sum(file.stat().st_size for file in files if counts(file.relative_to(path)))
