"""Entity tags, as clients send them back."""

import pytest

from genstatus_server.web.answers import opaque_tags


@pytest.mark.parametrize(
    "header",
    ['"abc"', 'W/"abc"', '"abc-gzip"', 'W/"abc-gzip"', '"abc--gzip"', '"abc;gzip"', 'W/"abc-br"', '"abc-gzip-gzip"'],
)
def test_opaque_tags_ignore_marks_of_proxies(header: str) -> None:
    assert opaque_tags([header]) == {"abc"}


@pytest.mark.parametrize("header", ["", "*", "abc", '"abc', "W/abc"])
def test_opaque_tags_ignore_what_is_no_tag(header: str) -> None:
    assert opaque_tags([header]) == frozenset()


def test_opaque_tags_read_every_header() -> None:
    assert opaque_tags(['W/"a", "b,c"', '"gzip", "d-gzipped"', '"-gzip"']) == {"a", "b,c", "gzip", "d-gzipped", ""}
