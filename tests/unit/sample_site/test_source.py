"""What the panel with the code promises."""

import html
import inspect
import re

import pytest
from fasthtml.common import to_xml

from sample_site.chat import ChatState
from sample_site.contact import ContactState
from sample_site.home import HomeState
from sample_site.job import JobState
from sample_site.source import code_panel


@pytest.mark.parametrize("state", [HomeState, ChatState, ContactState, JobState])
def test_the_panel_shows_the_source_letter_for_letter(state: type) -> None:
    markup = to_xml(code_panel(state))
    code = markup.split("<code>")[1].split("</code>")[0]
    assert html.unescape(re.sub(r"<[^>]*>", "", code)) == inspect.getsource(state).rstrip()


def test_words_of_the_language_are_coloured() -> None:
    assert '<span class="code-keyword">class</span>' in to_xml(code_panel(HomeState))
