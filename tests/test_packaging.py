"""Guards of the layout: links, import arrows, what is installed, and what may never be called."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "foreact"
BARE = ("vla", "datasets", "policies", "sim", "robot_bridge")
"""Root folders without an `__init__.py`: as namespace candidates they lose against any installed package."""
LINKED = (*BARE, "configs")
OF_THE_SYSTEM = {
    "rclpy", "launch", "launch_ros", "ament_index_python", "rosidl_runtime_py", "rcl_interfaces", "action_msgs",
    "builtin_interfaces", "control_msgs", "diagnostic_msgs", "geometry_msgs", "lifecycle_msgs", "rosgraph_msgs",
    "sensor_msgs", "std_msgs", "std_srvs", "trajectory_msgs",
}  # fmt: skip
"""Come with ROS 2, not from a package registry."""
OF_THE_AUTHORS_OF_GR1 = {"models", "torchvision"}
"""A checkout of bytedance/GR-1 and what it needs, in a virtual environment of its own: scripts/golden_gr1.py."""
OF_OTHER_SIMULATORS = {"calvin_env", "pybullet", "libero", "robosuite"}
"""Come with a checkout of calvin_env or with hf-libero, each in a virtual environment of its own: docs/adapters.md."""
MAY_IMPORT = {
    "vla": set(),
    "datasets": {"vla"},
    "policies": {"vla"},
    "sim": {"vla", "datasets"},
    "robot_bridge": {"vla", "datasets"},
    "configs": set(),
}


def sources(folder: str) -> list[Path]:
    """The Python files of a root folder."""
    return [path for path in sorted((ROOT / folder).rglob("*.py")) if "__pycache__" not in path.parts]


ALL_SOURCES = [path for folder in LINKED for path in sources(folder)] + sorted((PACKAGE / "commands").rglob("*.py"))


def run_python(*args: str, cwd: Path = ROOT, path: Path | None = None) -> str:
    """Standard output of a child interpreter that finds packages in `path`, if given, and our sources."""
    places = [str(place) for place in (path, ROOT / "src") if place]
    child = subprocess.run(
        [sys.executable, *args], cwd=cwd, env={"PYTHONPATH": ":".join(places), "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr
    return child.stdout.strip()


@pytest.mark.parametrize("folder", LINKED)
def test_link_in_the_package_is_relative_and_reaches_the_root_folder_of_its_name(folder: str) -> None:
    link = PACKAGE / folder
    assert link.is_symlink()
    assert not link.readlink().is_absolute()
    assert link.resolve(strict=True) == ROOT / folder


def test_package_holds_nothing_but_links_and_commands() -> None:
    found = {path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    assert found == {*LINKED, "commands", "__init__.py", "py.typed"}


@pytest.mark.parametrize("folder", [*BARE, "launch"])
def test_root_folder_is_bare(folder: str) -> None:
    assert not (ROOT / folder / "__init__.py").exists()


def test_our_folders_never_shadow_an_installed_package_of_the_same_name(tmp_path: Path) -> None:
    names = [*BARE, "launch"]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
    code = f"import {', '.join(names)}; print([m.__file__ for m in ({', '.join(names)},)])"
    found = ast.literal_eval(run_python("-c", code, path=tmp_path))  # `-c` puts the repository root first on sys.path
    assert found == [str(tmp_path / name / "__init__.py") for name in names]


@pytest.mark.parametrize("module", ["foreact", "foreact.vla.contract", "foreact.commands.main"])
def test_import_stays_light(module: str) -> None:
    heavy = {"torch", "mujoco", "transformers", "hydra"}
    loaded = run_python("-c", f"import sys, {module}; print(' '.join(sys.modules))").split()
    assert module in loaded
    assert not heavy & set(loaded)


def imports_of(tree: ast.AST) -> set[str]:
    """Dotted names of all modules that are imported anywhere in the tree, by statement or by a constant string."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            found |= {f"{module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            found |= {str(argument.value) for argument in node.args if isinstance(argument, ast.Constant)}
    return found


def wrong_arrows(folder: str, tree: ast.AST) -> set[str]:
    """Imports by a file of `folder` that point the wrong way, or are relative."""
    allowed = {folder, *MAY_IMPORT[folder]}
    ours = {name for name in imports_of(tree) if name.split(".")[0] in {"foreact", ""}}
    ours -= {"foreact", "foreact.__version__"}
    return {name for name in ours if name.startswith(".") or (name.split(".") + [""])[1] not in allowed}


@pytest.mark.parametrize("folder", LINKED)
def test_arrows_between_folders_run_one_way(folder: str) -> None:
    wrong = {str(path.relative_to(ROOT)): wrong_arrows(folder, ast.parse(path.read_text())) for path in sources(folder)}
    assert {path: names for path, names in wrong.items() if names} == {}


def test_wrong_arrows_are_seen() -> None:
    for line in (
        "from foreact.sim.env import DeskEnv",
        "def f():\n    import foreact.policies.gr1.foreact",
        "import importlib\nimportlib.import_module('foreact.sim.env')",
        "from foreact import sim",
        "from .store import open_store",
    ):
        assert wrong_arrows("datasets", ast.parse(line)), line
    assert not wrong_arrows("datasets", ast.parse("import numpy\nfrom foreact.vla.errors import ForeActError"))


def canonical(name: str) -> str:
    """A distribution's name as registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_library_that_is_imported_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    declared = {canonical(re.split(r"[^\w.-]", line)[0]) for line in lines}
    # rerun is not part of the set-up, so it is not found by its name
    offered = {"rerun": ["rerun-sdk"], **metadata.packages_distributions()}
    files = [*ALL_SOURCES, *(ROOT / "scripts").glob("*.py"), *(ROOT / "tests").rglob("*.py")]
    undeclared = {
        f"{path.relative_to(ROOT)}: {top}"
        for path in files
        for top in {name.split(".")[0] for name in imports_of(ast.parse(path.read_text()))}
        if top
        not in sys.stdlib_module_names | {"foreact", ""} | OF_THE_SYSTEM | OF_OTHER_SIMULATORS | OF_THE_AUTHORS_OF_GR1
        and not (
            path.relative_to(ROOT).parts[0] in ("scripts", "tests") and (path.parent / f"{top}.py").is_file()
        )  # its neighbour
        and not declared & {canonical(name) for name in offered.get(top, [top])}
    }
    assert undeclared == set()


UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "jsonpickle"}
UNSAFE_CALLS = {
    "eval", "exec", "__import__", "os.system", "torch.load", "yaml.load", "yaml.full_load", "yaml.unsafe_load",
}  # fmt: skip
UNSAFE_OPTIONS = {"allow_pickle": True, "weights_only": False, "trust_remote_code": True, "shell": True}
AUDITED = {"policies/gr1/published_unpack.py": ["torch.load() in line"]}
"""The one module that reads files of strangers, in a confined process: tensors and plain containers only."""


def unsafe(tree: ast.AST) -> list[str]:
    """What in this file could run code that came with data."""
    found = [name for name in imports_of(tree) if name.split(".")[0] in UNSAFE_MODULES]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in UNSAFE_CALLS:
                found.append(f"{name}() in line {node.lineno}")
            for word in node.keywords:
                # Anything but the safe constant counts: a variable could hold either.
                if word.arg in UNSAFE_OPTIONS and ast.unparse(word.value) != str(not UNSAFE_OPTIONS[word.arg]):
                    found.append(f"{word.arg}={ast.unparse(word.value)} in line {node.lineno}")
    return found


def test_sources_never_run_code_out_of_data() -> None:
    assert ALL_SOURCES
    found = {str(path.relative_to(ROOT)): unsafe(ast.parse(path.read_text())) for path in ALL_SOURCES}
    without_lines = {path: [re.sub(r" \d+$", "", p) for p in problems] for path, problems in found.items() if problems}
    assert without_lines == AUDITED
    assert "weights_only=True" in (ROOT / next(iter(AUDITED))).read_text()


@pytest.mark.parametrize(
    "line",
    ["import pickle", "from joblib import load", "eval(x)", "torch.load(f)", "numpy.load(f, allow_pickle=True)",
     "numpy.load(f, allow_pickle=flag)", "AutoModel.from_pretrained(d, trust_remote_code=True)", "yaml.load(t, L)"],
)  # fmt: skip
def test_unsafe_lines_are_seen(line: str) -> None:
    assert unsafe(ast.parse(line))


def test_safe_lines_pass() -> None:
    assert not unsafe(ast.parse("model.eval()\nnumpy.load(f, allow_pickle=False)\nyaml.safe_load(t)\ntorch.compile(m)"))


def folder_files() -> set[str]:
    """Paths inside a wheel of all that the root folders and the package hold."""
    found = set()
    for base, prefix in [(PACKAGE / "commands", "foreact/commands"), *((ROOT / n, f"foreact/{n}") for n in LINKED)]:
        for path in base.rglob("*"):
            if path.is_file() and path.suffix != ".pyc":
                found.add(f"{prefix}/{path.relative_to(base).as_posix()}")
    return found | {"foreact/__init__.py", "foreact/py.typed"}


def test_wheel_by_way_of_the_sdist_holds_every_file(tmp_path: Path) -> None:
    run_python("-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path))
    (archive,) = tmp_path.glob("*.tar.gz")
    subprocess.run(["tar", "xzf", archive.name], cwd=tmp_path, check=True)
    unpacked = tmp_path / archive.name.removesuffix(".tar.gz")
    run_python("-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path), cwd=unpacked)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        names = set(opened.namelist())
    held = {name for name in names if not name.split("/")[0].endswith(".dist-info")}
    assert held == folder_files()
    assert {"LICENSE", "NOTICE"} <= {Path(name).name for name in names - held}
