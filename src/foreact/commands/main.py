"""The `foreact` command: finds the command that is meant, and turns errors into sentences.

Nothing heavy is imported here, so that `foreact --help` answers at once: each command is loaded when it is called.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Annotated, Any

import typer

from foreact import __version__
from foreact.vla.errors import ConfigError, ForeActError

_EXTRAS = {
    "torch": "train",
    "transformers": "train",
    "einops": "train",
    "safetensors": "train",
    "huggingface_hub": "train",
    "peft": "lora",
    "accelerate": "train",
    "diffusers": "train",
    "roma": "train",
    "mujoco": "sim",
    "gymnasium": "sim",
    "OpenGL": "sim",
    "h5py": "data",
    "lz4": "data",
    "pyarrow": "data",
    "rosbags": "data",
    "zstandard": "data",
    "msgpack": "robot",
    "websockets": "robot",
    "zmq": "robot",
}
"""Package -> the extra of foreact that brings it."""

app = typer.Typer(
    name="foreact",
    help="Foresee, then act: collect, train and judge policies that predict the frames they act towards.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
_PASS_ON: dict[str, Any] = {
    "add_help_option": False,
    "context_settings": {"allow_extra_args": True, "ignore_unknown_options": True},
}


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"foreact {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


_SHORT_LINES = 12
"""Choices of a group that are no longer are shown whole in the help."""


def _hydra(name: str, argv: list[str], options: tuple[str, ...] = ()) -> None:
    """Hand over to a command whose settings are `key=value`, from `configs/<name>.yaml`."""
    if {"--help", "-h"} & set(argv):
        _settings_help(name, options)
        return
    for word in argv:
        if word.startswith("-") and word not in options:
            known = ", ".join(("--help", *options))
            raise ConfigError(
                f"foreact {name} has no option {word!r} ({known}); settings are key=value, without dashes"
            )
    import_module(f"foreact.commands.{name}").main(argv)


def _settings_help(name: str, options: tuple[str, ...]) -> None:
    from importlib.resources import files

    folder = files("foreact.configs")
    text = folder.joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    print(f"Usage: foreact {name} [key=value ...]{''.join(f' [{option}]' for option in options)}\n")
    print(f"The settings and their defaults; nested keys are joined by dots. Source: configs/{name}.yaml\n\n{text}")
    for group in re.findall(r"^  - (\w+):", text, flags=re.MULTILINE):
        choices = sorted(
            p.name.removesuffix(".yaml") for p in folder.joinpath(group).iterdir() if p.name[-5:] == ".yaml"
        )
        print(f"\n{group}=NAME, one of: {', '.join(choices)}")
        for choice in choices:
            chosen = folder.joinpath(group, f"{choice}.yaml").read_text(encoding="utf-8").strip()
            if len(chosen.splitlines()) <= _SHORT_LINES:
                print(f"\n  # {group}={choice}")
                print("\n".join(f"  {line}" for line in chosen.splitlines()))


@app.command(**_PASS_ON)
def collect(context: typer.Context) -> None:
    """Let scripted experts fill a trajectory store. Settings are key=value."""
    _hydra("collect", context.args)


@app.command(**_PASS_ON)
def train(context: typer.Context) -> None:
    """Train a policy on a trajectory store. Settings are key=value."""
    _hydra("train", context.args)


@app.command(**_PASS_ON)
def evaluate(context: typer.Context) -> None:
    """Judge a checkpoint or any actor, in single tasks or chains. Settings are key=value."""
    _hydra("evaluate", context.args, ("--json",))


@app.command()
def demo(
    checkpoint: Annotated[str, typer.Option(help="Checkpoint folder; default: the one in the source tree.")] = "",
    out: Annotated[str, typer.Option(help="Results folder.")] = "outputs/demo",
    workers: Annotated[int, typer.Option(help="Processes.", min=1)] = 2,
    starts_per_task: Annotated[int, typer.Option(help="Starts in which each fixture task is tried.", min=1)] = 5,
    chains: Annotated[int, typer.Option(help="So many of CALVIN's chains of five tasks, from the first.", min=1)] = 24,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON on standard output.")] = False,
) -> None:
    """Watch the shipped policy at work: chains of five tasks, eight single ones, a film, a table and a report."""
    run = import_module("foreact.commands.demo").run
    run(checkpoint=checkpoint, out=out, workers=workers, starts=starts_per_task, chains=chains, as_json=as_json)


@app.command()
def compare(
    first: Annotated[str, typer.Argument(help="Results folder of one evaluation.")],
    second: Annotated[str, typer.Argument(help="Results folder of another, with the same starts or chains.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Compare two evaluations pair by pair: differences with intervals."""
    import_module("foreact.commands.compare").run(first, second, as_json=as_json)


