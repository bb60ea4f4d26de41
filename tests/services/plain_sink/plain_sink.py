"""The least sink that stores events exactly once over a network: `plain://HOST:PORT`.

With it the harness of the fault matrix is tested, and with its option `wrong` also that the harness
notices a sink which loses or doubles events.
"""

import asyncio
from dataclasses import dataclass
from typing import Literal

from segsrv.errors import SinkRejected, SinkUnavailable
from segsrv.sinks import Batch, Kind, Placement, SinkSpec


@dataclass(frozen=True, kw_only=True)
class Options:
    wrong: Literal["nothing", "loses", "doubles"] = "nothing"


class PlainSink:
    def __init__(self, spec: SinkSpec) -> None:
        self._host, _colon, port = place(spec).partition(":")
        self._port = int(port)
        self._wrong = spec.options.wrong
        self._sends = 0
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def check(self) -> None:
        await self.open()
        await self.close()

    async def open(self) -> None:
        try:
            self._streams = await asyncio.open_connection(self._host, self._port)
        except OSError as error:
            raise SinkUnavailable(str(error)) from error

    async def plan(self, _batch: Batch, _last: Placement) -> Placement:
        return {}

    async def send(self, batch: Batch, _placement: Placement) -> None:
        self._sends += 1
        batch_id = f"{batch.id}-{self._sends}" if self._wrong == "doubles" else batch.id
        answer = "error cut off"
        try:
            answer = await self._answer(batch_id, batch)
        except (OSError, EOFError) as error:
            if self._wrong != "loses":
                raise SinkUnavailable(str(error)) from error
            await self.close()
            answer = "ok"
        finally:
            # Cancelled as well: the answer to this batch must not be taken for that to the next.
            if answer.startswith("error"):
                await self.close()
        word, _space, rest = answer.partition(" ")
        if word == "refused":
            raise SinkRejected("refused by its name", indexes=[int(rest)])
        if word != "ok":
            raise SinkUnavailable(rest)

    async def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    def describe(self) -> str:
        return f"plain://{self._host}:{self._port}"

    async def _answer(self, batch_id: str, batch: Batch) -> str:
        if self._streams is None:
            await self.open()
        assert self._streams is not None
        reader, writer = self._streams
        writer.write(f"{batch_id} {batch.events} {batch.size}\n".encode())
        writer.writelines(batch.parts)
        await writer.drain()
        line = (await reader.readline()).decode()
        return line.strip() or "error cut off"


def place(spec: SinkSpec) -> str:
    return spec.url.removeprefix("plain://")


PLAIN = Kind(schemes=("plain",), place=place, make=PlainSink, options=Options)
