"""`segsrv geoip download` against real servers on loopback that serve real bytes."""

import argparse
import asyncio
import base64
import contextlib
import gzip
import hashlib
import io
import os
import sys
import tarfile
import termios
from datetime import date

import maxminddb
import pytest
from aiohttp import web
from yarl import URL

from segsrv.geoip import download
from tests.mmdb import mmdb_bytes

NEW = mmdb_bytes({"192.0.2.0/24": {"country": {"iso_code": "NO"}}}, "Test-City")
OLD = mmdb_bytes({"192.0.2.0/24": {"country": {"iso_code": "SE"}}}, "Test-City")
KEY = "s3cret/licence+key"
BASIC = "Basic " + base64.b64encode(f"1234:{KEY}".encode()).decode()
MAXMIND = ("--provider", "maxmind", "--license-key", KEY)
MAXMIND_ACCOUNT = (*MAXMIND, "--account-id", "1234")


def tar_gz(*members, file_format=tarfile.PAX_FORMAT):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", format=file_format) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            # A fraction of a second makes an extended header, which must be skipped.
            info.mtime = 1_767_225_600.5
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


MAXMIND_TAR = tar_gz(
    ("GeoLite2-City_20260101/LICENSE.txt", b"x" * 700),
    ("GeoLite2-City_20260101/GeoLite2-City.mmdb", NEW),
    ("GeoLite2-City_20260101/README.txt", b""),
)


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch):
    for name in (download.LICENSE_KEY_ENV, download.ACCOUNT_ID_ENV, "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def target(tmp_path):
    """A database that is already there, alone in its folder."""
    path = tmp_path / "geoip" / "city.mmdb"
    path.parent.mkdir()
    path.write_bytes(OLD)
    return path


@pytest.fixture
def serve(aiohttp_server):
    """Start a server that gives every request to one handler, and return its URL."""

    async def start(handler):
        app = web.Application()
        app.router.add_get("/{path:.*}", handler)
        return str((await aiohttp_server(app)).make_url("/"))

    return start


@pytest.fixture
def serve_bytes(serve):
    """Start a server that answers every request with the same bytes."""

    async def start(body):
        async def answer(_request):
            return web.Response(body=body)

        return await serve(answer)

    return start


def maxmind_handler(body, seen=None, sha256=None):
    """Answer as MaxMind does: the archive, or its sha256 when the suffix asks for it."""

    async def answer(request):
        if seen is not None:
            seen.append(request)
        if request.query["suffix"] == "tar.gz.sha256":
            digest = sha256 or hashlib.sha256(body).hexdigest()
            return web.Response(text=f"{digest}  GeoLite2-City_20260101.tar.gz\n")
        return web.Response(body=body)

    return answer


async def run(*args, limits=download.LIMITS):
    parser = argparse.ArgumentParser()
    download.add_flags(parser)
    return await asyncio.to_thread(download.run, parser.parse_args(args), limits)


async def run_and_fail(capsys, target, *args, limits=download.LIMITS):
    """Run, check that it failed cleanly and return its one line of text."""
    assert await run("--to", str(target), *args, limits=limits) == 2
    assert target.read_bytes() == OLD
    assert [path.name for path in target.parent.iterdir()] == [target.name]
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("segsrv geoip download: ")
    assert output.err.count("\n") == 1
    assert output.err.endswith("\n")
    assert KEY not in output.err
    return output.err


async def test_dbip_needs_no_account(target, serve, capsys):
    """By default the city file of DB-IP replaces the old one, and its licence is shown."""
    paths = []

    async def answer(request):
        paths.append(request.path)
        return web.Response(body=gzip.compress(NEW))

    assert await run("--to", str(target), "--base-url", await serve(answer)) == 0
    assert target.read_bytes() == NEW
    assert len(paths) == 1
    assert paths[0].startswith("/free/dbip-city-lite-2")
    assert paths[0].endswith(".mmdb.gz")
    output = capsys.readouterr()
    assert output.err == ""
    with maxminddb.open_database(target) as reader:
        nodes = reader.metadata().node_count
    assert f"{target}: Test-City, built 2026-01-01 00:00 UTC, {nodes} nodes\n" in output.out
    assert "CC BY 4.0" in output.out
    assert "IP Geolocation by DB-IP (https://db-ip.com)" in output.out


async def test_the_month_before_is_taken_when_the_new_one_is_not_out(target, serve):
    """After a 404 for this month's file the one of the month before is fetched."""
    paths = []

    async def answer(request):
        paths.append(request.path)
        return web.Response(body=gzip.compress(NEW), status=404 if len(paths) == 1 else 200)

    arguments = ("--to", str(target), "--edition", "asn", "--base-url", await serve(answer))
    assert await run(*arguments) == 0
    assert target.read_bytes() == NEW
    first, second = (
        int(year) * 12 + int(month)
        for year, month in (path.removesuffix(".mmdb.gz").split("-")[-2:] for path in paths)
    )
    assert first - second == 1


@pytest.mark.parametrize(
    ("today", "months"),
    [
        (date(2026, 1, 1), ["2026-01", "2025-12"]),
        (date(2024, 3, 31), ["2024-03", "2024-02"]),
        (date(2026, 12, 31), ["2026-12", "2026-11"]),
    ],
)
def test_the_months_of_dbip_cross_years_and_short_months(today, months):
    """The month before is right at the start of a year and at the end of a long month."""
    source = download.dbip_source("country", URL(download.DBIP_URL), today)
    assert [str(url) for url in source.urls] == [
        f"https://download.db-ip.com/free/dbip-country-lite-{month}.mmdb.gz" for month in months
    ]


async def test_two_missing_months_are_an_error(target, serve, capsys):
    """When neither month is there the error has the URL and the status, and only two were asked."""
    paths = []

    async def answer(request):
        paths.append(request.path)
        raise web.HTTPNotFound

    base_url = await serve(answer)
    error = await run_and_fail(capsys, target, "--base-url", base_url)
    assert len(paths) == 2
    assert f"{base_url.rstrip('/')}{paths[1]}: answered 404" in error


async def test_maxmind_with_an_account_uses_basic_auth(target, serve, capsys):
    """With an account id both requests carry Basic auth, and the key is in no URL."""
    seen = []
    base_url = await serve(maxmind_handler(MAXMIND_TAR, seen))
    assert await run("--to", str(target), "--base-url", base_url, *MAXMIND_ACCOUNT) == 0
    assert target.read_bytes() == NEW
    assert [request.path for request in seen] == ["/geoip/databases/GeoLite2-City/download"] * 2
    assert {request.query["suffix"] for request in seen} == {"tar.gz", "tar.gz.sha256"}
    assert {request.headers["Authorization"] for request in seen} == {BASIC}
    assert all("license_key" not in request.query for request in seen)
    assert "GeoLite Data created by MaxMind" in capsys.readouterr().out


async def test_maxmind_without_an_account_uses_the_permalink(target, serve, monkeypatch):
    """With a key alone, here from the environment, the older URL is asked with the key in it."""
    monkeypatch.setenv(download.LICENSE_KEY_ENV, f"{KEY}\n")
    seen = []
    base_url = await serve(maxmind_handler(MAXMIND_TAR, seen))
    arguments = ("--provider", "maxmind", "--edition", "GeoIP2-Enterprise")
    assert await run("--to", str(target), "--base-url", base_url, *arguments) == 0
    assert target.read_bytes() == NEW
    assert [request.path for request in seen] == ["/app/geoip_download"] * 2
    assert {request.query["edition_id"] for request in seen} == {"GeoIP2-Enterprise"}
    assert {request.query["license_key"] for request in seen} == {KEY}
    assert all("Authorization" not in request.headers for request in seen)


async def test_a_redirect_to_another_origin_gets_no_authorization(target, serve):
    """The file comes from the storage that MaxMind redirects to, which never sees the key."""
    stored, asked = [], []

    async def storage(request):
        stored.append(request)
        return web.Response(body=MAXMIND_TAR)

    location = URL(await serve(storage)) / "bucket" / "file"
    location = str(location) + "?X-Amz-Credential=a%2Fb&X-Amz-Signature=c%2B%3D"

    async def answer(request):
        asked.append(request)
        if request.query["suffix"] == "tar.gz":
            # HTTPFound would quote the location anew, and storage does not.
            return web.Response(status=302, headers={"Location": location})
        return web.Response(text=hashlib.sha256(MAXMIND_TAR).hexdigest())

    base_url = await serve(answer)
    assert await run("--to", str(target), "--base-url", base_url, *MAXMIND_ACCOUNT) == 0
    assert target.read_bytes() == NEW
    assert [request.headers["Authorization"] for request in asked] == [BASIC, BASIC]
    assert len(stored) == 1
    assert stored[0].raw_path == "/bucket/file?X-Amz-Credential=a%2Fb&X-Amz-Signature=c%2B%3D"
    assert all(KEY not in value and BASIC not in value for value in stored[0].headers.values())


async def test_a_redirect_within_the_origin_keeps_the_authorization(target, serve):
    """A relative redirect is followed with the same Basic auth."""
    seen = []
    answer = maxmind_handler(MAXMIND_TAR, seen)

    async def redirect_first(request):
        if not request.path.startswith("/moved"):
            raise web.HTTPTemporaryRedirect(f"/moved{request.path_qs}")
        return await answer(request)

    base_url = await serve(redirect_first)
    assert await run("--to", str(target), "--base-url", base_url, *MAXMIND_ACCOUNT) == 0
    assert [request.headers["Authorization"] for request in seen] == [BASIC, BASIC]


async def test_endless_redirects_are_given_up(target, serve, capsys):
    """A server that always redirects is asked as often as the limit says, and no more."""
    seen = []

    async def answer(request):
        seen.append(request)
        raise web.HTTPFound(f"/{len(seen)}")

    limits = download.Limits(redirects_max=3)
    arguments = ("--base-url", await serve(answer))
    error = await run_and_fail(capsys, target, *arguments, limits=limits)
    assert "redirected more than 3 times" in error
    assert len(seen) == 4


@pytest.mark.parametrize(
    ("location", "problem"),
    [
        ("http://storage.example/file?signature=abc", "which is not HTTPS"),
        ("ftp://storage.example/file", "no web address"),
        ("https://[broken/file", "no web address"),
    ],
)
def test_a_redirect_never_leaves_https(location, problem):
    """From HTTPS only HTTPS is followed, and the error shows no query."""
    with pytest.raises(download.DownloadError, match=problem) as caught:
        download._redirected(URL(f"https://maxmind.example/a?license_key={KEY}"), location)
    assert "?" not in str(caught.value)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("arguments", [MAXMIND, MAXMIND_ACCOUNT], ids=["permalink", "account"])
async def test_a_wrong_key_is_one_line_without_the_key(target, serve, capsys, arguments):
    """A 401 is reported with the URL and the status, and the key is not in it."""

    async def answer(request):
        return web.Response(status=401, text=f"Invalid license key {request.query_string}")

    base_url = await serve(answer)
    error = await run_and_fail(capsys, target, "--base-url", base_url, *arguments)
    assert f"{base_url}" in error
    assert "answered 401, the licence key or account id is wrong" in error
    assert "?" not in error


@pytest.mark.parametrize("arguments", [MAXMIND, MAXMIND_ACCOUNT], ids=["permalink", "account"])
async def test_a_server_that_hangs_up_is_one_line_without_the_key(target, serve, capsys, arguments):
    """A connection that is closed without an answer fails with the URL, but not with the key."""

    async def answer(request):
        request.transport.close()
        return web.Response()

    error = await run_and_fail(capsys, target, "--base-url", await serve(answer), *arguments)
    assert "the request failed" in error


async def test_nobody_listening_is_one_line(target, unused_tcp_port, capsys):
    """A refused connection names the host and port."""
    base_url = f"http://127.0.0.1:{unused_tcp_port}"
    error = await run_and_fail(capsys, target, "--base-url", base_url, *MAXMIND)
    assert f"127.0.0.1:{unused_tcp_port}" in error


@pytest.mark.parametrize(
    ("limits", "problem"),
    [
        (download.Limits(total_timeout_s=0.1), "not done after 0.1 s"),
        (download.Limits(read_timeout_s=0.1), "no answer in time"),
    ],
    ids=["total", "read"],
)
async def test_a_silent_server_is_not_waited_for(target, serve, capsys, limits, problem):
    """A server that stops in the middle of the body is given up after the limit."""
    done = asyncio.Event()

    async def answer(request):
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(gzip.compress(NEW)[:20])
        await done.wait()
        return response

    try:
        arguments = ("--base-url", await serve(answer))
        assert problem in await run_and_fail(capsys, target, *arguments, limits=limits)
    finally:
        done.set()


async def test_a_body_shorter_than_announced_is_refused(target, serve, capsys):
    """A connection that closes before Content-Length bytes fails, even where gzip is complete."""
    body = gzip.compress(NEW)

    async def answer(request):
        response = web.StreamResponse()
        response.content_length = len(body) + 1
        await response.prepare(request)
        await response.write(body)
        request.transport.close()
        return response

    error = await run_and_fail(capsys, target, "--base-url", await serve(answer))
    assert "cut short" in error


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (gzip.compress(NEW)[:-9], "the archive is damaged"),
        (gzip.compress(NEW)[:-8] + bytes(8), "the archive is damaged"),
        (b"<html>maintenance</html>", "the archive is damaged"),
        (gzip.compress(NEW)[:10] + b"\xff" * 50, "the archive is damaged"),
        (gzip.compress(b"<html>maintenance</html>"), "not a MaxMind database"),
        (gzip.compress(NEW[:-40]), "not a MaxMind database"),
        (gzip.compress(b""), "not a MaxMind database"),
        (b"", "not a MaxMind database"),
    ],
    ids=["cut", "crc", "html", "deflate", "gzipped-html", "cut-database", "empty-gzip", "empty"],
)
async def test_a_bad_gzip_file_is_refused(target, serve_bytes, capsys, body, problem):
    """What is no whole gzip file of a database never gets to the target."""
    error = await run_and_fail(capsys, target, "--base-url", await serve_bytes(body))
    assert problem in error
    assert ".part" not in error


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (tar_gz(("a/README.txt", b"x")), "no .mmdb files"),
        (tar_gz(("a/a.mmdb", NEW), ("b/b.mmdb", NEW)), "several .mmdb files"),
        (gzip.compress(gzip.decompress(tar_gz(("a.mmdb", NEW)))[:2_000]), "archive is damaged"),
        (gzip.compress(b"\xff" * 2_000), "archive is damaged"),
        (MAXMIND_TAR[:-20], "archive is damaged"),
        (tar_gz(("a.mmdb", b"x" * 100)), "not a MaxMind database"),
    ],
    ids=["none", "several", "cut-tar", "no-tar", "cut-gzip", "no-database"],
)
async def test_a_bad_tar_archive_is_refused(target, serve, capsys, body, problem):
    """An archive must be whole, have exactly one .mmdb file, and that must be a database."""
    base_url = await serve(maxmind_handler(body))
    error = await run_and_fail(capsys, target, "--base-url", base_url, *MAXMIND)
    assert problem in error


