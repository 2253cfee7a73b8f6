"""What holds for all pages."""

import pytest
from fasthtml.common import to_xml

from faststate_asgi import datastar_script
from sample_site.flags import FLAGS, flag
from sample_site.layout import DATASTAR_FOLDER, PAGES, content_security_policy


def test_each_page_has_a_flag_that_exists() -> None:
    assert all(letter in FLAGS for _, letter, _ in PAGES)


@pytest.mark.parametrize("letter", sorted(FLAGS))
def test_flags_are_skipped_by_screen_readers(letter: str) -> None:
    assert 'aria-hidden="true"' in to_xml(flag(letter))


def test_the_policy_allows_nothing_inline() -> None:
    policy = content_security_policy(DATASTAR_FOLDER)
    assert "unsafe-inline" not in policy
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'self'" in policy


def test_scripts_come_from_here_and_from_datastars_address_only() -> None:
    assert f"script-src 'self' 'unsafe-eval' {DATASTAR_FOLDER};" in content_security_policy(DATASTAR_FOLDER)


def test_the_usual_address_of_datastar_is_allowed() -> None:
    assert f'src="{DATASTAR_FOLDER}' in str(datastar_script())


def test_a_local_datastar_needs_no_other_host() -> None:
    assert "script-src 'self' 'unsafe-eval';" in content_security_policy("assets/datastar.js")
