"""The reader of streams that other tests rely on follows the specification."""

import pytest

from faststate_asgi.testing.sse import FrameReader, parse_frames


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_frames_are_the_same_however_the_bytes_arrive(size: int, end: bytes) -> None:
    body = b"\n".join(
        [b": hi", b"event: a", b"id: 1", b"data: x 1", b"data: x 2", b"data:y", b"", b"retry: 5", b"", b""]
    )
    body = body.replace(b"\n", end)
    reader, frames = FrameReader(), []
    for start in range(0, len(body), size):
        frames += reader.feed(body[start : start + size])
    first, second = frames
    assert (first.event, first.id, first.data) == ("a", "1", {"x": "1\n2", "y": ""})
    assert second.retry == 5
    assert reader.comments == 1


def test_other_line_separators_are_text() -> None:
    (frame,) = parse_frames("event: e\ndata: x a\u2028b\x0bc\x85d\n\n".encode())
    assert frame.data == {"x": "a\u2028b\x0bc\x85d"}


def test_an_unfinished_frame_is_none() -> None:
    assert parse_frames(b"event: a\ndata: x\n") == []


def test_what_is_not_strict_json_is_an_error() -> None:
    (frame,) = parse_frames(b'event: datastar-patch-signals\ndata: signals {"a": NaN}\n\n')
    with pytest.raises(ValueError, match="not JSON"):
        _ = frame.patch