@pytest.mark.parametrize("name", ["../../evil.mmdb", "/evil.mmdb", "a/../b.mmdb"])
@pytest.mark.parametrize("file_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
async def test_names_in_an_archive_are_no_paths(target, serve, name, file_format):
    """Whatever a member is called, its bytes go to the target and nowhere else."""
    base_url = await serve(maxmind_handler(tar_gz((name, NEW), file_format=file_format)))
    assert await run("--to", str(target), "--base-url", base_url, *MAXMIND) == 0
    assert target.read_bytes() == NEW
    files = [path for path in target.parent.parent.rglob("*") if path.is_file()]
    assert files == [target]


async def test_a_link_in_an_archive_is_not_followed(target, serve, capsys):
    """A member that is a symbolic link named .mmdb does not count as the database."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        link = tarfile.TarInfo("a/city.mmdb")
        link.type, link.linkname = tarfile.SYMTYPE, str(target)
        archive.addfile(link)
    base_url = await serve(maxmind_handler(out.getvalue()))
    error = await run_and_fail(capsys, target, "--base-url", base_url, *MAXMIND)
    assert "no .mmdb files" in error


@pytest.mark.parametrize(
    ("sha256", "problem"),
    [("0" * 64, "the sha256 is "), ("none", "not a sha256"), ("g" * 64, "not a sha256")],
)
async def test_the_sha256_must_match(target, serve, capsys, sha256, problem):
    """A good archive is refused when the provider's sha256 says otherwise or is none."""
    base_url = await serve(maxmind_handler(MAXMIND_TAR, sha256=sha256))
    error = await run_and_fail(capsys, target, "--base-url", base_url, *MAXMIND_ACCOUNT)
    assert problem in error


@pytest.mark.parametrize(
    ("limits", "problem"),
    [
        (download.Limits(archive_bytes_max=20), "more than 20 B in the archive"),
        (download.Limits(database_bytes_max=500), "more than 500 B when unpacked"),
    ],
    ids=["archive", "database"],
)
@pytest.mark.parametrize("arguments", [(), MAXMIND], ids=["dbip", "maxmind"])
async def test_too_many_bytes_are_refused(target, serve, capsys, *, arguments, limits, problem):
    """One byte over a limit, packed or unpacked, ends the download."""
    plain = maxmind_handler(MAXMIND_TAR)

    async def answer(request):
        if arguments:
            return await plain(request)
        return web.Response(body=gzip.compress(NEW))

    base_url = await serve(answer)
    error = await run_and_fail(capsys, target, "--base-url", base_url, *arguments, limits=limits)
    assert problem in error


async def test_a_database_of_exactly_the_limits_is_taken(target, serve_bytes):
    """The limits are inclusive: as many bytes as they say are let through."""
    body = gzip.compress(NEW)
    limits = download.Limits(archive_bytes_max=len(body), database_bytes_max=len(NEW))
    base_url = await serve_bytes(body)
    assert await run("--to", str(target), "--base-url", base_url, limits=limits) == 0
    assert target.read_bytes() == NEW


async def test_the_old_file_stays_whole_until_it_is_replaced(target, serve):
    """While bytes come in the old file is untouched, and whoever has it open keeps reading it."""
    during = []
    body = gzip.compress(NEW)

    async def answer(request):
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(body[:50])
        during.append((target.read_bytes(), {path.suffix for path in target.parent.iterdir()}))
        await response.write(body[50:])
        return response

    with maxminddb.open_database(target) as reader, target.open("rb") as old:
        assert await run("--to", str(target), "--base-url", await serve(answer)) == 0
        assert during == [(OLD, {".mmdb", ".part"})]
        assert old.read() == OLD
        assert os.fstat(old.fileno()).st_ino != target.stat().st_ino
        assert reader.get("192.0.2.1") == {"country": {"iso_code": "SE"}}
    assert target.read_bytes() == NEW
    assert [path.name for path in target.parent.iterdir()] == [target.name]


async def test_the_mode_of_the_old_file_is_kept(target, serve_bytes):
    """Who could read the old file can read the new one, and nobody else."""
    target.chmod(0o640)
    assert await run("--to", str(target), "--base-url", await serve_bytes(gzip.compress(NEW))) == 0
    assert target.stat().st_mode & 0o777 == 0o640


async def test_the_default_target_is_made_with_its_folders(tmp_path, serve_bytes, monkeypatch):
    """Without --to the database is data/geoip/EDITION.mmdb, with the mode that the umask says."""
    monkeypatch.chdir(tmp_path)
    old_umask = os.umask(0o027)
    try:
        base_url = await serve_bytes(gzip.compress(NEW))
        assert await run("--edition", "country", "--base-url", base_url) == 0
    finally:
        os.umask(old_umask)
    path = tmp_path / "data" / "geoip" / "country.mmdb"
    assert path.read_bytes() == NEW
    assert path.stat().st_mode & 0o777 == 0o640


async def test_a_folder_as_target_is_refused(tmp_path, capsys):
    """A target that is a folder is named in the error before anything is fetched."""
    assert await run("--to", str(tmp_path), "--base-url", "http://127.0.0.1:1") == 2
    assert f"{tmp_path}: is a directory" in capsys.readouterr().err


async def test_a_target_below_a_file_is_refused(target, capsys):
    """A target whose folder can't be made is one line with the reason."""
    assert await run("--to", str(target / "x.mmdb"), "--base-url", "http://127.0.0.1:1") == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert target.read_bytes() == OLD


async def test_quiet_prints_nothing(target, serve_bytes, capsys):
    """With --quiet a download that works writes to neither stdout nor stderr."""
    base_url = await serve_bytes(gzip.compress(NEW))
    assert await run("--quiet", "--to", str(target), "--base-url", base_url) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("arguments", "has_bar"), [((), True), (("--quiet",), False)])
