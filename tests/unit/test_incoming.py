"""What is taken from the body of a request, and what is not."""

import pytest

from faststate_asgi.errors import ArgumentError
from faststate_asgi.incoming import parse_json


@pytest.mark.parametrize("text", [b"1e309", b"[1" + b"0" * 250 + b"e90]", b"-1" + b"0" * 309 + b".0", b'{"a":1E+0400}'])
def test_a_number_that_is_infinite_is_refused_however_it_is_written(text: bytes) -> None:
    with pytest.raises(ArgumentError, match="too large"):
        parse_json(text)
