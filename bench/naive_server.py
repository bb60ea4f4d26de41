"""What a Python team writes first: FastAPI, pydantic models of the events, append to a file.

Validated events are written with `write()` before the answer. Nothing is synced, mapped, enriched
or delivered, and no client is refused: less work than segsrv does, by the most usual means.
"""

import argparse
import socket
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

import uvicorn
from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import HTTPBasic, HTTPBasicCredentials
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel


class Model(BaseModel):
    """Names as in JSON, and room for fields that the model does not know."""

    model_config = ConfigDict(alias_generator=to_camel, extra="allow")


class Page(Model):
    path: str | None = None
    referrer: str | None = None
    search: str | None = None
    title: str | None = None
    url: str | None = None


class Library(Model):
    name: str
    version: str


class Context(Model):
    ip: str | None = None
    user_agent: str | None = None
    locale: str | None = None
    timezone: str | None = None
    page: Page | None = None
    library: Library | None = None
    campaign: dict[str, Any] | None = None


class Event(Model):
    type: Literal["track", "identify", "page", "screen", "group", "alias"]
    message_id: str = Field(max_length=100)
    user_id: str | None = None
    anonymous_id: str | None = None
    event: str | None = None
    timestamp: datetime
    sent_at: datetime | None = None
    context: Context = Field(default_factory=Context)
    properties: dict[str, Any] | None = None
    traits: dict[str, Any] | None = None
    integrations: dict[str, Any] | None = None


class Batch(Model):
    batch: list[Event]
    sent_at: datetime | None = None
    write_key: str | None = None


def make_app(file: BinaryIO, write_key: str, path: str) -> FastAPI:
    app = FastAPI()
    security = HTTPBasic()

    async def check_key(credentials: Annotated[HTTPBasicCredentials, Depends(security)]) -> None:
        if credentials.username != write_key:
            raise HTTPException(status_code=401, detail="unknown write key")

    def store(events: list[Event]) -> dict[str, bool]:
        lines = [event.model_dump_json(by_alias=True, exclude_unset=True) for event in events]
        file.write("".join(f"{line}\n" for line in lines).encode())
        return {"success": True}

    @app.post(f"{path}/v1/t", dependencies=[Depends(check_key)])
    async def track(event: Event) -> dict[str, bool]:
        return store([event])

    @app.post(f"{path}/v1/batch", dependencies=[Depends(check_key)])
    async def batch(batch: Batch) -> dict[str, bool]:
        return store(batch.batch)

    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--port", type=int, default=8083, help="0 picks a free one")
    parser.add_argument("--write-key", required=True)
    parser.add_argument("--path", default="/api/v1/segment", help="before /v1/t and /v1/batch")
    parser.add_argument("--file", type=Path, default=Path("events.ndjson"))
    options = parser.parse_args()
    with (
        options.file.open("ab", buffering=0) as file,
        socket.create_server(("127.0.0.1", options.port), backlog=4096) as listening,
    ):
        # Connections wait in the socket's queue until uvicorn takes them.
        print(f"listening on http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
        app = make_app(file, options.write_key, options.path)
        config = uvicorn.Config(app, access_log=False, log_level="warning")
        uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
