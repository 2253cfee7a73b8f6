"""FastState for ASGI: server-side reactive state for Python web apps."""

from .actions import Action, js
from .answers import Dispatch, Elements, Html, Redirect, Remove, Script
from .config import StateConfig
from .context import RequestContext
from .engine import FastState
from .errors import (
    ArgumentError,
    AuthenticationError,
    AuthorizationError,
    BadRequestError,
    BodyTooLargeError,
    ConfigurationError,
    ConflictError,
    FastStateError,
    InvalidStateError,
    LeaseLostError,
    MissingDependencyError,
    MissingParameterError,
    NestedTurnError,
    NotResolvedError,
    OverloadedError,
    RateLimitedError,
    ReadOnlyStateError,
    RequestError,
    SlowBodyError,
    StateNotFoundError,
    StoreUnavailableError,
    TurnTimeoutError,
)
from .events import event, fragment
from .fields import Bound, Private
from .guards import requires_auth
from .identity import Identity
from .integrations.fastapi import Inject
from .integrations.fasthtml import auth_beforeware, fasthtml_session_auth
from .integrations.starlette import inject
from .keys import StateKey, StateScope
from .live import ErrorBox, Live, datastar_script
from .middleware import FastStateMiddleware
from .parameters import Writable
from .registry import StateRegistry, state_registry
from .settings import Settings
from .signals import Signals
from .state import ReactiveState
from .subapp import faststate_app
from .vitals import get_state_info

__all__ = [
    "Action",
    "ArgumentError",
    "AuthenticationError",
    "AuthorizationError",
    "BadRequestError",
    "BodyTooLargeError",
    "Bound",
    "ConfigurationError",
    "ConflictError",
    "Dispatch",
    "Elements",
    "ErrorBox",
    "FastState",
    "FastStateError",
    "FastStateMiddleware",
    "Html",
    "Identity",
    "Inject",
    "InvalidStateError",
    "LeaseLostError",
    "Live",
    "MissingDependencyError",
    "MissingParameterError",
    "NestedTurnError",
    "NotResolvedError",
    "OverloadedError",
    "Private",
    "RateLimitedError",
    "ReactiveState",
    "ReadOnlyStateError",
    "Redirect",
    "Remove",
    "RequestContext",
    "RequestError",
    "Script",
    "Settings",
    "Signals",
    "SlowBodyError",
    "StateConfig",
    "StateKey",
    "StateNotFoundError",
    "StateRegistry",
    "StateScope",
    "StoreUnavailableError",
    "TurnTimeoutError",
    "Writable",
    "auth_beforeware",
    "datastar_script",
    "event",
    "fasthtml_session_auth",
    "faststate_app",
    "fragment",
    "get_state_info",
    "inject",
    "js",
    "requires_auth",
    "state_registry",
]
