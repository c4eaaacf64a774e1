"""What a worker is told, and what it may raise to tell callers something."""


class LeaseLost(Exception):
    """This worker does not hold the job (any more), and nothing was changed.

    Its lease ran out and another worker took the job over, a new generation was requested, or the job was deleted.
    """


class NothingUploaded(Exception):
    """The block of a job ended as if all were well, but no file was uploaded; the job is marked failed."""


class NotInitialized(Exception):
    """The database lacks the unique index that `request` relies on: run `genstatus init-db` first."""


class GenerationFailed(Exception):
    """Raise it in the block of a job to mark the job failed; the text is what its callers read, so never a trace."""


class GenerationInvalid(GenerationFailed):
    """The same for a request that cannot be fulfilled as it is, such as one for an empty range of days."""
