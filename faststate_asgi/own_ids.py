"""The id of a record or component that a request names: in its path, as the framework found it there, or in its query."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from .errors import MissingParameterError
from .keys import StateScope, checked_id
from .plans import StatePlan


def own_id_of(plan: StatePlan, given: Any, path: Mapping[str, Any], query_string: bytes) -> str:
    """Return the id of a record or component state: the given one, else from the path, else from the query.

    Args:
        plan: of the class.
        given: what code asked for, None to look into the request.
        path: the parameters of the request's path.
        query_string: of the request.

    Raises:
        MissingParameterError: there is none.
    """
    names: tuple[str, ...] = (plan.id_parameter,)
    in_path = names
    if plan.scope is StateScope.RECORD:
        names = (*names, "record_id")
        in_path = (*names, "id")
    if given is None:
        given = next((path[name] for name in in_path if path.get(name) is not None), None)
    if given is None:
        query = dict(reversed(parse_qsl(query_string.decode("latin-1"), keep_blank_values=True)))
        given = next((query[name] for name in names if name in query), None)
    if given is None:
        raise MissingParameterError(f"{plan.name} needs the parameter {plan.id_parameter!r} in the path or query")
    return checked_id(str(given), plan.id_parameter)


def path_params_of(request: Any) -> dict[str, Any] | None:
    """Return what Quart or Django found in the path; None where the scope has it."""
    match = getattr(request, "resolver_match", None)
    found = getattr(request, "view_args", None) if match is None else match.kwargs
    return found or None
