"""For tests of apps and of the package: a client without a server, pytest fixtures, and contract suites."""

from .client import Answer, FastStateClient, LiveStream, Page
from .faults import Faults
from .sse import Frame, parse_frames

__all__ = ["Answer", "FastStateClient", "Faults", "Frame", "LiveStream", "Page", "parse_frames"]
