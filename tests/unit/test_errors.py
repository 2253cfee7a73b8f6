"""Every exception has a status, can travel between processes, and is what Python calls such a thing."""

import pickle

import pytest
from starlette.exceptions import HTTPException

import faststate_asgi
from faststate_asgi import FastStateError, RequestError
from faststate_asgi.errors import shorten

ERRORS = [
    item
    for item in vars(faststate_asgi).values()
    if isinstance(item, type) and issubclass(item, FastStateError) and item is not FastStateError
]
STATUS = {
    "BadRequestError": 400,
    "MissingParameterError": 400,
    "AuthenticationError": 401,
    "AuthorizationError": 403,
    "StateNotFoundError": 404,
    "ConflictError": 409,
    "LeaseLostError": 409,
    "BodyTooLargeError": 413,
    "ArgumentError": 422,
    "RateLimitedError": 429,
    "OverloadedError": 503,
    "StoreUnavailableError": 503,
    "TurnTimeoutError": 504,
}


@pytest.mark.parametrize("cls", ERRORS)
def test_an_error_travels_between_processes(cls: type[FastStateError]) -> None:
    error = cls("what happened")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is cls
    assert str(again) == "what happened"


def test_a_request_error_keeps_its_headers_and_fields() -> None:
    error = faststate_asgi.ArgumentError("no", headers={"Retry-After": "1"}, fields={"a": "bad"})
    again = pickle.loads(pickle.dumps(error))
    assert (again.headers, again.fields) == ({"Retry-After": "1"}, {"a": "bad"})


@pytest.mark.parametrize(("name", "status"), STATUS.items())
def test_every_refusal_has_its_status(name: str, status: int) -> None:
    error = getattr(faststate_asgi, name)("x")
    assert isinstance(error, RequestError)
    assert isinstance(error, HTTPException)
    assert error.status_code == status


def test_long_values_are_cut_in_messages() -> None:
    assert len(shorten("x" * 1000)) == 80
    assert shorten(5) == "5"
