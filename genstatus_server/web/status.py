"""`GET /v1/check_generation_status/`: the status of one file's generation, at once or when it is settled."""

from collections.abc import Sequence

from genstatus_server.model.jobs import Job
from genstatus_server.web.answers import encode_answer
from genstatus_server.web.asked import Asked, Query
from genstatus_server.web.check import IsSettled
from genstatus_server.web.held import HeldHandler
from genstatus_server.web.params import StatusRequest, load_request


class GenerationStatusHandler(HeldHandler):
    """One request for one file."""

    @staticmethod
    def understand(query: Query, prefer: Sequence[str]) -> StatusRequest:
        return load_request(query, prefer)

    def settles(self, asked: Asked) -> IsSettled:  # noqa: ARG002 - one file is settled by itself, whoever asks.
        return _is_settled

    def encode(self, asked: Asked, jobs: Sequence[Job], urls: Sequence[str | None]) -> bytes:
        return encode_answer(jobs[0], asked.file_type, urls[0], self.services.settings.generated_at_format)


def _is_settled(jobs: Sequence[Job]) -> bool:
    return jobs[0].is_settled
