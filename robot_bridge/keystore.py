"""Whether the keys that SROS2 would take are there, and for this domain, before the middleware looks.

Under "Enforce" ROS 2 does not start without them, but says `error not set`. What is read here is not verified: that is
what the middleware does. Files and places: rmw_dds_common/src/security.cpp and rcl/src/rcl/security.c, Jazzy.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from foreact.vla.errors import did_you_mean

_FILES = ("identity_ca.cert", "permissions_ca.cert", "cert", "key")
"""Of an enclave, each as PEM or as a reference to a PKCS#11 token."""
_SIGNED = ("governance.p7s", "permissions.p7s")
_MAX_BYTES = 1 << 20
_HOW = "make it with `ros2 security generate_artifacts`, see docs/ros2.md"


def enclave_of(arguments: Sequence[str]) -> str:
    """The enclave that a command line names (`--ros-args --enclave /foreact`), else "/" as in ROS 2."""
    found, inside = "/", False
    for word, following in zip(arguments, (*arguments[1:], ""), strict=False):
        if word == "--ros-args":
            inside = True
        elif word == "--":
            inside = False
        elif inside and word in ("-e", "--enclave"):
            found = following
    return found


def missing_keys(keystore: str, enclave: str, domain_id: int) -> str:
    """Why no node could join this domain with these keys; empty if nothing is missing.

    Args:
        keystore: As ROS_SECURITY_KEYSTORE.
        enclave: Such as "/foreact".
        domain_id: That will be joined.
    """
    if not keystore:
        return "ROS_SECURITY_KEYSTORE is not set"
    enclaves = Path(keystore) / "enclaves"
    if not enclaves.is_dir():
        return f"ROS_SECURITY_KEYSTORE={keystore:.200} holds no folder `enclaves`, so it is no keystore; {_HOW}"
    if not enclave.startswith("/"):
        return f"the enclave {enclave!r:.80} must begin with a slash: ROS 2 drops its first character"
    folder = enclaves / enclave[1:]
    known = sorted(f"/{key.parent.relative_to(enclaves).as_posix()}" for key in enclaves.glob("**/key.p*"))
    if not folder.is_dir() or (enclave == "/" and not (folder / "permissions.p7s").exists()):
        named = "no enclave is named" if enclave == "/" else f"there is no enclave {enclave!r:.80}"
        return (
            f"{named} in the keystore {keystore:.200}; {did_you_mean(enclave, known)}. Set "
            "ROS_SECURITY_ENCLAVE_OVERRIDE=/foreact, or give `--ros-args --enclave /foreact`"
        )
    for name in _FILES:
        if not any(_readable(folder / f"{name}.{ending}") for ending in ("pem", "p11")):
            return f"the enclave {enclave} has no {name}.pem that can be read ({folder}); {_HOW}"
    for name in _SIGNED:
        if not _readable(folder / name):
            return f"the enclave {enclave} has no {name} that can be read ({folder}); {_HOW}"
        if not _names_domain(_text(folder / name), domain_id):
            return (
                f"{name} of the enclave {enclave} is not for domain {domain_id}: keys are for the ROS_DOMAIN_ID that "
                f"was set when they were made; make them anew with ROS_DOMAIN_ID={domain_id}"
            )
    return ""


def lets_in(keystore: str, enclave: str) -> str:
    """What in the governance of these keys lets strangers in although security is enforced; empty if nothing does."""
    text = _text(Path(keystore) / "enclaves" / enclave[1:] / "governance.p7s")
    for name, closed in (
        ("allow_unauthenticated_participants", "false"), ("enable_join_access_control", "true"),
        ("enable_write_access_control", "true"),
    ):  # fmt: skip
        for value in re.findall(rf"<{name}>\s*([^<\s]*)\s*</{name}>", text):
            if {"1": "true", "0": "false"}.get(value, value) != closed:
                return f"governance.p7s of the enclave {enclave} says {name}={value:.20}, expected {closed}"
    return ""


def _text(path: Path) -> str:
    return path.read_bytes()[:_MAX_BYTES].decode("utf-8", "replace")


def _names_domain(text: str, domain_id: int) -> bool:
    if "<domains>" not in text:
        return True  # signed in a form that hides its text: the middleware will say
    for part in re.findall(r"<domains>(.*?)</domains>", text, re.DOTALL):
        if any(int(number) == domain_id for number in re.findall(r"<id>\s*(\d+)\s*</id>", part)):
            return True
        for low, high in re.findall(r"<min>\s*(\d+)\s*</min>(?:\s*<max>\s*(\d+)\s*</max>)?", part):
            if int(low) <= domain_id <= int(high or domain_id):
                return True
    return False


def _readable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.R_OK)