async def test_a_terminal_gets_a_progress_bar(target, serve_bytes, monkeypatch, arguments, has_bar):
    """A bar with the bytes is drawn when stderr is a terminal, unless --quiet is given."""
    base_url = await serve_bytes(gzip.compress(NEW))
    leader, follower = os.openpty()
    os.set_blocking(leader, False)
    termios.tcsetwinsize(follower, (24, 80))
    try:
        with os.fdopen(follower, "w", encoding="utf-8") as terminal:
            monkeypatch.setattr(sys, "stderr", terminal)
            assert await run("--to", str(target), "--base-url", base_url, *arguments) == 0
            monkeypatch.undo()
            drawn = b""
            with contextlib.suppress(BlockingIOError):
                drawn = os.read(leader, 65_536)
    finally:
        os.close(leader)
    assert (b"GeoIP database: 100%" in drawn) is has_bar


async def test_an_archive_labelled_as_encoded_is_unpacked_once(target, serve):
    """A mirror that adds Content-Encoding: gzip to the .gz file does no harm."""

    async def answer(_request):
        return web.Response(body=gzip.compress(NEW), headers={"Content-Encoding": "gzip"})

    assert await run("--to", str(target), "--base-url", await serve(answer)) == 0
    assert target.read_bytes() == NEW


