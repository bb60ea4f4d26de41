"""Signing in to the operators' listener, over plain HTTP: token, cookie, Host, Origin, tries."""

import contextlib
import http.client
import re
import stat
import time

import pytest
from aiohttp import web

from segsrv import Settings, create_app
from segsrv.ops import sign_in as sign_in_module
from segsrv.ops.sign_in import SignIn
from segsrv.ops.token import kept_token, token_path
from segsrv.ops.tries import ADDRESSES_MAX, TRIES_IN_ALL_MAX, TRIES_MAX, WINDOW_S, Tries

TOKEN = "a-token-of-some-length"
HTML = {"Accept": "text/html,*/*"}


@pytest.fixture
def signed() -> SignIn:
    return SignIn(TOKEN, listen="ops.internal:9", hosts=("ops.example.com",))


@pytest.fixture
async def client(aiohttp_client, signed):
    """Ask an application whose only page of its own is behind the sign-in."""

    async def page(_request):
        return web.Response(text="inside")

    app = web.Application()
    signed.add_to(app)
    app.router.add_route("*", "/page", signed.wrap(page))
    return await aiohttp_client(app)


def own(client) -> str:
    return f"http://{client.host}:{client.port}"


async def enter(client, token=TOKEN, **headers):
    return await client.post(
        "/sign-in", data={"token": token}, headers=headers, allow_redirects=False
    )


class TestToken:
    def test_the_first_start_makes_it(self, tmp_path):
        """It can be read by its owner only, and stays the same."""
        settings = Settings(data_dir=tmp_path / "data", file_mode="0644")
        token = kept_token(settings)
        assert len(token) >= 32
        assert kept_token(settings) == token
        assert stat.S_IMODE(token_path(settings).stat().st_mode) == 0o600
        assert [path.name for path in token_path(settings).parent.iterdir()] == ["ops-token"]

    def test_it_is_told_once(self, start_server):
        """The first start prints it beside its place; what is asked with it is let in."""
        site = start_server("--ops-listen=127.0.0.1:0")
        printed = site.process.stdout
        told = re.search(r"^Sign in to the live page with: (\S+)$", printed, re.MULTILINE)
        assert told[1] == (site.process.data_dir / "state" / "ops-token").read_text().strip()
        url = re.search(r"live page +http://(\S+)(/live)$", printed, re.MULTILINE)
        with contextlib.closing(http.client.HTTPConnection(url[1], timeout=30)) as connection:
            for token, status in ((told[1], 200), ("wrong", 401)):
                headers = {"Authorization": f"Bearer {token}"}
                connection.request("GET", url[2], headers=headers)
                answer = connection.getresponse()
                assert (answer.status, bool(answer.read())) == (status, True)

    def test_a_start_that_failed_told_nobody(self, tmp_path, start_server):
        """A token that is there before the first journal is printed; it stays as it was."""
        kept = tmp_path / "data-0" / "state" / "ops-token"
        kept.parent.mkdir(parents=True)
        kept.write_text("made-by-an-earlier-start\n")
        site = start_server("--ops-listen=127.0.0.1:0")
        assert "Sign in to the live page with: made-by-an-earlier-start" in site.process.stdout

    def test_without_the_listener_there_is_none(self, tmp_path):
        """A server that has no page for operators makes no token."""
        create_app(Settings(data_dir=tmp_path, write_key=("key",)))
        assert not (tmp_path / "state" / "ops-token").exists()


class TestTokenOfARequest:
    async def test_right_and_wrong(self, client):
        """The token as Bearer lets in; a wrong one and none are 401, in JSON for tools."""
        right = await client.get("/page", headers={"Authorization": f"Bearer {TOKEN}"})
        assert (right.status, await right.text()) == (200, "inside")
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer é"}):
            answer = await client.get("/page", headers=headers)
            assert (answer.status, (await answer.json())["code"]) == (401, "unauthorized")
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")

    async def test_a_browser_gets_the_form(self, client):
        """A page that is opened without a session is the form, at the same address."""
        answer = await client.get("/page", headers=HTML, allow_redirects=False)
        assert answer.status == 401
        text = await answer.text()
        assert 'action="sign-in"' in text
        assert "<script" not in text


class TestSession:
    async def test_a_cookie_lets_in(self, client):
        """The form's cookie is kept from scripts and other sites, and ends with the session."""
        answer = await enter(client, Origin=own(client))
        assert (answer.status, answer.headers["Location"]) == (303, "live")
        cookie = answer.headers["Set-Cookie"]
        for part in ("HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=43200"):
            assert part in cookie
        assert "Secure" not in cookie
        assert TOKEN not in cookie
        assert (await client.get("/page")).status == 200

        left = await client.post(
            "/sign-out", headers={"Origin": own(client)}, allow_redirects=False
        )
        assert (left.status, left.headers["Location"]) == (303, "sign-in")
        assert (await client.get("/page")).status == 401

    async def test_behind_tls_it_is_secure(self, client):
        """Where a proxy says that it speaks https, the cookie is for https only."""
        answer = await enter(client, **{"X-Forwarded-Proto": "https"})
        assert "Secure" in answer.headers["Set-Cookie"]

    @pytest.mark.parametrize("cookie", ["", ".", "9999999999.00", "x.y", "²." + "0" * 64, "9" * 99])
    async def test_forged(self, client, signed, cookie):
        """What wasn't signed is no session."""
        client.session.cookie_jar.update_cookies({signed.cookie: cookie})
        assert (await client.get("/page")).status == 401

    async def test_it_ends(self, client, signed):
        """A cookie is worth nothing after its time, whatever the browser does with it."""
        ended = signed._session(int(time.time()) - 1)
        running = signed._session(int(time.time()) + 60)
        for cookie, status in ((ended, 401), (running, 200), (running[:-1] + "g", 401)):
            headers = {"Cookie": f"{signed.cookie}={cookie}"}
            assert (await client.get("/page", headers=headers)).status == status
        other = SignIn(TOKEN + "2")
        headers = {"Cookie": f"{signed.cookie}={other._session(int(time.time()) + 60)}"}
        assert (await client.get("/page", headers=headers)).status == 401


