"""The two status routes: `GET /v1/check_generation_status/` and `GET /v1/generation_statuses/`."""

import re
from collections.abc import Iterable, Sequence
from typing import Final

from genstatus_server.model.jobs import Job
from genstatus_server.web.answers import encode_answer, encode_answer_about_several, entity_tag
from genstatus_server.web.check import IsSettled
from genstatus_server.web.held import HeldHandler
from genstatus_server.web.params import Query, StatusParams, parse_params_of_one, parse_params_of_several

_ENTITY_TAG: Final = re.compile(r'(?:W/)?"([^"]*)"')
#: What a proxy that compresses puts behind the text of a tag: apache2, Jetty, Akamai and others.
_COMPRESSION_MARK: Final = re.compile(r"(?:(?:--?|;)(?:gzip|br|deflate|zstd))+\Z")


class GenerationStatusHandler(HeldHandler):
    """The status of one file, at once or when it is settled."""

    @staticmethod
    def parse_params(query: Query, prefer: Sequence[str]) -> StatusParams:
        return parse_params_of_one(query, prefer)

    def settles(self, params: StatusParams) -> IsSettled:  # noqa: ARG002 - one file is settled by itself, whoever asks.
        return _is_settled

    def encode(self, params: StatusParams, jobs: Sequence[Job], urls: Sequence[str | None]) -> bytes:
        return encode_answer(jobs[0], params.file_types[0], urls[0], self.services.settings.generated_at_format)


class GenerationStatusesHandler(HeldHandler):
    """The status of several files of a submission, in one request and one hold."""

    @staticmethod
    def parse_params(query: Query, prefer: Sequence[str]) -> StatusParams:
        return parse_params_of_several(query, prefer)

    def settles(self, params: StatusParams) -> IsSettled:
        cached = self._cached_entity_tags()
        if not params.any_file:
            return lambda jobs: all(job.is_settled for job in jobs)
        if cached:
            return lambda jobs: cached.isdisjoint(opaque_tags([self._entity_tag(params, jobs)]))
        return first_leaves_waiting()

    def encode(self, params: StatusParams, jobs: Sequence[Job], urls: Sequence[str | None]) -> bytes:
        self.set_header("ETag", self._entity_tag(params, jobs))
        return encode_answer_about_several(
            params.submission_id, params.file_types, jobs, urls, self.services.settings.generated_at_format
        )

    def _cached_entity_tags(self) -> frozenset[str]:
        """Those in `If-None-Match`."""
        return opaque_tags(self.request.headers.get_list("If-None-Match"))

    @staticmethod
    def _entity_tag(params: StatusParams, jobs: Sequence[Job]) -> str:
        return entity_tag(params.submission_id, params.file_types, jobs)


def first_leaves_waiting() -> IsSettled:
    waiting: list[int] = []

    def is_settled(jobs: Sequence[Job]) -> bool:
        nonlocal waiting
        if not waiting:  # Also where a job that was cached as settled is generated once more.
            waiting = [place for place, job in enumerate(jobs) if not job.is_settled]
        return not waiting or any(jobs[place].is_settled for place in waiting)

    return is_settled


def _is_settled(jobs: Sequence[Job]) -> bool:
    return jobs[0].is_settled


def opaque_tags(headers: Iterable[str]) -> frozenset[str]:
    """The tags in `ETag` or `If-None-Match` headers, without quotes.

    Neither a mark of weakness (RFC 9110, 13.1.2) nor a compressing proxy's plays a part in their comparison.
    """
    tags = _ENTITY_TAG.findall(",".join(headers))
    return frozenset(_COMPRESSION_MARK.sub("", tag) for tag in tags)
