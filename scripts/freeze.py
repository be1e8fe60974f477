"""Print NAME==VERSION of everything that pyproject.toml pulls in, as installed here, for constraints.txt."""

from __future__ import annotations

import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

NOT_SET_UP = {"wandb", "view", "s3", "slurm", "metaworld", "libero"}
"""Extras that `make setup` leaves out."""


def closure(requirements: list[Requirement]) -> dict[str, str]:
    """Distribution name -> installed version of the requirements and of all they need, without local labels."""
    pinned: dict[str, str] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    while requirements:
        requirement = requirements.pop()
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        distribution = metadata.distribution(requirement.name)
        pinned[key[0]] = distribution.version.split("+")[0]  # 2.13.0+cpu: constraints hold for GPU builds too
        for line in distribution.requires or []:
            needed = Requirement(line)
            extras = requirement.extras or {""}
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                requirements.append(needed)
    return pinned


def main() -> None:
    """Print the list, sorted."""
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    extras = {name: lines for name, lines in project["optional-dependencies"].items() if name not in NOT_SET_UP}
    lines = [*project["dependencies"], *(line for extra in extras.values() for line in extra)]
    try:
        pinned = closure([Requirement(line) for line in lines])
    except metadata.PackageNotFoundError as error:
        sys.exit(f"{error.name} is not installed here; run `make setup` first")
    version = ".".join(map(str, sys.version_info[:2]))
    print(f"# Versions that were tested together, on Python {version}. `make constraints` writes this file.")
    for name, version in sorted(pinned.items()):
        print(f"{name}=={version}")


if __name__ == "__main__":
    main()
