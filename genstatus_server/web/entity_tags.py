"""The comparison of entity tags. Pure."""

import re
from collections.abc import Iterable
from typing import Final

_ENTITY_TAG: Final = re.compile(r'(?:W/)?"([^"]*)"')
#: What a proxy that compresses puts behind the text of a tag: apache2, Jetty, Akamai and others.
_COMPRESSION_MARK: Final = re.compile(r"(?:(?:--?|;)(?:gzip|br|deflate|zstd))+\Z")


def opaque_tags(headers: Iterable[str]) -> frozenset[str]:
    """The tags in `ETag` or `If-None-Match` headers, without quotes.

    Neither a mark of weakness (RFC 9110, 13.1.2) nor a compressing proxy's plays a part in their comparison.
    """
    tags = _ENTITY_TAG.findall(",".join(headers))
    return frozenset(_COMPRESSION_MARK.sub("", tag) for tag in tags)
