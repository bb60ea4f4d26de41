"""Objects in a bucket of S3, or of a server that speaks its protocol; `objects.py` says which.

A batch is stored once however often it is sent: its keys follow from its id, and objects are only
ever created (`If-None-Match: *`), so the answer 412 means that an earlier try has stored this one.
While one batch is tried again, only objects are sent that were not seen to be stored.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple, TypeVar

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import S3Store

from segsrv.errors import NotConverted, SinkMisconfigured, SinkRejected
from segsrv.sinks.base import Batch, Placement
from segsrv.sinks.s3.errors import answer_of, explained, is_known
from segsrv.sinks.s3.objects import Form, Object, form_of, objects_of

logger = logging.getLogger(__name__)

PROBE_FOLDER = "_segsrv"
PROBE = f"{PROBE_FOLDER}/probe"
PROBE_CONTENT = b"segsrv found out here whether it may write, and whether objects are kept.\n"
NO_ETAG = '"0"'
"""The tag of no object: a PUT on condition of this one stores nothing."""
IGNORES_CONDITIONS = (
    "the endpoint ignores If-None-Match, so an object that is sent again replaces itself"
)
RETRIES_MAX = 2
RETRY_BACKOFF_S = 0.2
RETRY_BACKOFF_S_MAX = 1.0
IDLE_S_MAX = 10.0
"""Servers close idle connections, and one that ends as it is used costs a retry."""
TROUBLE = (BaseError, OSError)
"""Whatever obstore raises for a request: some errors are built-in ones."""

T = TypeVar("T")


class Credentials(NamedTuple):
    """A key as it was given; the environment's or the machine's own where there is none."""

    access_key_id: str
    secret_access_key: str
    session_token: str


class Endpoint(NamedTuple):
    """Where requests go; empty texts stand for what the environment or AWS says.

    `url` has the bucket in its host if `is_virtual`. `ca` holds certificates as PEM.
    """

    url: str
    region: str
    is_virtual: bool
    ca: bytes
    connect_timeout_s: float


@dataclass(slots=True)
class S3Stats:
    """Plain counters; `found_objects` were there when they were sent, from a try before."""

    objects: int = 0
    object_bytes: int = 0
    found_objects: int = 0


class S3Sink:
    """Puts objects under `prefix`, which is empty or ends with a slash.

    Objects are made in a thread of the sink's own, one batch at a time. Memory holds a batch and
    its objects until all of them are stored, and where it spans more than one hour, a copy of it.
    """

    def __init__(
        self,
        bucket: str,
        prefix: str,
        *,
        endpoint: Endpoint,
        credentials: Credentials | None,
        form: Form,
        is_create_only: bool,
        timeout_s: float,
    ) -> None:
        self.stats = S3Stats()
        self._bucket = bucket
        self._prefix = prefix
        self._endpoint = endpoint
        self._credentials = credentials
        self._form = form
        self._mode: Any = "create" if is_create_only else "overwrite"
        self._timeout_s = timeout_s
        self._store: S3Store | None = None
        self._batch_id = ""
        self._left: list[Object] = []
        # Whether it is sure that the endpoint has nothing of the batch.
        self._is_untouched = True
        self._making: tuple[str, asyncio.Future[list[Object]]] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="segsrv-s3")

    async def check(self) -> Sequence[str]:
        """Ask for what is there, and for a write on a condition that nothing can meet.

        Only an endpoint that ignores conditions then has the probe, as `open` would write it.
        """
        store = await self._connected()
        probe = self._prefix + PROBE
        is_there = False
        try:
            found = obstore.list(store, self._prefix + PROBE_FOLDER)
            is_there = bool(await found.collect_async())
        except TROUBLE as error:
            # Listing is not needed, so a key may be there without it.
            if not answer_of(error).is_denied:
                raise self._explained(error) from None
        if self._mode == "overwrite":
            # Without conditions there is no write that changes nothing.
            return []
        try:
            await self._put(probe, PROBE_CONTENT, mode="create" if is_there else {"e_tag": NO_ETAG})
        except (AlreadyExistsError, PreconditionError, FileNotFoundError) as error:
            # An endpoint that looks for the object first says that it is not there.
            if answer_of(error).code == "NoSuchBucket":
                raise self._explained(error) from None
            return []
        except TROUBLE as error:
            raise self._explained(error) from None
        return [f"{self.describe()}: {IGNORES_CONDITIONS}"]

    async def open(self) -> None:
        """Write the probe, an object of a few bytes that stays."""
        await self._connected()
        for _twice in range(2):
            try:
                await self._put(self._prefix + PROBE, PROBE_CONTENT, mode=self._mode)
            except AlreadyExistsError as error:
                if answer_of(error).status == 412:
                    return
                raise self._explained(error) from None
            except TROUBLE as error:
                raise self._explained(error) from None
            if self._mode == "overwrite":
                return
        logger.warning("sink: %s: %s", self.describe(), IGNORES_CONDITIONS)

    async def plan(self, _batch: Batch, _last: Placement) -> Placement:
        # The batch's id and events say the rest of each key.
        return {"suffix": self._form.suffix}

    async def send(self, batch: Batch, placement: Placement) -> None:
        # Settings may have changed since this batch was sent first, and it may be there.
        suffix = placement.get("suffix", self._form.suffix)
        if batch.id != self._batch_id:
            self._left = await self._made_once(batch, suffix)
            self._batch_id, self._is_untouched = batch.id, True
        while self._left:
            key, content, content_type = self._left[0]
            was_untouched, self._is_untouched = self._is_untouched, False
            try:
                await self._put(key, content, mode=self._mode, content_type=content_type)
            except AlreadyExistsError as error:
                # obstore says the same of 409, after which the object may not be there.
                if answer_of(error).status != 412:
                    raise self._explained(error) from None
                self.stats.found_objects += 1
            except TROUBLE as error:
                self._is_untouched = was_untouched and is_known(error)
                if answer_of(error).is_too_large and self._is_untouched:
                    raise self._too_large(len(content)) from None
                raise self._explained(error) from None
            else:
                self.stats.objects += 1
                self.stats.object_bytes += len(content)
            del self._left[0]

    async def close(self) -> None:
        self._store = None
        if self._making is not None:
            self._making[1].cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def describe(self) -> str:
        at = f" at {self._endpoint.url}" if self._endpoint.url else ""
        return f"s3://{self._bucket}/{self._prefix}{at}"

    async def _made_once(self, batch: Batch, suffix: str) -> list[Object]:
        """Return the objects of *batch*; a call that is given up leaves them to the next one.

        Else a batch that takes longer to make than a call may take would never be sent.
        """
        making = self._making
        if making is None or making[0] != batch.id:
            work = self._run(partial(self._objects, batch, suffix))
            making = self._making = batch.id, asyncio.ensure_future(work)
        await asyncio.wait([making[1]])
        self._making = None
        return making[1].result()

    def _objects(self, batch: Batch, suffix: str) -> list[Object]:
        try:
            return objects_of(batch, self._prefix, form_of(suffix))
        except (ImportError, KeyError) as error:
            raise SinkMisconfigured(
                f"{self.describe()}: a batch that was sent as {suffix} before has to be sent so "
                f"again, and can't: {error}"
            ) from error
        except NotConverted as error:
            raise SinkRejected(f"{self.describe()}: {error}") from error

    async def _connected(self) -> S3Store:
        """Return the store, which is made where certificates may be read from disk meanwhile."""
        if self._store is None:
            try:
                self._store = await self._run(self._made)
            except (*TROUBLE, ValueError) as error:
                # Its text may hold a part of what it was given.
                name = type(error).__name__
                raise SinkMisconfigured(f"{self.describe()}: can't be set up ({name})") from None
        return self._store

    def _made(self) -> S3Store:
        endpoint, given = self._endpoint, self._credentials
        config: dict[str, Any] = {"virtual_hosted_style_request": endpoint.is_virtual}
        if endpoint.url:
            # The second one is what the environment would set above the first.
            config |= {"endpoint": endpoint.url, "aws_endpoint_url_s3": endpoint.url}
        if endpoint.region:
            config["region"] = endpoint.region
        client: dict[str, Any] = {
            "connect_timeout": timedelta(seconds=endpoint.connect_timeout_s),
            "timeout": timedelta(seconds=self._timeout_s),
            "pool_idle_timeout": timedelta(seconds=IDLE_S_MAX),
        }
        if endpoint.url.startswith("http:"):
            client["allow_http"] = True
        if endpoint.ca:
            client["root_certificate"] = endpoint.ca
        provider = None
        if given is not None:
            config["skip_signature"] = False

            # As a provider, since a token of the environment would be mixed with a key's settings.
            def provider() -> Any:
                return {
                    "access_key_id": given.access_key_id,
                    "secret_access_key": given.secret_access_key,
                    "token": given.session_token or None,
                    "expires_at": None,
                }

        return S3Store(
            self._bucket,
            config=config,  # type: ignore[arg-type]
            client_options=client,  # type: ignore[arg-type]
            # Delivery tries again for ever; these keep what passes at once out of the log.
            retry_config={
                "max_retries": RETRIES_MAX,
                "retry_timeout": timedelta(seconds=self._timeout_s),
                "backoff": {
                    "init_backoff": timedelta(seconds=RETRY_BACKOFF_S),
                    "max_backoff": timedelta(seconds=RETRY_BACKOFF_S_MAX),
                },
            },
            credential_provider=provider,
        )

    async def _put(
        self, key: str, body: bytes, *, mode: Any, content_type: str = "text/plain"
    ) -> None:
        assert self._store is not None, "opened before the first batch"
        await obstore.put_async(
            self._store,
            key,
            body,
            mode=mode,
            use_multipart=False,
            attributes={"Content-Type": content_type},
        )

    def _explained(self, error: Exception) -> Exception:
        return explained(error, self.describe(), self._bucket)

    def _too_large(self, size: int) -> SinkRejected:
        return SinkRejected(f"{self.describe()}: the endpoint takes no object of {size} bytes")

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