class TestOtherSites:
    @pytest.mark.parametrize(
        ("host", "status"),
        [
            ("localhost:9", 200),
            ("127.0.0.1", 200),
            ("[::1]:9", 200),
            ("192.168.1.5:9", 200),
            ("OPS.internal", 200),
            ("ops.example.com", 200),
            ("evil.example", 421),
            ("localhost.evil.example", 421),
            ("[", 421),
            ("", 421),
        ],
    )
    async def test_host(self, client, host, status):
        """A name that somebody else may have resolved to this address is not answered."""
        headers = {"Host": host, "Authorization": f"Bearer {TOKEN}"}
        assert (await client.get("/page", headers=headers)).status == status

    async def test_origin(self, client):
        """A POST with a cookie comes from the listener's own pages."""
        foreign = await enter(client, Origin="http://evil.example")
        assert foreign.status == 403
        assert "Set-Cookie" not in foreign.headers
        assert (await enter(client, Origin=own(client))).status == 303
        for origin, status in (
            (own(client), 200),
            ("https://ops.example.com", 200),
            (f"http://{client.host}:1", 403),
            ("null", 403),
            ("http://[", 403),
        ):
            answer = await client.post("/page", headers={"Origin": origin})
            assert answer.status == status, origin
        assert (await client.post("/page")).status == 403

    async def test_pages_of_other_ports(self, client):
        """A cookie that a browser sends for another origin of this host is not enough."""
        await enter(client)
        for site, mode, status in (
            ("same-origin", "cors", 200),
            ("same-site", "no-cors", 403),
            ("cross-site", "navigate", 200),
        ):
            headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode}
            assert (await client.get("/page", headers=headers)).status == status

    @pytest.mark.parametrize("path", ["/page", "/sign-in", "/ops.css"])
    async def test_headers(self, client, path):
        """Each answer forbids foreign and inline script, frames, guessing and keeping."""
        answer = await client.get(path, headers={"Authorization": f"Bearer {TOKEN}"})
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"] == "no-store"


class TestForm:
    @pytest.mark.parametrize(
        ("body", "content_type"),
        [
            (b"\xff\xfe=&&token", "application/x-www-form-urlencoded; charset=none"),
            (b"--x\r\nbroken", "multipart/form-data; boundary=x"),
            (b"&" * 3_000, "text/plain"),
        ],
    )
    async def test_what_is_no_form(self, client, body, content_type):
        """It holds no token, which is told as ever."""
        headers = {"Content-Type": content_type}
        assert (await client.post("/sign-in", data=body, headers=headers)).status == 401


class TestTries:
    async def test_guessing_ends(self, client):
        """After some wrong tokens none is looked at, in either form; a session goes on."""
        await enter(client)
        for _time in range(TRIES_MAX):
            assert (await enter(client, "wrong")).status == 401
        limited = await enter(client)
        assert limited.status == 429
        assert 0 < int(limited.headers["Retry-After"]) <= WINDOW_S
        bearer = await client.get("/page", headers={"Authorization": f"Bearer {TOKEN}"})
        assert (bearer.status, (await bearer.json())["code"]) == (429, "too_many_tries")
        assert (await client.get("/page")).status == 200

    async def test_a_form_is_limited(self, client):
        """A large form, and one of unknown size, is not read."""
        assert (await enter(client, "x" * sign_in_module.FORM_BYTES_MAX)).status == 403

        async def pieces():
            yield b"token=x"

        assert (await client.post("/sign-in", data=pieces())).status == 403

    def test_by_address(self):
        """Others are not kept out; those of one IPv6 network count as one."""
        tries = Tries()
        for number in range(TRIES_MAX):
            tries.failed(f"2001:db8::{number}", 0.0)
        assert tries.wait_s("2001:db8::ffff", 1.0) == WINDOW_S - 1
        assert tries.wait_s("2001:db8:1::1", 1.0) == 0
        assert tries.wait_s("2001:db8::1", WINDOW_S) == 0

    def test_in_all(self):
        """Many addresses together have a limit too, and take bounded memory."""
        tries = Tries()
        for number in range(TRIES_IN_ALL_MAX):
            tries.failed(f"10.0.0.{number}", 0.0)
        assert tries.wait_s("10.9.9.9", 1.0) > 0
        for number in range(2 * ADDRESSES_MAX):
            tries.failed(f"10.1.{number >> 8}.{number & 255}", 0.0)
        assert len(tries._by_address) == ADDRESSES_MAX
