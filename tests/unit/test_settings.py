"""Settings come from arguments, then the environment, then defaults; what cannot work is refused with a sentence."""

import stat
from pathlib import Path
from typing import Any

import pytest

from faststate_asgi import ConfigurationError, FastState, FastStateMiddleware, Identity
from faststate_asgi.settings import make_settings
from faststate_asgi.testing import FastStateClient
from tests.hardening.test_requests_that_change_nothing import Basket
from tests.hardening.wrapping import SECRET, plain_app, wrapped

KEY = "k" * 32


def known_user(connection: Any) -> Identity:
    """An authenticator that the environment names."""
    return Identity("ada")


def test_defaults_are_safe() -> None:
    settings = make_settings({}, {})
    assert (settings.debug, settings.metrics_public, settings.trusted_origins) == (False, False, ())
    assert settings.max_body == 1 << 20
    assert settings.store == "memory:"


def test_the_environment_sets_what_no_argument_does() -> None:
    environment = {
        "FASTSTATE_DEBUG": "Yes",
        "FASTSTATE_SECRET_KEY": f"{KEY}, {'o' * 40}",
        "FASTSTATE_MAX_BODY": "5",
        "FASTSTATE_HEARTBEAT": "2.5",
        "FASTSTATE_MOUNT_PATH": "/live",
        "FASTSTATE_TRUSTED_ORIGINS": "https://a.example, https://b.example:81",
        "FASTSTATE_AUTHENTICATE": f"{__name__}:known_user",
        "FASTSTATE_TEST_SLACK": "3",
        "OTHER": "x",
    }
    settings = make_settings({"heartbeat": 9}, environment)
    assert settings.debug is True
    assert settings.secret_key == (KEY, "o" * 40)
    assert (settings.max_body, settings.heartbeat, settings.mount_path) == (5, 9, "/live")
    assert settings.trusted_origins == ("https://a.example", "https://b.example:81")
    assert callable(settings.authenticate)


@pytest.mark.parametrize("name", ["FASTSTATE_NOPE", "FASTSTATE_SECRETKEY", "FASTSTATE_"])
def test_an_unknown_variable_is_an_error_also_if_it_is_empty(name: str) -> None:
    for text in ("1", ""):
        with pytest.raises(ConfigurationError, match="unknown setting"):
            make_settings({}, {name: text})


def test_an_unknown_argument_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match=r"unknown setting 'colour'.*secret_key"):
        FastState(colour="red")


@pytest.mark.parametrize("name", ["STORE", "MOUNT_PATH", "COOKIE_NAME", "DATABASE_URL", "LOGIN_URL", "DATASTAR_URL"])
def test_an_empty_variable_means_the_default(name: str) -> None:
    assert make_settings({}, {f"FASTSTATE_{name}": ""}) == make_settings({}, {})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("secret_key", "short"),
        ("secret_key", ["k" * 32, "short"]),
        ("secret_key", 5),
        ("cookie_name", "two words"),
        ("cookie_name", "a;b"),
        ("cookie_name", "ü"),
        ("login_url", "login"),
        ("login_url", "//elsewhere.example"),
        ("login_url", "javascript:alert(1)"),
        ("authenticate", 5),
        ("debug", "yes"),
        ("debug", 1),
        ("max_body", "1"),
        ("max_body", True),
        ("max_body", 0),
        ("max_body", 1.5),
        ("max_streams", float("inf")),
        ("heartbeat", -1),
        ("lease", float("nan")),
        ("store_timeout", float("inf")),
        ("heartbeat", 1e-9),
        ("mount_path", "faststate"),
        ("mount_path", "/faststate/"),
        ("mount_path", "/"),
        ("mount_path", "/a//b"),
        ("mount_path", "/a/../b"),
        ("mount_path", "/."),
        ("trusted_origins", "*"),
        ("trusted_origins", ["null"]),
        ("trusted_origins", ["https://*.example"]),
        ("trusted_origins", ["https://a.example/"]),
        ("public_origins", ["a.example"]),
        ("public_origins", ["https://user:word@a.example"]),
        ("public_origins", ["https://a b"]),
        ("public_origins", ["https://m\u00fcnchen.example"]),
        ("public_origins", ["https://a.example:0"]),
        ("public_origins", ["https://a.example:65536"]),
        ("public_origins", ["https://a.example:"]),
        ("public_origins", ["ftp://a.example"]),
        ("login_url", 5),
        ("authenticate", "no.such.module:x"),
        ("authenticate", f"{__name__}:missing"),
        ("store", "nonsense:"),
        ("store", None),
    ],
)
def test_a_value_that_cannot_work_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError):
        FastState(**{name: value})


@pytest.mark.parametrize(
    ("name", "text"), [("DEBUG", "perhaps"), ("MAX_BODY", "1.5"), ("HEARTBEAT", "soon"), ("SECRET_KEY", "short")]
)
def test_a_variable_that_cannot_work_is_refused(name: str, text: str) -> None:
    with pytest.raises(ConfigurationError):
        make_settings({}, {f"FASTSTATE_{name}": text})


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("https://A.Example", "https://a.example"),
        ("HTTPS://a.example:443", "https://a.example"),
        ("http://a.example:80", "http://a.example"),
        ("http://a.example:443", "http://a.example:443"),
        ("https://a.example:08443", "https://a.example:8443"),
        ("http://[::1]:8000", "http://[::1]:8000"),
        ("http://[FE80::1]", "http://[fe80::1]"),
        ("http://my_host", "http://my_host"),
    ],
)
def test_origins_are_compared_in_the_form_in_which_browsers_send_them(given: str, sent: str) -> None:
    assert make_settings({"public_origins": given}, {}).public_origins == (sent,)
    assert make_settings({}, {"FASTSTATE_TRUSTED_ORIGINS": given}).trusted_origins == (sent,)


def test_secrets_are_not_in_the_text_form() -> None:
    settings = make_settings({"secret_key": KEY, "redis_url": "redis://:password@host"}, {})
    assert KEY not in repr(settings)
    assert "password" not in repr(settings)


def test_a_debug_run_makes_one_key_and_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = FastState(debug=True).settings.secret_key
    assert first == FastState(debug=True).settings.secret_key
    assert len(first[0]) >= 32
    (key_file,) = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != ".gitignore"]
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    assert (key_file.parent / ".gitignore").read_text().strip() == "*"


def test_a_production_run_makes_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match="secret_key is missing"):
        FastStateMiddleware(plain_app)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.anyio
async def test_keys_can_be_rotated() -> None:
    old, new = "o" * 40, "n" * 40
    async with FastStateClient(wrapped(Basket, secret_key=old)) as client:
        await client.call("Basket/add")
        session_id = (await client.call("Basket/tell")).headers["x-session"]
        cookies = dict(client.cookies)
    for keys, is_known in [([new, old], True), ([new], False), ([new, "x" * 40], False)]:
        async with FastStateClient(wrapped(Basket, secret_key=keys)) as client:
            client.cookies.update(cookies)
            answer = await client.call("Basket/tell")
            assert (answer.headers["x-session"] == session_id) is is_known


@pytest.mark.anyio
async def test_the_first_key_signs() -> None:
    async with FastStateClient(wrapped(Basket, secret_key=["n" * 40, SECRET])) as client:
        await client.call("Basket/add")
        cookies = dict(client.cookies)
    async with FastStateClient(wrapped(Basket, secret_key="n" * 40)) as client:
        client.cookies.update(cookies)
        assert "set-cookie" not in (await client.call("Basket/add")).headers
