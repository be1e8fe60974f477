"""`foreact serve`: a policy in its own process, or on its own machine, for robots and simulators to ask."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foreact.vla.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    import ssl

    from foreact.vla.contract import Contract
    from foreact.vla.policy import Actor
    from foreact.vla.serving.service import PolicyService, ToJoints

_NEEDS = {"openpi": ("msgpack", "websockets"), "gr00t": ("msgpack", "zmq"), "both": ("msgpack", "websockets", "zmq")}


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """What is served, to whom, and how."""

    checkpoint: str = ""
    """Folder, or hf://user/name."""
    actor: str = ""
    """Instead: the name of a built-in or installed actor, for the desk."""
    dialect: str = "openpi"
    """What is spoken: "openpi" (websocket), "gr00t" (ZeroMQ), or "both"."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = 8000
    """Of openpi's dialect; 0: any that is free."""
    gr00t_port: int = 5555
    """Of GR00T's dialect; 0: any that is free."""
    device: str = "cpu"
    threads: int = 1
    """Of PyTorch; their number changes how sums are rounded."""
    execute_steps: int | None = None
    """Actions of a plan that clients execute before the next; None: as the policy was trained."""
    batch_size: int | None = 1
    """Rows of every pass of the network; 1: a robot's numbers do not depend on what else runs."""
    warmup: int = 20
    """Inferences that are timed before the first client."""
    clients: int = 4
    """How many are served at once."""
    timeout_s: float = 30.0
    """Longest time from a request to its reply."""
    token_file: str = ""
    """File with the secret of clients; else FOREACT_TOKEN."""
    tls_cert: str = ""
    tls_key: str = ""
    """Certificate that the websocket shows, and its key."""
    allow_kill: bool = False
    """Whether GR00T's request `kill` ends this process."""
    keys: Sequence[str] = ()
    """OURS=THEIRS: further names in requests."""
    robot: str = ""
    """A robot's configuration: plans also come as joint targets."""
    as_json: bool = False
    """Print the URLs, and what a client is told first, as one line of JSON when ready."""


def run(settings: ServeSettings) -> None:
    """Load, warm up, listen until told to stop (SIGINT, SIGTERM).

    Raises:
        ForeActError: If a setting is wrong, the policy cannot be loaded, or a port is taken.
    """
    if settings.dialect not in _NEEDS:
        raise ConfigError(f"--dialect {settings.dialect!r}; {did_you_mean(settings.dialect, _NEEDS)}")
    if bool(settings.checkpoint) == bool(settings.actor):
        raise ConfigError("say what is served: either a checkpoint folder or --actor NAME")
    from foreact.vla.serving.access import check_bind, read_token, server_tls
    from foreact.vla.serving.keys import parse_keys

    keys = parse_keys(settings.keys)
    token = read_token(settings.token_file)
    tls = server_tls(settings.tls_cert, settings.tls_key)
    check_bind(settings.host, token=token)
    if tls is not None and settings.dialect != "openpi":
        raise ConfigError(
            f"--tls-cert and --tls-key are for openpi's dialect: GR00T's has no TLS, and --dialect {settings.dialect} "
            "would send token and pictures in the clear; leave them out and reach the server through an SSH tunnel"
        )
    for module in _NEEDS[settings.dialect]:
        import_module(module)  # what is missing is found before anything is loaded
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("websockets").setLevel(logging.CRITICAL)  # it reports every stranger with a traceback

    from foreact.vla.serving.service import PolicyService

    actor, about = _actor(settings)
    to_joints = robot_hook(settings.robot)(actor.contract) if settings.robot else None
    service = PolicyService(actor, about=about, max_clients=settings.clients, keys=keys, to_joints=to_joints)
    _say(f"{about['title']}: warming up ({settings.warmup} inferences)")
    service.warm_up(settings.warmup)
    latency = service.metadata["latency_ms"]
    _say(f"one inference takes {latency['p50']:g} ms (median), {latency['p99']:g} ms (99 of 100)")
    asyncio.run(_serve(service, settings, token, tls))


def robot_hook(config: str) -> Callable[[Contract], ToJoints]:
    """What turns plans into joint targets of the robot in a configuration, once it knows the policy's contract.

    Raises:
        ForeActError: If the configuration is wrong.
    """
    return import_module("foreact.robot_bridge.planner_hook").robot_hook(config)


def _actor(settings: ServeSettings) -> tuple[Actor, dict[str, Any]]:
    from foreact import __version__
    from foreact.vla.actors import checkpoint_sha256, load_checkpoint_actor, make_actor

    if settings.actor:
        defaults = ServeSettings()
        for name in ("device", "execute_steps", "batch_size"):
            if getattr(settings, name) != getattr(defaults, name):
                option = name.replace("_", "-")
                raise ConfigError(f"--{option} goes with a checkpoint; --actor {settings.actor} decides itself")
        from foreact.sim.embodiment import desk_contract

        about = {"version": __version__, "title": f"actor {settings.actor}", "checkpoint": ""}
        return make_actor(settings.actor, desk_contract()), about
    from foreact.vla.hub import local_checkpoint

    folder = local_checkpoint(settings.checkpoint)
    import torch

    torch.set_num_threads(settings.threads)
    actor = load_checkpoint_actor(
        folder, device=settings.device, execute_steps=settings.execute_steps, batch_size=settings.batch_size
    )
    about = {"version": __version__, "title": Path(folder).resolve().name, "checkpoint": checkpoint_sha256(folder)}
    return actor, about


async def _serve(
    service: PolicyService, settings: ServeSettings, token: str | None, tls: ssl.SSLContext | None
) -> None:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    servers: dict[str, Any] = {}
    if settings.dialect != "gr00t":
        from foreact.vla.serving.openpi_server import OpenPiServer

        servers["openpi"] = OpenPiServer(
            service, settings.host, settings.port, token=token, tls=tls, request_timeout_s=settings.timeout_s
        )
    if settings.dialect != "openpi":
        from foreact.vla.serving.gr00t_server import Gr00tServer

        servers["gr00t"] = Gr00tServer(
            service, settings.host, settings.gr00t_port, token=token, request_timeout_s=settings.timeout_s,
            on_kill=(lambda: loop.call_soon_threadsafe(stop.set)) if settings.allow_kill else None,
        )  # fmt: skip
    try:
        urls = {name: await server.start() for name, server in servers.items()}
        for name, url in urls.items():
            _say(f"ready for {name} clients at {url}")
        if settings.as_json:
            print(json.dumps({"urls": urls, **service.metadata}), flush=True)
        await stop.wait()
    finally:
        for server in servers.values():
            await server.stop()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