async def test_a_mirror_may_have_a_path(target, serve):
    """The path of --base-url comes before the provider's."""
    paths = []

    async def answer(request):
        paths.append(request.path)
        return web.Response(body=gzip.compress(NEW))

    assert await run("--to", str(target), "--base-url", await serve(answer) + "mirror/") == 0
    assert paths[0].startswith("/mirror/free/dbip-city-lite-")


async def test_a_proxy_of_the_environment_is_used(target, serve, monkeypatch):
    """With http_proxy set the request goes there, with the address of the provider in it."""
    hosts = []

    async def answer(request):
        hosts.append(request.host)
        return web.Response(body=gzip.compress(NEW))

    monkeypatch.setenv("http_proxy", await serve(answer))
    monkeypatch.setenv("no_proxy", "")
    assert await run("--to", str(target), "--base-url", "http://geoip.invalid") == 0
    assert hosts == ["geoip.invalid"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--edition", "planet"), "--edition 'planet': expected city, country, asn"),
        (("--license-key", KEY), "are for --provider maxmind"),
        (("--provider", "maxmind"), "needs --license-key or MAXMIND_LICENSE_KEY"),
        ((*MAXMIND, "--edition", "../x"), "expected letters, digits and dashes"),
        ((*MAXMIND, "--account-id", KEY), "expected digits only"),
        (("--base-url", "ftp://mirror.example"), "--base-url: expected http(s)://"),
        (("--base-url", f"http://user:{KEY}@mirror.example"), "--base-url: expected http(s)://"),
        (("--base-url", "http://[broken"), "--base-url: expected http(s)://"),
    ],
)
async def test_a_wrong_flag_is_one_line(target, capsys, arguments, problem):
    """A flag that can't be right is named before anything is asked, without any secret."""
    assert problem in await run_and_fail(capsys, target, *arguments)
