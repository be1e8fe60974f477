"""Checkpoints on a model hub, through huggingface_hub: `hf://user/name` or `hf://user/name@revision`.

A checkpoint from there is a stranger's. Its manifest is fetched first; a file is only fetched if its name is one that
a checkpoint has, if the hub states the size that the manifest states, and if all of them are not too large. Then every
file is compared with the manifest's SHA-256. Other files of the repository are never fetched. Nothing in a checkpoint
is code.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foreact.vla.errors import ConfigError, ForeActError
from foreact.vla.files import MANIFEST, verify_folder

if TYPE_CHECKING:
    from huggingface_hub import HfApi

SCHEME = "hf://"
MAX_BYTES = 32 * 2**30
"""Largest checkpoint that is fetched, all files together."""
MAX_SMALL_BYTES = 32 * 2**20
"""Largest file besides the weights (a tokenizer has a few megabytes)."""
MAX_MANIFEST_BYTES = 2**20

WEIGHTS = "model.safetensors"
NEEDED = ("config.json", "contract.yaml", WEIGHTS, "statistics.json")
_ALLOWED = re.compile(
    r"(config|statistics|provenance)\.json|contract\.yaml|model\.safetensors|README\.md"
    r"|(text|vision)/[A-Za-z0-9][A-Za-z0-9_.-]*\.(json|txt|model|jinja)|text/text_distilled\.safetensors"
)
_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_NAME = re.compile(rf"{_PART}/{_PART}")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")


class HubError(ForeActError):
    """A checkpoint cannot be fetched from, or sent to, a model hub."""


@dataclass(frozen=True)
class HubName:
    """A repository of a hub, at a revision."""

    repo: str
    """user/name."""
    revision: str | None = None
    """Branch, tag or commit; None: the main branch."""

    def __str__(self) -> str:
        return f"{SCHEME}{self.repo}" + (f"@{self.revision}" if self.revision else "")


def is_hub_name(text: str) -> bool:
    """Whether it could be the user/name of a repository."""
    return _NAME.fullmatch(text) is not None and ".." not in text and "--" not in text


def parse(text: str, revision: str | None = None) -> HubName:
    """`hf://user/name`, `hf://user/name@revision` or `user/name`; `revision` is the other way to say it.

    Raises:
        ConfigError: If it is neither, or names two revisions.
    """
    repo, _, own = text.removeprefix(SCHEME).partition("@")
    if not is_hub_name(repo):
        raise ConfigError(f"{text!r} is no name on a model hub; expected hf://user/name or hf://user/name@revision")
    if own and revision and own != revision:
        raise ConfigError(f"{text} names the revision {own!r}, and revision={revision!r} another; name one")
    chosen = own or revision
    if chosen is not None and (not _REVISION.fullmatch(chosen) or ".." in chosen):
        raise ConfigError(f"{chosen!r} is no revision; expected a branch, a tag or a commit, such as main or v1.0")
    return HubName(repo, chosen)


def local_checkpoint(place: Path | str, revision: str | None = None) -> Path:
    """The folder of a checkpoint: `place` itself, or what `pull` made of `hf://user/name`.

    Raises:
        ConfigError: If a revision is given for a folder, or the name is wrong.
        HubError: See `pull`.
    """
    text = str(place)
    if isinstance(place, Path) and re.match(r"hf:/[^/]", text):  # Path joins the two slashes
        text = text.replace("hf:/", SCHEME, 1)
    if text.startswith(SCHEME):
        return pull(parse(text, revision))
    if revision is not None:
        raise ConfigError(f"revision={revision!r} goes with {SCHEME}user/name; {place} is a folder")
    return Path(place)


# --- from the hub ----------------------------------------------------------------------------------------------------


def pull(name: HubName, *, max_bytes: int = MAX_BYTES) -> Path:
    """Fetch a checkpoint into huggingface_hub's cache, check it, and return its folder there.

    What is there already is not fetched again; without a network, a commit that was fetched before is used.

    Args:
        name: Which.
        max_bytes: Largest sum of all files.

    Raises:
        HubError: If it is not there, is no checkpoint of ours, is too large, or holds what a checkpoint does not.
        DamagedFolder: If a file is not what the manifest says.
    """
    api = _api()
    with _explained(name):
        commit, sizes = _listing(api, name)
        if commit is None:
            folder = _cached_folder(name)
            assert folder is not None
            return _checked(name, folder)
        if MANIFEST not in sizes:
            raise HubError(f"{name} has no {MANIFEST}: not a checkpoint of ForeAct (`foreact hub push` makes one)")
        _small_enough(name, MANIFEST, sizes[MANIFEST], MAX_MANIFEST_BYTES)
        # By the revision's name, so that the cache remembers which commit it is when there is no network.
        manifest = Path(api.hf_hub_download(name.repo, MANIFEST, revision=name.revision, cache_dir=_cache()))
        if manifest.parent.name != commit:
            raise HubError(f"{name} was changed while it was looked at; try again")
        expected = _manifest(name, manifest)
        for file, size in expected.items():
            if file not in sizes:
                raise HubError(f"{name}: its manifest names {file}, which is not there; ask its owner to push it again")
            if sizes[file] != size:
                raise HubError(f"{name}: {file} has {sizes[file]} bytes there, its manifest says {size}")
            if file != WEIGHTS:
                _small_enough(name, file, size, MAX_SMALL_BYTES)
        _small_enough(name, "the whole checkpoint", sum(expected.values()), max_bytes)
        wanted = [MANIFEST, *expected]
        folder = Path(api.snapshot_download(name.repo, revision=commit, allow_patterns=wanted, cache_dir=_cache()))
    return _checked(name, folder)


def _listing(api: HfApi, name: HubName) -> tuple[str | None, dict[str, int]]:
    """The commit of a revision and the sizes of its files, in bytes; (None, {}) when the hub cannot be reached but the
    revision was fetched before."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        info = api.model_info(name.repo, revision=name.revision, files_metadata=True)
    except HfHubHTTPError:
        raise  # it was reached, and said no
    except Exception:  # offline, in one of the client's many ways to say so
        if _cached_folder(name) is None:
            raise
        return None, {}
    return str(info.sha), {f.rfilename: -1 if f.size is None else int(f.size) for f in info.siblings or ()}


