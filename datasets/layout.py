"""Where things lie in a store folder, its format version, and the errors of the whole of `foreact.datasets`.

```
store/
  foreact-store.json        sealed: format version and contract
  episodes/<name>/          one immutable Zarr v3 group per episode, see `foreact.datasets.arrays`
  packs/<pack>/             many episodes in one uncompressed ZIP, and its sealed manifest
  index.bin                 cache of the episode table; may be deleted at any time
  .staging/                 what is being written; swept when its writer is gone
```
"""

from __future__ import annotations

import re
from pathlib import Path

from foreact.vla.errors import ForeActError

STORE_VERSION = 1
ROOT_FILE = "foreact-store.json"
EPISODES = "episodes"
PACKS = "packs"
STAGING = ".staging"
INDEX_FILE = "index.bin"
OLD_INDEX_FILE = "index.json"  # of index version 1, which was JSON throughout
LOCK_FILE = ".pack.lock"
MANIFEST = "manifest.json"
GROUP = "zarr.json"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}")


class StoreError(ForeActError):
    """A trajectory store cannot do what was asked."""


class NoStore(StoreError):
    """There is no store at a path."""


class NewerFormat(StoreError):
    """A store, episode or pack was written by a later ForeAct."""


class DamagedEpisode(StoreError):
    """The bytes of an episode are not those that were recorded."""


class EpisodeExists(StoreError):
    """An episode of that name is in the store already."""


class InvalidEpisode(StoreError):
    """An episode does not fit the contract of the store it is written to."""


def unusable(error: OSError, what: str, remedy: str) -> StoreError:
    """The error of a file system as one for people: what was done, to which file, why it failed, what helps."""
    file = f" ({error.filename})" if error.filename else ""
    return StoreError(f"{what}: {error.strerror or error}{file}. {remedy}")


def check_name(name: str, what: str = "episode name") -> str:
    """Return `name` if it is safe as a file name.

    Raises:
        InvalidEpisode: If it could leave its folder, hide, or clash on some file system.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name.endswith("."):
        raise InvalidEpisode(
            f"{what} {name!r:.200} is not allowed: use 1 to 120 letters, digits, '.', '_' or '-', "
            "starting with a letter or digit, such as 'drawer-000042'"
        )
    return name


def check_version(found: object, what: str, known: int = STORE_VERSION) -> None:
    """Raise unless a stored version number is one that this ForeAct reads.

    Raises:
        NewerFormat: If it is later, or not a version at all.
    """
    if not isinstance(found, int) or isinstance(found, bool) or not 1 <= found <= known:
        raise NewerFormat(
            f"{what} has format version {found!r}; this ForeAct reads versions 1 to {known}. Install a newer ForeAct."
        )


def staging_folder(store: Path) -> Path:
    """The folder for unfinished writes: on the file system of the store, so that a rename out of it is atomic."""
    folder = store / STAGING
    folder.mkdir(exist_ok=True)
    return folder
