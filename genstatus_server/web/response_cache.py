"""The bytes of answers, put together once for all who are told the same. Pure.

When a job is finished that thousands wait for, and when hundreds ask for a file again and again, to put the same
headers together for each takes longer than all else.
"""

from collections.abc import Callable, Hashable, Iterable
from typing import Final, NamedTuple

_DATE: Final = "\0date"
_REQUEST_ID: Final = "\0request id"
#: Answers that are kept: those that are asked for often are few.
_KEPT: Final = 1024

#: The names and values of an answer's headers, and its body.
Parts = tuple[Iterable[tuple[str, str]], bytes]


class _Answer(NamedTuple):
    """The bytes around the date and the request's id; `says` is what they depend on, but for the question."""

    says: object
    start: bytes
    middle: bytes
    end: bytes


class SharedAnswers:
    """The last answer to each question. What differs from one who gets it to the next are date and request id."""

    def __init__(self) -> None:
        self._answers: dict[Hashable, _Answer] = {}

    def bytes_for(
        self, question: Hashable, says: object, put_together: Callable[[str, str], Parts], *, date: str, request_id: str
    ) -> bytes:
        """A 200 as `put_together` gives it for a date and a request id, in this order.

        It is asked for that once, as long as the same `question` gets an answer that `says` the same.
        """
        answer = self._answers.get(question)
        if answer is None or answer.says != says:
            answer = self._answers[question] = _put_together(says, put_together)
            if len(self._answers) > _KEPT:
                del self._answers[next(iter(self._answers))]
        own = date.encode("latin-1"), request_id.encode("latin-1")
        return b"".join((answer.start, own[0], answer.middle, own[1], answer.end))


def _put_together(says: object, put_together: Callable[[str, str], Parts]) -> _Answer:
    headers, body = put_together(_DATE, _REQUEST_ID)
    head = "\r\n".join(["HTTP/1.1 200 OK", *[f"{name}: {value}" for name, value in headers], "", ""])
    start, _, rest = head.partition(_DATE)
    middle, _, end = rest.partition(_REQUEST_ID)
    return _Answer(says, start.encode("latin-1"), middle.encode("latin-1"), end.encode("latin-1") + body)
