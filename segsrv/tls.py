"""The server's certificate, followed as it is replaced on disk."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from pathlib import Path

from segsrv.errors import SettingsError
from segsrv.files import Version, file_version

logger = logging.getLogger(__name__)


class Certificate:
    """A TLS context whose certificate is read again when its files change.

    Connections that are open keep the certificate that they began with.

    Raises:
        SettingsError: The files can't be read, or are no certificate and its key.

    """

    def __init__(self, cert: Path, key: Path) -> None:
        self._cert = cert
        self._key = key
        self._versions = self._read_versions()
        self.context = self._load()

    async def watch(self, interval_s: float) -> None:
        """Look for replaced files for ever; a pair that does not load leaves the old one."""
        while True:
            await asyncio.sleep(interval_s)
            versions = await asyncio.to_thread(self._read_versions)
            if versions == self._versions:
                continue
            self._versions = versions
            try:
                # Half of a new pair fails here; its other half changes the versions again.
                await asyncio.to_thread(self._load)
                self.context.load_cert_chain(self._cert, self._key)
            except (SettingsError, OSError) as error:
                logger.warning("tls: new certificate not readable, the old one stays: %s", error)
            else:
                logger.info("tls: certificate replaced file=%s", self._cert)

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols(["http/1.1"])
        for name, path in (("tls_cert", self._cert), ("tls_key", self._key)):
            if not os.access(path, os.R_OK):
                raise SettingsError(f"{name}={path}: can't be read")
        try:
            context.load_cert_chain(self._cert, self._key)
        except OSError as error:
            raise SettingsError(
                f"tls_cert={self._cert}, tls_key={self._key}: no PEM certificate and its key: "
                f"{error}"
            ) from error
        return context

    def _read_versions(self) -> list[Version | None]:
        return [file_version(path) for path in (self._cert, self._key)]
