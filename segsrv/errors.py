"""The error tree: each class knows its HTTP answer and whether trying again can help."""

from __future__ import annotations

from collections.abc import Sequence


class SegsrvError(Exception):
    """Base of every error that segsrv raises on purpose.

    `status` is the HTTP status of the answer, `code` the machine-readable word in it, `exit_code`
    the status of a command that ends with it. `log_text` is for the log: the message, unless that
    quotes what a client sent and may hold a secret.
    """

    status = 500
    code = "internal_error"
    exit_code = 3

    def __init__(
        self, message: str = "", *, code: str | None = None, log_text: str | None = None
    ) -> None:
        super().__init__(message)
        self.log_text = message if log_text is None else log_text
        if code is not None:
            self.code = code


class SettingsError(SegsrvError):
    """A setting is unknown or wrong; the message names it, its value and what is expected."""

    code = "settings"
    exit_code = 2


class BadRequest(SegsrvError):
    """The body can't be read or is over a limit.

    Always 400: it is the only status that every Segment SDK takes as final. Some keep resending on
    401, 403, 404, 413 and 422.
    """

    status = 400
    code = "bad_request"


class Unauthorized(SegsrvError):
    """The request carries no write key, or one that is not configured."""

    status = 401
    code = "unauthorized"


class RateLimited(SegsrvError):
    """The key sends more than it may; the client should keep its events and try again.

    `retry_after_s` is how many whole seconds it should wait.
    """

    status = 429
    code = "rate_limited"

    def __init__(self, message: str = "", *, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class NotFound(SegsrvError):
    """No such path."""

    status = 404
    code = "not_found"


class Forbidden(SegsrvError):
    """A page of another site has a browser send this, or it is no request of that page."""

    status = 403
    code = "forbidden"


class WrongHost(SegsrvError):
    """The request names a host that this listener doesn't answer for."""

    status = 421
    code = "wrong_host"


class TooManyTries(SegsrvError):
    """Too many wrong tokens came; `retry_after_s` says when the next is looked at."""

    status = 429
    code = "too_many_tries"

    def __init__(self, message: str = "", *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Unavailable(SegsrvError):
    """The journal can't take events now; the client should keep them and try again."""

    status = 503
    code = "unavailable"


class JournalFull(Unavailable):
    """The journal, its memory queue or the disk below it is full."""

    code = "journal_full"


class JournalFault(Unavailable):
    """The disk refused a write or a sync."""

    code = "journal_fault"


class JournalSlow(Unavailable):
    """The disk has not answered for so long that it may hang."""

    code = "journal_slow"


class Overloaded(Unavailable):
    """More is being received at once than the limits allow."""

    code = "overloaded"


class ShuttingDown(Unavailable):
    """The server is stopping and takes no new events."""

    code = "shutting_down"


class DataDirInUse(SegsrvError):
    """Another process holds the lock of the data directory."""

    code = "data_dir_in_use"


class DataDirUnusable(SegsrvError):
    """The data directory can't be written or read."""

    code = "data_dir_unusable"


class SinkUnavailable(SegsrvError):
    """The sink can't take the batch now; it stays in the journal and is tried again.

    `retry_after_s` is for how long the sink asked to be left alone, 0 if it said nothing.
    """

    code = "sink_unavailable"

    def __init__(self, message: str = "", *, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class SinkMisconfigured(SegsrvError):
    """The sink takes nothing as it is configured; tried again seldom, until somebody mends it."""

    code = "sink_misconfigured"


class SinkClosed(SinkMisconfigured):
    """Nobody reads what the sink writes any more, and nobody will.

    A server all of whose sinks are closed ends with `exit_code`; its events stay in the journal.
    """

    code = "sink_closed"
    exit_code = 4


class NotConverted(SegsrvError):
    """Stored lines can't be written in another encoding; trying again can't help."""

    code = "not_converted"


class SinkRejected(SegsrvError):
    """The sink refuses events for good; trying again can't help.

    `indexes` says which of the batch they are, where the sink knows, else it is empty.
    """

    code = "sink_rejected"

    def __init__(self, message: str = "", *, indexes: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.indexes = tuple(indexes)
