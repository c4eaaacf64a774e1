"""Entity tags, as clients send them back."""

import pytest

from genstatus_server.web.answers import opaque_tags


@pytest.mark.parametrize(
    "header",
    ['"abc"', 'W/"abc"', '"abc-gzip"', 'W/"abc-gzip"', '"abc--gzip"', '"abc;gzip"', 'W/"abc-br"', '"abc-gzip-gzip"'],
)
def test_a_marked_tag_is_the_same_tag(header: str) -> None:
    assert opaque_tags([header]) == {"abc"}


@pytest.mark.parametrize("header", ["", "*", "abc", '"abc', "W/abc"])
def test_what_is_no_tag_is_ignored(header: str) -> None:
    assert opaque_tags([header]) == frozenset()


def test_tags_are_found_in_every_header() -> None:
    assert opaque_tags(['W/"a", "b,c"', '"gzip", "d-gzipped"', '"-gzip"']) == {"a", "b,c", "gzip", "d-gzipped", ""}
