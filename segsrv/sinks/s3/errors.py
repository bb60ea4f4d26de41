"""What a failed request to an S3 endpoint means: what obstore says of it, told apart.

obstore has a class for some answers and none for most, and gives neither the status nor the code of
S3 but in its text, so both are read there. Of what the endpoint said only the code and the
beginning of its message go on, never the whole text.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from segsrv.errors import SegsrvError, SinkMisconfigured, SinkUnavailable

MESSAGE_CHARS_MAX = 200
_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>\s*(\w{1,60})\s*</Code>")
_MESSAGE = re.compile(r"<Message>([^<]*)")
_CREDENTIALS = ("/latest/api/token", "/latest/meta-data/", "/v2/credentials")
"""Paths that are asked for the credentials of an instance or a container."""

_WRONG_KEY = {
    "InvalidAccessKeyId": "the endpoint does not know this access_key_id",
    "SignatureDoesNotMatch": "wrong secret_access_key",
    "InvalidToken": "wrong session_token",
    "ExpiredToken": "the session_token has expired",
    "RequestTimeTooSkewed": "this machine's clock differs too much from the endpoint's",
    "AuthorizationHeaderMalformed": "wrong region",
    "IllegalLocationConstraintException": "wrong region",
    "PermanentRedirect": "wrong region or endpoint: the bucket is elsewhere",
    "InvalidBucketName": "this is no name of a bucket",
    "AllAccessDisabled": "all access to the bucket is disabled",
}
_PASSING = {"RequestTimeout", "IncompleteBody", "BadDigest", "SlowDown", "OperationAborted"}
"""Codes of answers below 500 to a request that may work the next time."""
_TROUBLE = {
    "dns error": "its name can't be resolved",
    "Connection refused": "the connection was refused",
    "TimedOut": "no answer in time",
    "kind: Timeout": "no answer in time",
    "kind: Connect": "can't connect",
}
"""What obstore's text has where no answer came, the most telling first."""
_TOO_LARGE = ("EntityTooLarge", "MaxMessageLengthExceeded")


class Answer(NamedTuple):
    """What an endpoint answered; `status` is 0 where none came back."""

    status: int
    code: str
    message: str

    @property
    def is_too_large(self) -> bool:
        return self.status == 413 or self.code in _TOO_LARGE

    @property
    def is_denied(self) -> bool:
        """Whether the key is known and may not do this."""
        return self.status == 403 and self.code in ("AccessDenied", "")

    @property
    def needs_plain_put(self) -> bool:
        """Whether the endpoint knows no conditions."""
        return self.status == 501 or self.code == "NotImplemented"


def answer_of(error: Exception) -> Answer:
    """Return what the endpoint answered, as far as *error* tells."""
    text = str(error)
    status, code, message = (found.search(text) for found in (_STATUS, _CODE, _MESSAGE))
    return Answer(
        int(status[1]) if status else 0,
        code[1] if code else "",
        _cleaned(message[1]) if message else "",
    )


def is_known(error: Exception) -> bool:
    """Say whether *error* is an answer, or came before the request: nothing was stored."""
    return answer_of(error).status != 0 or "kind: Connect" in str(error)


def explained(error: Exception, where: str, bucket: str) -> SegsrvError:
    """Return *error* as delivery has to take it; *where* names the sink's place."""
    text, answer = str(error), answer_of(error)
    status, code = answer.status, answer.code
    named = f" ({code})" if code else f" (HTTP {status})" if status else ""
    if any(path in text for path in _CREDENTIALS):
        return SinkMisconfigured(
            f"{where}: no credentials: neither secrets.access_key_id nor AWS_ACCESS_KEY_ID is "
            "given, and this machine has no role"
        )
    if reason := _WRONG_KEY.get(code):
        return SinkMisconfigured(f"{where}: {reason}{named}")
    if code == "NoSuchBucket" or (status == 404 and isinstance(error, FileNotFoundError)):
        return SinkMisconfigured(
            f"{where}: there is no bucket {bucket}, and segsrv makes none; make it with: "
            f"aws s3api create-bucket --bucket {bucket}"
        )
    if answer.is_denied:
        return SinkMisconfigured(
            f"{where}: the key may not write there{named}; it needs s3:PutObject, and a bucket "
            "of this name that it knows"
        )
    if answer.needs_plain_put:
        return SinkMisconfigured(
            f"{where}: the endpoint refuses If-None-Match{named}; set create_only = false"
        )
    if answer.is_too_large:
        return SinkMisconfigured(
            f"{where}: the endpoint takes no object this large{named}; "
            "lower the sink's batch_bytes_max"
        )
    if "redirect without LOCATION" in text or 300 <= status < 400:
        return SinkMisconfigured(f"{where}: {_WRONG_KEY['PermanentRedirect']}{named}")
    if "InvalidCertificate" in text:
        return SinkMisconfigured(f"{where}: its certificate is not trusted; see ca_file")
    said = f": {answer.message}" if answer.message else ""
    if 400 <= status < 500 and status not in (408, 409, 425, 429) and code not in _PASSING:
        return SinkMisconfigured(f"{where}: the endpoint refuses it{named}{said}")
    if status:
        return SinkUnavailable(f"{where}: the endpoint can't take it now{named}{said}")
    return SinkUnavailable(f"{where}: {_network_trouble(text)}")


def _network_trouble(text: str) -> str:
    """Return a few words on why no answer came back."""
    for part, meaning in _TROUBLE.items():
        if part in text:
            return meaning
    return "the connection broke"


def _cleaned(text: str) -> str:
    """Return the beginning of *text* on one line, without control characters."""
    line = "".join(char if char.isprintable() else " " for char in text[:MESSAGE_CHARS_MAX])
    return line.strip()
