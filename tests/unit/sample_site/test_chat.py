"""What the chat room promises."""

from html.parser import HTMLParser

import pytest
from fasthtml.common import to_xml

from faststate_asgi import BadRequestError, Dispatch
from sample_site.chat import KEPT, ChatState, VisitorState


class _Tags(HTMLParser):
    """Collects the names of all elements, and the text."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(markup)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def chat() -> ChatState:
    return ChatState()


def test_a_message_is_kept_and_the_name_remembered(chat: ChatState) -> None:
    visitor = VisitorState()
    answer = chat.say("  Ada ", " Hello! ", visitor)
    assert [(message.name, message.text) for message in chat.messages] == [("Ada", "Hello!")]
    assert chat.said == 1
    assert visitor.nickname == "Ada"
    assert answer == Dispatch("chat-said")


@pytest.mark.parametrize(("name", "text"), [("", "hi"), ("   ", "hi"), ("Ada", ""), ("Ada", " \n\t ")])
def test_blank_names_and_messages_are_refused(chat: ChatState, name: str, text: str) -> None:
    with pytest.raises(BadRequestError):
        chat.say(name, text, VisitorState())
    assert chat.messages == []
    assert chat.said == 0


def test_the_history_is_bounded(chat: ChatState) -> None:
    for number in range(KEPT + 10):
        chat.say("Ada", str(number), VisitorState())
    assert len(chat.messages) == KEPT
    assert chat.messages[0].text == "10"
    assert chat.said == KEPT + 10


def test_messages_never_travel_as_signals(chat: ChatState) -> None:
    chat.say("Ada", "secret until drawn", VisitorState())
    assert chat.signals() == {"chat": {"said": 1}}
    assert VisitorState(nickname="Ada").signals() in ({}, {"visitor": {}})


@pytest.mark.parametrize(
    "text", ["<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "@post('/x') $said", "</ol>"]
)
def test_what_people_type_stays_text(chat: ChatState, text: str) -> None:
    chat.say(text[:30], text, VisitorState())
    drawn = _Tags(to_xml(chat.log()))
    assert set(drawn.tags) == {"ol", "li", "bdi", "time", "p"}
    assert text in drawn.text


def test_an_empty_room_invites(chat: ChatState) -> None:
    assert "Nobody has said anything yet" in to_xml(chat.log())
