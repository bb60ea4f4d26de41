"""The composition root: settings in, a complete aiohttp application out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

from aiohttp import web

from segsrv.board import Board
from segsrv.delivery.station import Station
from segsrv.events import Pipeline
from segsrv.events.counters import Counters
from segsrv.events.user_agents import UserAgents
from segsrv.geoip.databases import Databases
from segsrv.http.analytics_js import AnalyticsJs
from segsrv.http.auth import Keyring
from segsrv.http.caller import Callers
from segsrv.http.client_address import ClientAddress
from segsrv.http.cors import Cors
from segsrv.http.handlers import Handlers
from segsrv.http.ingest import Ingest
from segsrv.http.openapi import OpenApi
from segsrv.http.pixel import Pixel
from segsrv.http.project_settings import ProjectSettings
from segsrv.http.routes import add_routes
from segsrv.http.tally import TALLY, Tally
from segsrv.http.trying import Trial
from segsrv.key_watch import KeyWatch
from segsrv.live.page import LivePage
from segsrv.live.watching import Feed
from segsrv.ops.debugging import Debug
from segsrv.ops.health import Health
from segsrv.ops.listener import ops_application
from segsrv.ops.metrics import Metrics
from segsrv.ops.peers import Peers, Report
from segsrv.ops.sign_in import SignIn
from segsrv.ops.token import kept_token
from segsrv.rates import Rates
from segsrv.settings import Key, Settings
from segsrv.write_keys import KeySource, with_keys

logger = logging.getLogger(__name__)

Context = Callable[[web.Application], AsyncIterator[None]]


@dataclass(slots=True, frozen=True)
class _Operated:
    """What the operators' pages of an application are made of."""

    settings: Settings
    health: Health
    trial: Trial


STATION = web.AppKey("segsrv_station", Station)
KEY_WATCH = web.AppKey("segsrv_key_watch", KeyWatch)
INGEST = web.AppKey("segsrv_ingest", Ingest)
_OPERATED = web.AppKey("segsrv_operated", _Operated)


def create_app(
    settings: Settings | None = None,
    *,
    worker: int = 0,
    board: Board | None = None,
    rates: Rates | None = None,
    source: KeySource | None = None,
) -> web.Application:
    """Build the ingest application; it is complete, so it can be mounted with `add_subapp`.

    It opens its journal when it starts and closes it when it is cleaned up. Several may live in one
    process, each with its own `data_dir`. *worker* is this process's number where several processes
    share a `data_dir`, from 0 to `settings.workers - 1`. With *board*, which `segsrv serve` makes,
    another process delivers; in *rates* all count what keys send; *source* is where all keys of
    *settings* came from. Files of keys are looked at again while the application runs.

    Raises:
        SettingsError: A sink's URL, a proxy network or a GeoIP database is wrong.

    """
    settings, source = _with_keys(settings or Settings(), source)
    user_agents = _user_agents(settings)
    databases = _databases(settings)
    pipeline = Pipeline(
        event_bytes_max=settings.event_bytes_max,
        parse_user_agent=user_agents.parse,
        locate=databases.geo.locate,
    )
    keyring, cors = Keyring(settings.all_keys()), Cors(settings.all_keys())
    client_address = ClientAddress(settings.trusted_proxies, settings.client_ip_header)
    tally = Tally(settings, Counters())
    callers = Callers(settings, keyring, cors, client_address, tally)
    ingest = Ingest(settings, keyring, cors, pipeline, callers, tally, rates)
    handlers = Handlers(ingest, keyring, client_address, tally)
    station = Station(settings, worker=worker, board=board)
    peers = _peers(settings, worker, has_delivery=board is not None)
    metrics = Metrics(tally.counters, station, user_agents, databases, peers, pipeline.hits)
    health = _health(settings, station, metrics, peers)

    app = web.Application(client_max_size=settings.body_bytes_max)
    app[TALLY], app[STATION], app[INGEST] = tally, station, ingest
    app.cleanup_ctx.append(_journal(station, ingest))
    app.cleanup_ctx.append(
        _background(settings, peers, _report(health, tally), databases, pipeline)
    )
    app.on_shutdown.append(health.stop)
    app[_OPERATED] = _Operated(settings, health, _trial(settings, user_agents, databases))
    _watch_keys(app, settings, source)
    add_routes(
        app,
        handlers,
        Pixel(handlers, cors, body_bytes_max=settings.body_bytes_max),
        health,
        ProjectSettings(settings, keyring, cors),
        AnalyticsJs(settings, keyring, cors),
        OpenApi(settings, cors),
        cors,
    )
    return app


def reload_keys(app: web.Application) -> None:
    """Have *app*, which `create_app` returned, read its files of keys now.

    What is new in them holds soon after. They are looked at every second anyway.

    Raises:
        ValueError: *app* is another application.

    """
    watch = app.get(KEY_WATCH)
    if watch is None:
        raise ValueError("expected an application that create_app returned")
    watch.ask()


