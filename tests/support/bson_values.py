"""Whatever may lie in a field of a MongoDB document, for hypothesis."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import bson
from bson import DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.binary import Binary
from bson.code import Code
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.datetime_ms import DatetimeMS
from bson.raw_bson import RawBSONDocument
from hypothesis import strategies as st

#: Stands for bytes that are no UTF-8, which `raw` puts in its place: the driver refuses to write them.
INVALID_TEXT: Final = "(no UTF-8)"

_LENIENT: Final = CodecOptions(
    document_class=RawBSONDocument,
    unicode_decode_error_handler="replace",
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,
)
_int32 = st.integers(-(2**31), 2**31 - 1)
_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_name = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0$."), min_size=1, max_size=8)

#: What has no parts, and may be an `_id`.
plain: Final = st.one_of(
    st.none(),
    st.booleans(),
    _int32,
    st.integers(-(2**63), 2**63 - 1).map(Int64),
    st.floats(width=64),
    st.integers(0, 2**40).map(float),
    _text,
    st.sampled_from(["", " ", "finished", "waiting", "failed", "ready", "D1", "097", "1/D1.csv", INVALID_TEXT]),
    st.binary(max_size=12),
    st.builds(Binary, st.binary(min_size=16, max_size=16), st.sampled_from([0, 3, 4, 5, 128])),
    st.binary(min_size=12, max_size=12).map(ObjectId),
    st.datetimes(timezones=st.just(UTC)),
    st.integers(-(2**63), 2**63 - 1).map(DatetimeMS),
    st.sampled_from([Decimal128(text) for text in ("1", "1.5", "NaN", "-Infinity", "1E+6000")]),
    st.builds(Timestamp, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)),
    st.sampled_from([MinKey(), MaxKey()]),
    st.builds(Code, _text),
    st.builds(Code, _text, st.dictionaries(_name, _int32, max_size=1)),
)

#: Any value, nested too.
any_value: Final = st.recursive(
    plain | st.builds(Regex, st.sampled_from(["", "^a", "("]), st.sampled_from([0, re.IGNORECASE])),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(_name | st.sampled_from(["status", "key", "bucket"]), inner, max_size=3)
        | st.builds(DBRef, _name, inner)
    ),
    max_leaves=5,
)

#: MongoDB takes no array, no regular expression, and no names that begin with a dollar sign but in a DBRef.
_embedded: Final = st.dictionaries(_name, plain, max_size=2)
#: Any `_id`.
any_id: Final = plain | _embedded | st.builds(DBRef, _name, plain | _embedded)


def raw(document: Mapping[str, Any]) -> RawBSONDocument:
    """`document` as it is sent, with bytes that are no UTF-8 where it says so."""
    invalid = b"\xff" * len(INVALID_TEXT)
    return RawBSONDocument(bson.encode(document).replace(INVALID_TEXT.encode(), invalid), _LENIENT)


def is_whole(value: object) -> bool:
    """Whether a number means an integer of 64 bits."""
    if isinstance(value, float):
        return value.is_integer() and -(2**63) <= value < 2**63
    return isinstance(value, int) and not isinstance(value, bool)


def is_moment(value: object) -> bool:
    """Whether it is a date that Python has, too."""
    if isinstance(value, DatetimeMS):
        low, high = (DatetimeMS(each) for each in (datetime(1, 1, 1, tzinfo=UTC), datetime.max.replace(tzinfo=UTC)))
        return low <= value <= high
    return isinstance(value, datetime)


def is_future(value: object) -> bool:
    """Whether it is a moment that has not come yet."""
    if not is_moment(value):
        return False
    now = datetime.now(UTC)
    return value > DatetimeMS(now) if isinstance(value, DatetimeMS) else isinstance(value, datetime) and value > now
