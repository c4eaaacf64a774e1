"""`GET /v1/generation_statuses/`: the status of several files of a submission, in one request and one hold."""

from collections.abc import Sequence

from genstatus_server.model.jobs import Job
from genstatus_server.web.answers import encode_answer_about_several, entity_tag
from genstatus_server.web.asked import Asked, Query
from genstatus_server.web.check import IsSettled
from genstatus_server.web.entity_tags import opaque_tags
from genstatus_server.web.held import HeldHandler
from genstatus_server.web.params import StatusesRequest, load_request_for_several


class GenerationStatusesHandler(HeldHandler):
    """One request for several files."""

    @staticmethod
    def understand(query: Query, prefer: Sequence[str]) -> StatusesRequest:
        return load_request_for_several(query, prefer)

    def settles(self, asked: Asked) -> IsSettled:
        known = self._known_entity_tags()
        if not asked.any_file:
            return lambda jobs: all(job.is_settled for job in jobs)
        if known:
            return lambda jobs: known.isdisjoint(opaque_tags([self._entity_tag(asked, jobs)]))
        return _first_leaves_waiting()

    def encode(self, asked: Asked, jobs: Sequence[Job], urls: Sequence[str | None]) -> bytes:
        self.set_header("ETag", self._entity_tag(asked, jobs))
        return encode_answer_about_several(
            asked.submission_id, asked.file_types, jobs, urls, self.services.settings.generated_at_format
        )

    def _known_entity_tags(self) -> frozenset[str]:
        """Those in `If-None-Match`."""
        return opaque_tags(self.request.headers.get_list("If-None-Match"))

    @staticmethod
    def _entity_tag(asked: Asked, jobs: Sequence[Job]) -> str:
        return entity_tag(asked.submission_id, asked.file_types, jobs)


def _first_leaves_waiting() -> IsSettled:
    waiting: list[int] = []

    def is_settled(jobs: Sequence[Job]) -> bool:
        nonlocal waiting
        if not waiting:  # Also where one that was remembered as settled turns out to be generated once more.
            waiting = [place for place, job in enumerate(jobs) if not job.is_settled]
        return not waiting or any(jobs[place].is_settled for place in waiting)

    return is_settled