def _cached_folder(name: HubName) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name.repo, MANIFEST, cache_dir=_cache(), revision=name.revision)
    return Path(found).parent if isinstance(found, str) else None


def _checked(name: HubName, folder: Path) -> Path:
    """The folder, if it is whole and holds nothing that a tower's reader could take for its own.

    Raises:
        HubError: If a file is there that the manifest does not name.
    """
    _manifest(name, folder / MANIFEST)
    known = {*verify_folder(folder), MANIFEST}
    for part in ("text", "vision"):
        for path in sorted((folder / part).rglob("*")):
            if path.is_file() and path.relative_to(folder).as_posix() not in known:
                found = path.relative_to(folder)
                raise HubError(f"{folder} holds {found}, which {name} does not name: delete {folder}")
    return folder


def _manifest(name: HubName | Path, path: Path) -> dict[str, int]:
    """File -> bytes, as a manifest says.

    Raises:
        HubError: If it is damaged, names a file that no checkpoint has, or lacks one that every checkpoint has.
    """
    try:
        files = json.loads(path.read_bytes())["files"]
        expected = {str(file): int(entry["bytes"]) for file, entry in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise HubError(f"{name}: {MANIFEST} cannot be read: {error!r}") from error
    for file, size in expected.items():
        if not _ALLOWED.fullmatch(file) or size < 0:
            hint = (
                "; this is a training checkpoint: take RUN/policy, or foreact hub pull the policy alone"
                if file.startswith("training/")
                else ""
            )
            raise HubError(f"{name}: its manifest names {file!r}, which no checkpoint to act with has{hint}")
    if missing := [file for file in NEEDED if file not in expected]:
        raise HubError(f"{name}: its manifest lacks {', '.join(missing)}, so it is not a checkpoint of ForeAct")
    return expected


def _small_enough(name: HubName, what: str, size: int, limit: int) -> None:
    if not 0 <= size <= limit:
        found = "an unknown size" if size < 0 else f"{size:,} bytes"
        raise HubError(f"{name}: {what} has {found}, at most {limit:,} are fetched")


# --- to the hub ------------------------------------------------------------------------------------------------------


def push(folder: Path, name: HubName, *, private: bool = False, message: str = "") -> str:
    """Send a checkpoint, in one commit; files of an older one that this one does not have are deleted there.

    Args:
        folder: A checkpoint to act with (RUN/policy).
        name: Where to; its revision, if any, is the branch. The repository is made if it is not there.
        private: For a new repository: only its owner sees it.
        message: Of the commit.

    Returns:
        The address of the commit.

    Raises:
        DamagedFolder: If the checkpoint is damaged.
        HubError: If it holds what is not to be sent, or the hub refuses.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    files = verify_folder(folder)
    _manifest(folder, folder / MANIFEST)
    api = _api()
    with _explained(name):
        api.create_repo(name.repo, private=private, exist_ok=True, repo_type="model")
        there = set(api.list_repo_files(name.repo, revision=name.revision))
        wanted = [*files, MANIFEST]
        old = [file for file in sorted(there) if _ALLOWED.fullmatch(file) and file not in wanted]
        done = api.create_commit(
            name.repo,
            [
                *(CommitOperationAdd(path_in_repo=file, path_or_fileobj=folder / file) for file in wanted),
                *(CommitOperationDelete(path_in_repo=file) for file in old),
            ],
            commit_message=message or "A policy of ForeAct",
            revision=name.revision,
        )
    return done.commit_url


# --- huggingface_hub -------------------------------------------------------------------------------------------------


def _api() -> HfApi:
    """The client. The endpoint is read when it is needed, not when the library was imported.

    Raises:
        ConfigError: If huggingface_hub is not installed.
    """
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise ConfigError(f"{SCHEME} needs huggingface_hub: pip install '.[train]' in ForeAct's folder") from error
    return HfApi(endpoint=os.environ.get("HF_ENDPOINT"), library_name="foreact")


def _cache() -> str | None:
    return os.environ.get("HF_HUB_CACHE")


@contextmanager
def _explained(name: HubName) -> Iterator[None]:
    """Turn what the client raises into a sentence."""
    import huggingface_hub.errors as hub

    try:
        yield
    except ForeActError:
        raise
    except Exception as error:
        raise HubError(f"{name}: {_reason(error, hub)}") from error


def _reason(error: Exception, hub: Any) -> str:
    """What went wrong, and what to do."""
    known: Mapping[type[Exception], str] = {
        hub.GatedRepoError: "its owner gives access one by one: ask on its page, then `hf auth login`",
        hub.RepositoryNotFoundError: "there is no such model, or it is private: check the name, or `hf auth login`",
        hub.RevisionNotFoundError: "it has no such revision; leave @revision out for the newest",
        hub.OfflineModeIsEnabled: "HF_HUB_OFFLINE is set and it was not fetched before; unset it, or name a folder",
        hub.LocalTokenNotFoundError: "sending needs an account: `hf auth login`, or set HF_TOKEN",
    }
    for kind, text in known.items():
        if isinstance(error, kind):
            return text
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is None and error.__cause__ is not None and isinstance(error.__cause__, Exception):
        return _reason(error.__cause__, hub)  # the client wraps what went wrong while it sent a file
    if status in (401, 403):
        return f"the hub refuses (status {status}): log in with `hf auth login` as somebody who may write there"
    if status is not None:
        return f"the hub answers with status {status}: {_line(error)}"
    return (
        f"the hub cannot be reached ({type(error).__name__}: {_line(error)}); check the network, or use a folder that "
        "`foreact hub pull --out` made elsewhere"
    )


def _line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no details")[:200]
