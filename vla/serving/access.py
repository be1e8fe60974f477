"""Who may ask: a server that others can reach wants a secret from them, or does not start."""

from __future__ import annotations

import hmac
import ipaddress
import os
import ssl
from pathlib import Path

from foreact.vla.errors import ConfigError

TOKEN_VARIABLE = "FOREACT_TOKEN"
MIN_TOKEN = 16
"""Characters: shorter ones can be tried out."""


def read_token(file: str = "") -> str | None:
    """The secret in the first line of a file, or of the environment variable FOREACT_TOKEN; None if there is none.

    It is never an argument of a command: every process of a machine can read those.

    Raises:
        ConfigError: If the file cannot be read, or the secret is short or not plain ASCII.
    """
    if file:
        try:
            lines = Path(file).read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"token file {file}: {error}") from error
        token = lines[0].strip() if lines else ""
        source = f"token file {file}"
    else:
        token, source = os.environ.get(TOKEN_VARIABLE, "").strip(), TOKEN_VARIABLE
        if not token:
            return None
    if len(token) < MIN_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(
            f"{source}: expected at least {MIN_TOKEN} letters and digits; "
            "python -c 'import secrets; print(secrets.token_urlsafe())' makes one"
        )
    return token


def same_token(expected: str | None, found: object) -> bool:
    """Whether a client knows the secret; takes as long for a near miss as for a far one. Without one, all do."""
    if expected is None:
        return True
    given = found if isinstance(found, str) else ""
    return hmac.compare_digest(expected.encode(), given.encode("utf-8", "replace"))


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine can reach that address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_bind(host: str, *, token: str | None) -> None:
    """Refuse to listen where strangers can ask. A certificate does not help: it keeps listeners out, not askers.

    Raises:
        ConfigError: If the address is not loopback and no token is asked for.
    """
    if is_loopback(host) or token is not None:
        return
    raise ConfigError(
        f"{host!r} can be reached from other machines: set {TOKEN_VARIABLE} or give --token-file, and better also "
        "--tls-cert and --tls-key; or listen on 127.0.0.1 and reach it through an SSH tunnel"
    )


def server_tls(cert: str, key: str) -> ssl.SSLContext | None:
    """What the server shows to clients; None without files.

    Raises:
        ConfigError: If only one is given, or they cannot be read.
    """
    if bool(cert) != bool(key):
        raise ConfigError("--tls-cert and --tls-key go together")
    if not cert:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"TLS certificate {cert} with key {key}: {error}") from error
    return context
