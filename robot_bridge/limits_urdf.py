"""The joints of a URDF, read as data from a stranger: no entities, no tree in memory, a cap on size and depth."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from xml.etree.ElementTree import ParseError, XMLParser

from foreact.vla.errors import ForeActError

_MAX_CHARS = 4 << 20
_MAX_DEPTH = 64
_MAX_JOINTS = 512


class UrdfError(ForeActError):
    """A text is not a URDF that we read."""


@dataclass
class UrdfJoint:
    """One joint as it is written."""

    name: str
    kind: str
    low: float | None = None
    high: float | None = None
    velocity: float | None = None
    xyz: tuple[float, float, float] = (0.0, 0.0, 0.0)
    rpy: tuple[float, float, float] = (0.0, 0.0, 0.0)
    axis: tuple[float, float, float] = (1.0, 0.0, 0.0)


class _Collector:
    """Sees every tag go by and keeps the joints directly under the robot."""

    def __init__(self) -> None:
        self.joints: dict[str, UrdfJoint] = {}
        self._path: list[str] = []
        self._joint: UrdfJoint | None = None

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        self._path.append(tag)
        if len(self._path) > _MAX_DEPTH:
            raise UrdfError(f"the URDF is nested deeper than {_MAX_DEPTH} tags")
        if self._path == ["robot", "joint"]:
            name = attributes.get("name", "")
            if name in self.joints:
                raise UrdfError(f"the URDF has two joints named {name!r:.80}")
            if len(self.joints) >= _MAX_JOINTS:
                raise UrdfError(f"the URDF has more than {_MAX_JOINTS} joints")
            self._joint = self.joints[name] = UrdfJoint(name, attributes.get("type", ""))
        elif self._joint is not None and self._path[:2] == ["robot", "joint"] and len(self._path) == 3:
            self._part(self._joint, tag, attributes)

    def end(self, tag: str) -> None:
        self._path.pop()

    def close(self) -> dict[str, UrdfJoint]:
        return self.joints

    def _part(self, joint: UrdfJoint, tag: str, attributes: Mapping[str, str]) -> None:
        if tag == "limit":
            joint.low = _number(attributes.get("lower", "0"))
            joint.high = _number(attributes.get("upper", "0"))
            joint.velocity = _number(attributes["velocity"]) if "velocity" in attributes else None
        elif tag == "origin":
            joint.xyz = _triple(attributes.get("xyz", "0 0 0"))
            joint.rpy = _triple(attributes.get("rpy", "0 0 0"))
        elif tag == "axis":
            joint.axis = _triple(attributes.get("xyz", "1 0 0"))


def read_urdf(text: str) -> dict[str, UrdfJoint]:
    """Joint name -> joint, of a URDF's text.

    Raises:
        UrdfError: If it is too large or too deep, declares entities, is not XML, or a number is none.
    """
    if len(text) > _MAX_CHARS:
        raise UrdfError(f"the URDF has {len(text):,} characters; at most {_MAX_CHARS:,} are read")
    if "<!" in text.replace("<!--", ""):
        raise UrdfError("the URDF has a document type, entities or CDATA; a robot description needs none")
    collector = _Collector()
    parser = XMLParser(target=collector)
    try:
        parser.feed(text)
        parser.close()
    except (ParseError, ValueError) as error:
        raise UrdfError(f"the URDF is not XML: {error}") from error
    if not collector.joints:
        raise UrdfError("the URDF has no joints directly under <robot>; xacro files must be expanded first")
    return collector.joints


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UrdfError(f"the URDF says {text!r:.40} where a number is needed")
    return value


def _triple(text: str) -> tuple[float, float, float]:
    parts = text.split(maxsplit=3)
    if len(parts) != 3:
        raise UrdfError(f"the URDF says {text!r:.40} where three numbers are needed")
    x, y, z = map(_number, parts)
    return x, y, z