@app.command()
def preflight(
    checkpoint: Annotated[str, typer.Argument(help="Checkpoint folder.")],
    store: Annotated[str, typer.Option(help="Trajectory store to compare with.")] = "",
    env: Annotated[str, typer.Option(help="Environment to compare with: desk.")] = "",
    contract: Annotated[str, typer.Option(help="Contract file (YAML) of a robot, say.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """What a checkpoint expects beside what a store, environment or robot offers; loads no weights."""
    run = import_module("foreact.commands.preflight").run
    run(checkpoint, store=store, env=env, contract=contract, as_json_text=as_json)


@app.command("convert-checkpoint")
def convert_checkpoint(
    source: Annotated[str, typer.Argument(help="A .pt file of GR-1, GR1-Training, GR-MG's pre-training, or MAE.")],
    target: Annotated[str, typer.Argument(help="Checkpoint folder to write.")],
    towers: Annotated[str, typer.Option(help="A converted checkpoint to take both frozen towers from.")] = "",
    clip: Annotated[str, typer.Option(help="Folder of openai/clip-vit-base-patch32 as transformers keeps it.")] = "",
    mae: Annotated[str, typer.Option(help="MAE's mae_pretrain_vit_base.pth (CC BY-NC 4.0), if SOURCE lacks it.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print what was done as JSON.")] = False,
) -> None:
    """Published weights of the GR-1 family become a checkpoint folder, offline."""
    run = import_module("foreact.commands.convert_checkpoint").run
    run(source, target, towers=towers, clip=clip, mae=mae, as_json=as_json)


@app.command("explain")
def explain_command(
    checkpoint: Annotated[str, typer.Argument(help="Checkpoint folder.")],
    store: Annotated[str, typer.Option(help="Trajectory store with the episode.")],
    episode: Annotated[str, typer.Option(help="Its name; default: the first one.")] = "",
    frames: Annotated[str, typer.Option(help="Plan at these frames, a:b; default: all.")] = "",
    instruction: Annotated[str, typer.Option(help="Say this instead of what the episode says.")] = "",
    part: Annotated[
        str, typer.Option(help='What of the action saliency is about: "arm", a field, or "FIELD.NUMBER".')
    ] = "arm",
    out: Annotated[str, typer.Option(help="Folder of the report.")] = "outputs/explain",
    every: Annotated[int, typer.Option(help="Plan at every so-many-th frame.", min=1)] = 1,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:N.")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON on standard output.")] = False,
) -> None:
    """Look inside a policy over a recorded episode: attention, saliency, foresight, and what changes its plans."""
    run = import_module("foreact.commands.explain").run
    run(
        checkpoint, store, episode=episode, frames=frames, instruction=instruction, part=part, out=out, every=every,
        device=device, as_json=as_json,
    )  # fmt: skip


@app.command()
def serve(
    checkpoint: Annotated[str, typer.Argument(help="Checkpoint folder, or hf://user/name.")] = "",
    actor: Annotated[str, typer.Option(help="Instead: a built-in or installed actor, for the desk.")] = "",
    dialect: Annotated[str, typer.Option(help="openpi (websocket), gr00t (ZeroMQ), or both.")] = "openpi",
    host: Annotated[str, typer.Option(help="Address to listen on; others than loopback want a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Of openpi's dialect; 0: any free one.", min=0, max=65535)] = 8000,
    gr00t_port: Annotated[int, typer.Option(help="Of GR00T's dialect; 0: any.", min=0, max=65535)] = 5555,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:N.")] = "cpu",
    threads: Annotated[int, typer.Option(help="Of PyTorch.", min=1)] = 1,
    execute_steps: Annotated[int | None, typer.Option(help="Actions of a plan before the next.", min=1)] = None,
    batch_size: Annotated[int, typer.Option(help="Rows of every pass of the network, padded.", min=1)] = 1,
    warmup: Annotated[int, typer.Option(help="Inferences that are timed at the start.", min=20)] = 20,
    clients: Annotated[int, typer.Option(help="Clients served at once.", min=1, max=64)] = 4,
    timeout_s: Annotated[float, typer.Option(help="From a request to its reply [s].", min=0.01)] = 30.0,
    token_file: Annotated[str, typer.Option(help="File with the clients' secret; else FOREACT_TOKEN.")] = "",
    tls_cert: Annotated[str, typer.Option(help="Certificate of the websocket.")] = "",
    tls_key: Annotated[str, typer.Option(help="Its key.")] = "",
    allow_kill: Annotated[bool, typer.Option("--allow-kill", help="GR00T's `kill` ends this process.")] = False,
    key: Annotated[list[str] | None, typer.Option(help="OURS=THEIRS, a name in requests; repeatable.")] = None,
    robot: Annotated[str, typer.Option(help="Robot configuration: plans also come as joint targets.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Say as JSON when ready.")] = False,
) -> None:
    """Answer robots and simulators: a policy behind a websocket (openpi) or ZeroMQ (GR00T)."""
    module = import_module("foreact.commands.serve")
    module.run(
        module.ServeSettings(
            checkpoint=checkpoint, actor=actor, dialect=dialect, host=host, port=port, gr00t_port=gr00t_port,
            device=device, threads=threads, execute_steps=execute_steps, batch_size=batch_size, warmup=warmup,
            clients=clients, timeout_s=timeout_s, token_file=token_file, tls_cert=tls_cert, tls_key=tls_key,
            allow_kill=allow_kill, keys=key or (), robot=robot, as_json=as_json,
        )
    )  # fmt: skip


def _mount(name: str, help_text: str) -> None:
    """A group of commands whose module is imported only when it is called."""

    def group(context: typer.Context) -> None:
        import_module(f"foreact.commands.{name}").app(args=context.args or ["--help"], prog_name=f"foreact {name}")

    app.command(name, help=help_text, **_PASS_ON)(group)


_mount("data", "Look at, check and convert trajectory stores.")
_mount("sim", "What the simulator is and how it draws here.")
_mount("bench", "Measure speed.")
_mount("hub", "Model cards of checkpoints; send them to a model hub and fetch them.")
_mount("robot", "Drive an arm: gate, simulated robot, recording, and what an operator needs.")
_mount("study", "Several ways to train, several seeds, one table.")


def main(argv: list[str] | None = None) -> None:
    """Entry point. Ends the process with a status that means something: 0 done, 2 wrong use, 1 anything else.

    With FOREACT_DEBUG=1 in the environment, errors show their traceback.
    """
    sys.exit(run(app, argv))


def run(command: Callable[..., Any], argv: list[str] | None) -> int:
    """Call a typer app and return its exit status; errors are printed as one block on standard error."""
    try:
        command(args=argv, prog_name="foreact")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except KeyboardInterrupt:
        return _say("interrupted", 130)
    except BrokenPipeError:  # `foreact ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        if os.environ.get("FOREACT_DEBUG", "0") not in ("", "0"):
            raise
        found = explain(error)
        if found is None:
            raise
        return _say(*found)
    return 0


def explain(error: Exception) -> tuple[str, int] | None:
    """Message and exit status of an error that a person can act on; None for what is a bug."""
    if isinstance(error, ForeActError):
        return str(error), error.exit_code
    if isinstance(error, ModuleNotFoundError) and (extra := _EXTRAS.get((error.name or "").split(".")[0])):
        return f"this needs {error.name}, which is not installed: pip install '.[{extra}]' in ForeAct's folder", 1
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}; make room, then give the same command again (train: with resume=true)", 1
    if isinstance(error, PermissionError | FileExistsError | NotADirectoryError) and error.filename:
        return f"{error.filename}: {error.strerror}", 1
    if type(error).__module__.split(".")[0] in ("hydra", "omegaconf"):
        lines = [line for line in str(error).splitlines() if line.strip() and "HYDRA_FULL_ERROR" not in line]
        return "settings: " + "\n  ".join(lines), 2
    return None


def _say(message: str, status: int) -> int:
    label = "\x1b[1;31merror:\x1b[0m" if sys.stderr.isatty() and not os.environ.get("NO_COLOR") else "error:"
    print(f"{label} {message}", file=sys.stderr)
    return status


if __name__ == "__main__":
    main()