def _with_keys(settings: Settings, source: KeySource | None) -> tuple[Settings, KeySource]:
    if source is not None:
        return settings, source
    known = with_keys(settings)
    return known, KeySource.of(lambda: settings, known)


def _watch_keys(app: web.Application, settings: Settings, source: KeySource) -> None:
    ingest, station, trial = app[INGEST], app[STATION], app[_OPERATED].trial

    def use(keys: Sequence[Key]) -> None:
        for part in (ingest, station, trial):
            part.use_keys(keys)

    watch = KeyWatch(settings, source, use, tells=station.worker == 0)
    app[KEY_WATCH] = watch
    app.cleanup_ctx.append(_watching(watch))


def _health(settings: Settings, station: Station, metrics: Metrics, peers: Peers) -> Health:
    is_apart = bool(settings.ops_listen)
    return Health(
        *(station, metrics, peers), retry_after_s=settings.retry_after_s, is_apart=is_apart
    )


def _trial(settings: Settings, user_agents: UserAgents, databases: Databases) -> Trial:
    def pipeline() -> Pipeline:
        # One for each: they run in threads, and the databases may be replaced.
        return Pipeline(
            event_bytes_max=settings.event_bytes_max,
            parse_user_agent=user_agents.parse,
            locate=databases.geo.locate,
        )

    return Trial(settings, pipeline)


def _user_agents(settings: Settings) -> UserAgents:
    return UserAgents(
        entries_max=settings.user_agent_cache_entries_max, bot_words=settings.bot_words
    )


def _databases(settings: Settings) -> Databases:
    return Databases(
        settings.geoip_db,
        entries_max=settings.geoip_cache_entries_max,
        copy_dir=settings.data_dir / "state",
        file_mode=int(settings.file_mode, 8),
    )


def _peers(settings: Settings, worker: int, *, has_delivery: bool) -> Peers:
    return Peers(
        settings.data_dir / "state" / "metrics",
        name=str(worker),
        workers=settings.workers,
        has_delivery=has_delivery,
        file_mode=int(settings.file_mode, 8),
    )


def create_ops_app(app: web.Application) -> web.Application:
    """Build an application of the pages for operators of *app*, which `create_app` returned.

    It answers `/metrics`, `/ready` with details, `/openapi.json` and `/health`, and `/live` and
    `POST /debug` behind a sign-in, whose token it makes if there is none. It is meant for a
    listener that no stranger reaches. *app* itself then answers 404 at the first and the third, and
    its own `/ready` goes on telling no figures.

    Raises:
        DataDirUnusable: The token can't be read or written.
        ValueError: *app* is another application.

    """
    operated = app.get(_OPERATED)
    if operated is None:
        raise ValueError("expected an application that create_app returned")
    operated.health.is_apart = True
    settings = operated.settings
    sign_in = SignIn(kept_token(settings), listen=settings.ops_listen, hosts=settings.ops_hosts)
    feed = Feed(settings)
    live = LivePage(sign_in, feed.watch, viewers_max=settings.live_viewers_max)
    debug = Debug(operated.trial, sign_in, body_bytes_max=settings.body_bytes_max)
    pages = (live.add_to, debug.add_to)
    return ops_application(operated.health, OpenApi(settings, None), sign_in, *pages)


def _journal(station: Station, ingest: Ingest) -> Context:
    async def context(_app: web.Application) -> AsyncIterator[None]:
        await station.start()
        ingest.commit = station.commit
        yield
        await station.stop()

    return context


def _report(health: Health, tally: Tally) -> Callable[[], Awaitable[Report]]:
    async def report() -> Report:
        return {**await health.report(), "refused": tally.refusals.report()}

    return report


def _background(
    settings: Settings,
    peers: Peers,
    report: Callable[[], Awaitable[Report]],
    databases: Databases,
    pipeline: Pipeline,
) -> Context:
    def use_reloaded() -> None:
        pipeline.locate = databases.geo.locate

    async def context(_app: web.Application) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(peers.publish(report), name="segsrv-peers")]
        if databases.paths:
            watch = databases.watch(settings.geoip_check_interval_s, use_reloaded)
            tasks.append(asyncio.create_task(watch, name="segsrv-geoip"))
        for task in tasks:
            task.add_done_callback(_report_death)
        yield
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    return context


def _watching(watch: KeyWatch) -> Context:
    async def context(_app: web.Application) -> AsyncIterator[None]:
        task = asyncio.create_task(watch.run(), name="segsrv-keys")
        task.add_done_callback(_report_death)
        yield
        task.cancel()
        await asyncio.wait([task])

    return context


def _report_death(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("background task ended name=%s", task.get_name(), exc_info=error)
