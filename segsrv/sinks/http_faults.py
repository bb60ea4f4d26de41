"""What it means for a sink that speaks HTTP when no answer came: later, or not as configured."""

from __future__ import annotations

import os
import socket
import ssl

import aiohttp

from segsrv.errors import SegsrvError, SinkMisconfigured, SinkUnavailable


def connection_fault(
    error: aiohttp.ClientError | OSError, *, connect_timeout_s: float, head: str = ""
) -> SegsrvError:
    """Return what *error* means, in a text that begins with *head*.

    aiohttp's own texts may hold a whole URL; nothing of them goes on.
    """
    match _cause(error):
        case ssl.SSLCertVerificationError() as cause:
            reason = cause.verify_message
            return SinkMisconfigured(f"{head}its certificate is not trusted: {reason}")
        case ssl.SSLEOFError() | ssl.SSLZeroReturnError() | ssl.SSLSyscallError():
            return SinkUnavailable(f"{head}the connection broke while TLS began")
        case ssl.SSLError() as cause:
            return SinkMisconfigured(f"{head}no TLS: {cause.reason}")
        case socket.gaierror() as cause:
            return SinkUnavailable(f"{head}its name can't be resolved: {cause.strerror}")
        case TimeoutError():
            return SinkUnavailable(f"{head}not connected within {connect_timeout_s:g} s")
        case aiohttp.ServerDisconnectedError():
            return SinkUnavailable(f"{head}the connection was closed without an answer")
        case aiohttp.ClientResponseError():
            return SinkUnavailable(f"{head}its answer is not HTTP")
        case OSError(errno=int(number)):
            return SinkUnavailable(f"{head}{os.strerror(number)}")
        case cause:
            return SinkUnavailable(f"{head}the connection failed: {type(cause).__name__}")


def _cause(error: Exception) -> Exception:
    """Return what the system or the TLS library said, where aiohttp wraps that."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return error.certificate_error
    return error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
