"""Settings: every knob of the package, frozen, validated, with safe defaults and from the environment.

``FASTSTATE_<NAME>`` in the environment sets what no argument does. Times are seconds, sizes are bytes.
"""

from __future__ import annotations

import importlib
import math
import os
import re
import secrets
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from .errors import ConfigurationError, shorten

MIN_KEY_BYTES = 32
DATASTAR_CDN = "https://cdn.jsdelivr.net/gh/starfederation/datastar@v1.0.2/bundles/datastar.js"
_TEST_ONLY = "FASTSTATE_TEST_"
_COOKIE_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_MOUNT_PATH = re.compile(r"(?:/(?!\.{1,2}(?:/|$))[^/]+)+")
_ORIGIN = re.compile(r"(https?)://([\w.-]+|\[[0-9a-f:.]+\])(?::(\d{1,5}))?", re.ASCII | re.IGNORECASE)
_DEFAULT_PORTS = {"http": 80, "https": 443}
MIN_TIME_S = 0.001
_LOGIN_URL = re.compile(r"(?:/(?![/\\])|https?://[^/\\])[^\s\\\x00-\x1f]*")
_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off", ""})
_NUMBERS = {"int": "whole number", "float": "number"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings; one instance per engine, never changed.

    Attributes are described in the README's table of settings.

    Raises:
        ConfigurationError: a value that cannot work.
    """

    secret_key: tuple[str, ...] = field(default=(), repr=False)
    debug: bool = False
    store: str = field(default="memory:", repr=False)
    database_url: str | None = field(default=None, repr=False)
    redis_url: str | None = field(default=None, repr=False)
    mount_path: str = "/faststate"
    serve: bool = True
    authenticate: Any = None
    login_url: str | None = None
    trusted_origins: tuple[str, ...] = ()
    public_origins: tuple[str, ...] = ()
    cookie_name: str = "faststate_session"
    session_idle: float = 14 * 86400.0
    session_max_age: float = 90 * 86400.0
    max_body: int = 1 << 20
    max_file: int = 16 << 20
    max_streams_per_session: int = 16
    max_streams: int = 20_000
    max_waiting_per_key: int = 1_000
    idempotency_ttl: float = 600.0
    idempotency_max: int = 200_000
    heartbeat: float = 15.0
    write_deadline: float = 20.0
    max_stream_age: float = 600.0
    reauthenticate: float = 30.0
    resync_interval: float = 5.0
    lease: float = 5.0
    store_timeout: float = 2.0
    drain_timeout: float = 10.0
    datastar_url: str = DATASTAR_CDN
    metrics_public: bool = False

    def __post_init__(self) -> None:
        for key in self.secret_key:
            if len(key.encode()) < MIN_KEY_BYTES:
                raise ConfigurationError(
                    f"secret_key has {len(key.encode())} bytes, {MIN_KEY_BYTES} are needed; make one with: "
                    'python -c "import secrets; print(secrets.token_urlsafe(48))"'
                )
        if not _MOUNT_PATH.fullmatch(self.mount_path):
            raise ConfigurationError(
                f"mount_path must look like '/faststate', without empty parts, '.' and '..', not {shorten(self.mount_path)}"
            )
        if not _COOKIE_NAME.fullmatch(self.cookie_name):
            raise ConfigurationError(
                f"cookie_name {shorten(self.cookie_name)} cannot be the name of a cookie (RFC 6265)"
            )
        if self.login_url is not None and not _LOGIN_URL.fullmatch(self.login_url):
            raise ConfigurationError(
                f"login_url must be a path such as '/login', or an http(s) address, not {shorten(self.login_url)}"
            )
        can_ask = callable(self.authenticate) or hasattr(self.authenticate, "authenticate")
        if self.authenticate is not None and not can_ask:
            raise ConfigurationError(
                f"authenticate must be a function or an AuthenticationBackend, not {shorten(self.authenticate)}"
            )
        for name in ("trusted_origins", "public_origins"):
            object.__setattr__(self, name, tuple(_origin(name, text) for text in getattr(self, name)))
        for item in fields(self):
            value = getattr(self, item.name)
            if item.type == "int" and not value > 0:
                raise ConfigurationError(f"{item.name} must be greater than 0, not {value}")
            if item.type == "float" and not MIN_TIME_S <= value < math.inf:
                raise ConfigurationError(f"{item.name} must be a number of seconds from {MIN_TIME_S} on, not {value}")

    @property
    def is_datastar_local(self) -> bool:
        """Whether ``datastar_url`` is a file that the sub-application serves."""
        return not self.datastar_url.startswith(("http://", "https://", "/")) or Path(self.datastar_url).is_file()


def _origin(name: str, text: str) -> str:
    """Return an origin as browsers send it: in small letters, without the port that its scheme has anyway.

    Raises:
        ConfigurationError: no browser sends it: a wildcard, ``null``, a path, a name and password, a host in Unicode.
    """
    match = _ORIGIN.fullmatch(text)
    if match is None or not 0 < int(match[3] or 1) <= 65535:
        raise ConfigurationError(
            f"{name}: {shorten(text)} is not an origin; write scheme://host[:port], a host such as 'münchen.de' as "
            "'xn--mnchen-3ya.de'"
        )
    scheme, host = match[1].lower(), match[2].lower()
    port = int(match[3] or _DEFAULT_PORTS[scheme])
    return f"{scheme}://{host}" if port == _DEFAULT_PORTS[scheme] else f"{scheme}://{host}:{port}"


def make_settings(arguments: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> Settings:
    """Return settings from arguments, then from ``FASTSTATE_*`` variables, then defaults.

    Raises:
        ConfigurationError: an unknown name, or a value of the wrong kind.
    """
    kinds = {item.name: str(item.type) for item in fields(Settings)}
    environment = os.environ if environment is None else environment
    values: dict[str, Any] = {}
    for variable, text in environment.items():
        if variable.startswith("FASTSTATE_") and not variable.startswith(_TEST_ONLY):
            name = variable.removeprefix("FASTSTATE_").lower()
            kind = _known(name, kinds, variable)
            if text.strip():
                values[name] = _parse(kind, text, variable)
    for name, value in arguments.items():
        values[name] = _coerce(_known(name, kinds, name), value, name)
    if isinstance(values.get("authenticate"), str):
        values["authenticate"] = _imported(values["authenticate"])
    settings = Settings(**values)
    if settings.debug and not settings.secret_key:
        values["secret_key"] = (_debug_key(Path.cwd()),)
        return Settings(**values)
    return settings


def _known(name: str, kinds: Mapping[str, str], given: str) -> str:
    """Return the kind of a setting, or say that there is none of that name."""
    if name not in kinds:
        raise ConfigurationError(f"unknown setting {given!r}; known are: {', '.join(sorted(kinds))}")
    return kinds[name]


def _parse(kind: str, text: str, name: str) -> Any:
    """Read one environment variable."""
    text = text.strip()
    if kind == "bool":
        if text.lower() not in _TRUE | _FALSE:
            raise ConfigurationError(f"{name} must be true or false, not {shorten(text)}")
        return text.lower() in _TRUE
    if kind.startswith("tuple"):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    try:
        return int(text) if kind == "int" else float(text) if kind == "float" else text
    except ValueError:
        raise ConfigurationError(f"{name} must be a {_NUMBERS[kind]}, not {shorten(text)}") from None


def _coerce(kind: str, value: Any, name: str) -> Any:
    """Check one argument."""
    if kind.startswith("tuple"):
        if value is None:
            return ()
        given: Iterable[Any] = [value] if isinstance(value, str) or not hasattr(value, "__iter__") else value
        items = tuple(given)
        if not all(isinstance(item, str) for item in items):
            raise ConfigurationError(f"{name} must be text or a list of text")
        return items
    if kind == "bool" and not isinstance(value, bool):
        raise ConfigurationError(f"{name} must be True or False, not {shorten(value)}")
    allowed = int if kind == "int" else (int, float)
    if kind in _NUMBERS and (isinstance(value, bool) or not isinstance(value, allowed)):
        raise ConfigurationError(f"{name} must be a {_NUMBERS[kind]}, not {shorten(value)}")
    if kind.startswith("str") and not isinstance(value, str) and not (value is None and "None" in kind):
        raise ConfigurationError(f"{name} must be text, not {shorten(type(value).__name__)}")
    return value


def _imported(path: str) -> Any:
    """Return the object that ``module:attribute`` names."""
    module, _, attribute = path.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as exc:
        raise ConfigurationError(f"authenticate={path!r} cannot be imported as module:attribute ({exc})") from exc


def _debug_key(folder: Path) -> str:
    """Return the key of debug runs in ``folder``, made once and kept out of version control."""
    home = folder / ".faststate"
    path = home / "secret_key"
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        home.mkdir(exist_ok=True)
        (home / ".gitignore").write_text("*\n")
        draft = home / f"secret_key.{secrets.token_hex(8)}"
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(48))
        # Several workers may start at once: the first one's key counts, and nobody reads half a file.
        with suppress(FileExistsError):
            os.link(draft, path)
        draft.unlink()
        return path.read_text().strip()
