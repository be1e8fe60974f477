"""The README and the docs speak of what exists: commands, Makefile targets, files, folders, entry points."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
import subprocess
import tomllib
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import typer
from typer.core import TyperGroup

from foreact.commands import main
from foreact.commands.hydra_config import compose
from foreact.vla.actors import GROUP
from foreact.vla.errors import ConfigError

UsageError = typer.BadParameter.__bases__[0]  # typer has no public name for it
ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [path for pattern in ("*.md", "docs/**/*.md", "examples/**/*.md", "*/README.md") for path in ROOT.glob(pattern)]
PAGES = sorted({path for path in PAGES if not path.relative_to(ROOT).parts[0].startswith(".")})


def load_helper(name: str) -> ModuleType:
    """A module beside this file; tests are no package to import it from."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


doc_blocks = load_helper("doc_blocks")


def blocks(text: str, language: str) -> list[str]:
    """Contents of the fenced code blocks of a language; "" for those that name none."""
    return [block for named, block in doc_blocks.fenced(text) if named == language]


def command_lines() -> list[str]:
    """Every command in the code blocks of all pages."""
    return [line for page in PAGES for block in blocks(page.read_text(), "bash") for line in doc_blocks.commands(block)]


def makefile_targets() -> set[str]:
    """Targets of the Makefile that `make help` lists."""
    return set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))


def check_make(words: list[str]) -> None:
    """Raise ValueError for a target that the Makefile does not have."""
    unknown = [word for word in words if "=" not in word and word not in makefile_targets()]
    if unknown:
        raise ValueError(f"no such targets in the Makefile: {unknown}")


def check_foreact(words: list[str]) -> None:
    """Parse a command line as `foreact` would, without running it."""
    arguments = list(words)
    command, context = typer.main.get_command(main.app), None
    while isinstance(command, TyperGroup):  # step down to the command that is meant
        group, name = command, arguments.pop(0) if arguments else ""
        if name not in group.commands:
            raise ValueError(f"no command {name!r}; known: {sorted(group.commands)}")
        context = typer.Context(group, info_name=group.name, parent=context)
        command = group.commands[name]
        if command.context_settings.get("ignore_unknown_options"):  # handed on to the module of that name
            module = import_module(f"foreact.commands.{name}")
            if not hasattr(module, "app"):
                compose(name, [word for word in arguments if not word.startswith("--")])
                return
            command = typer.main.get_command(module.app)
    command.make_context(command.name, arguments, parent=context)


def check(line: str) -> None:
    """Raise if a line of a code block is not a command of this repository."""
    words = shlex.split(line, comments=True)
    if words[0] == "make":
        check_make(words[1:])
    elif words[0] == "foreact":
        check_foreact(words[1:])
    elif words[:2] == ["accelerate", "launch"]:
        check_foreact(words[words.index("foreact.commands.main") + 1 :])
    elif words[0] == "python":
        if not (ROOT / words[1]).is_file():
            raise ValueError(f"no script {words[1]} in this repository")
    else:
        raise ValueError(
            f"this test knows `make`, `foreact` and `python`, not {words[0]!r}; teach it or leave the line out"
        )


@pytest.mark.parametrize("line", command_lines())
def test_command_is_real(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for word in shlex.split(line, comments=True):  # paths that a command wants to exist
        if re.fullmatch(r"\w+(/\w+)+", word):
            (tmp_path / word).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    check(line)


@pytest.mark.parametrize(
    "line",
    ["make coffee", "foreact dance", "foreact data dance x", "foreact bench sim --fast", "foreact evaluate chekpoint=x",
     "foreact sim info too many words", "python no/such.py", "rm -rf x"],
)  # fmt: skip
def test_made_up_command_is_seen(line: str) -> None:
    with pytest.raises((ValueError, UsageError, ConfigError)):
        check(line)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_examples_import_what_exists(page: Path) -> None:
    for block in blocks(page.read_text(), "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("foreact"):
                for alias in node.names:
                    assert hasattr(import_module(str(node.module)), alias.name), f"{node.module}.{alias.name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)\)", page.read_text())
    missing = [link for link in links if not re.match(r"\w+:", link) and not (page.parent / link).exists()]
    assert missing == []


def test_layout_names_every_folder_and_no_other() -> None:
    (tree,) = [block for block in blocks(README, "") if "src/foreact/" in block]
    named = {line.split()[0] for line in tree.splitlines()}
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    ).stdout
    folders = {path.split("/")[0] + "/" for path in listed.splitlines() if "/" in path and not path.startswith(".")}
    if not folders:
        pytest.skip("not a git checkout, so build products cannot be told from folders; runs in a clone")
    assert named == (folders - {"src/"}) | {"src/foreact/"}


def test_entry_point_example_is_what_the_code_looks_for() -> None:
    (example,) = blocks(README, "toml")
    assert set(tomllib.loads(example)["project"]["entry-points"]) == {GROUP}


def test_every_make_target_is_explained_by_help() -> None:
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert phony and set(phony[1].split()) == makefile_targets()
    shown = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {line.split()[1] for line in shown.splitlines()} == makefile_targets()
