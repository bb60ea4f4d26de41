"""Sign-in to the pages for operators that show what clients sent."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import time
from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import parse_qsl, urlsplit

from aiohttp import web

from segsrv.addresses import Address
from segsrv.errors import Forbidden, SegsrvError, TooManyTries, Unauthorized, WrongHost
from segsrv.http import responses
from segsrv.ops.pages import guard, packaged, page
from segsrv.ops.tries import Tries

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

SESSION_S = 12 * 3_600
FORM_BYTES_MAX = 4_000
TOKEN_CHARS_MAX = 1_000
UNSAFE_METHODS = ("POST", "PUT", "PATCH", "DELETE")
MESSAGE = "<!-- message -->"
FIRST_PAGE = "live"
"""Relative, so that it is found below wherever the application is mounted."""


class SignIn:
    """Lets in who has the token, or the cookie that the token was exchanged for.

    A cookie holds only when it ends, signed with the token, so that any worker takes it; a new
    token ends all sessions. *listen* is the listener's own `HOST:PORT`, empty if another server has
    the application mounted; *hosts* are further names that browsers may reach it by.
    """

    def __init__(self, token: str, *, listen: str = "", hosts: Sequence[str] = ()) -> None:
        self._token = token.encode()
        self._secret = hmac.digest(self._token, b"segsrv session", "sha256")
        # A host's cookies are sent to all its ports, and another server may be at one of them.
        self.cookie = f"segsrv_ops_{hashlib.sha256(self._secret).hexdigest()[:8]}"
        own = (Address.parse(listen).host.lower(),) if listen else ()
        self._proxied = frozenset(host.lower() for host in hosts)
        self._hosts = self._proxied | {"localhost", *own}
        self._tries = Tries()

    def add_to(self, app: web.Application) -> None:
        """Add the pages of the sign-in itself."""
        app.router.add_get("/sign-in", self._show)
        app.router.add_post("/sign-in", self._enter)
        app.router.add_post("/sign-out", self.wrap(self._leave))
        app.router.add_get("/ops.css", _style)
        app.router.add_get("/ops.svg", _icon)

    def wrap(self, handler: Handler) -> Handler:
        """Return *handler* for those who are signed in.

        Everybody else gets a 401: a browser that opens a page the form, others JSON. 421 says that
        the Host is not one of this listener, 403 that another site's page asks, 429 with
        `Retry-After` that too many wrong tokens came.
        """

        async def guarded(request: web.Request) -> web.StreamResponse:
            try:
                self._check_source(request)
                self._check_signed_in(request)
            except Unauthorized as error:
                if request.method == "GET" and "text/html" in request.headers.get("Accept", ""):
                    return self._form(401)
                return _refusal(error)
            except SegsrvError as error:
                return _refusal(error)
            answer = await handler(request)
            guard(answer)
            return answer

        return guarded

    async def _show(self, request: web.Request) -> web.Response:
        try:
            self._check_source(request)
        except SegsrvError as error:
            return _refusal(error)
        return self._form(200)

    async def _enter(self, request: web.Request) -> web.Response:
        """Exchange the token of a form for a cookie."""
        try:
            self._check_source(request)
            if (request.content_length or FORM_BYTES_MAX + 1) > FORM_BYTES_MAX:
                raise Forbidden("the form is too large, or doesn't say how large it is")
            body = (await request.read()).decode("utf-8", "replace")
            token = dict(parse_qsl(body[:FORM_BYTES_MAX])).get("token", "")
            self._check_token(token.strip(), request.remote or "")
        except Unauthorized:
            return self._form(401, "This is not the token.")
        except TooManyTries as error:
            answer = self._form(429, "Too many wrong tokens came. Try again in some minutes.")
            answer.headers["Retry-After"] = str(error.retry_after_s)
            return answer
        except SegsrvError as error:
            return _refusal(error)
        answer = _moved(FIRST_PAGE)
        answer.set_cookie(
            *(self.cookie, self._session(int(time.time()) + SESSION_S)),
            max_age=SESSION_S,
            path="/",
            httponly=True,
            samesite="Strict",
            secure=_is_encrypted(request),
        )
        return answer

    async def _leave(self, request: web.Request) -> web.Response:
        answer = _moved("sign-in")
        answer.del_cookie(
            self.cookie, path="/", httponly=True, samesite="Strict", secure=_is_encrypted(request)
        )
        return answer

    def _form(self, status: int, message: str = "") -> web.Response:
        told = f'<p class="wrong" id="message" role="alert">{message}</p>' if message else ""
        return page(packaged("sign_in.html").replace(MESSAGE, told), status=status)

    def _check_source(self, request: web.Request) -> None:
        """Refuse what a page of another site has a browser send.

        A name that such a page's owner has resolved to this address is in Host; an address there
        can't have been, so any is right.
        """
        host = _host_of(f"//{request.headers.get('Host', '')}")
        if not (host in self._hosts or _is_address(host)):
            raise WrongHost("this listener has no such name; add it to ops_hosts")
        origin = request.headers.get("Origin")
        if origin is None or request.method not in UNSAFE_METHODS:
            return
        is_own = _netloc_of(origin) == request.headers["Host"].lower()
        if not is_own and _host_of(origin) not in self._proxied:
            raise Forbidden("another site's page sent this")

    def _check_signed_in(self, request: web.Request) -> None:
        scheme, _space, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            self._check_token(token.strip(), request.remote or "")
            return
        if not self._is_session(request.cookies.get(self.cookie, "")):
            raise Unauthorized("sign in, or send the token of DATA_DIR/state/ops-token as Bearer")
        # Pages of other ports of this host are of the same site, whose cookies a browser sends.
        if request.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none") and (
            request.headers.get("Sec-Fetch-Mode") != "navigate"
        ):
            raise Forbidden("another site's page asks")
        if request.method in UNSAFE_METHODS and "Origin" not in request.headers:
            raise Forbidden("a request with a cookie needs an Origin")

    def _check_token(self, token: str, address: str) -> None:
        now_s = time.monotonic()
        if wait_s := self._tries.wait_s(address, now_s):
            raise TooManyTries("too many wrong tokens came", retry_after_s=int(wait_s) + 1)
        given = token[:TOKEN_CHARS_MAX].encode("utf-8", "replace")
        if not hmac.compare_digest(given, self._token):
            self._tries.failed(address, now_s)
            raise Unauthorized("this is not the token")

    def _session(self, until_s: int) -> str:
        signature = hmac.new(self._secret, str(until_s).encode(), "sha256").hexdigest()
        return f"{until_s}.{signature}"

    def _is_session(self, cookie: str) -> bool:
        until, _dot, _signature = cookie.partition(".")
        if not (until.isascii() and until.isdigit() and len(until) <= 12):
            return False
        expected = self._session(int(until))
        return hmac.compare_digest(cookie.encode("utf-8", "replace"), expected.encode()) and (
            time.time() < int(until)
        )


def _netloc_of(url: str) -> str:
    """Return the host and port of *url* in lower case, empty if it has none."""
    try:
        return urlsplit(url).netloc.lower()
    except ValueError:
        return ""


def _host_of(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").lower()
    except ValueError:
        return ""


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_encrypted(request: web.Request) -> bool:
    # A client that lies here keeps only itself out.
    return request.secure or request.headers.get("X-Forwarded-Proto", "") == "https"


def _refusal(error: SegsrvError) -> web.Response:
    answer = responses.error(error)
    guard(answer)
    if isinstance(error, Unauthorized):
        answer.headers["WWW-Authenticate"] = 'Bearer realm="segsrv"'
    if isinstance(error, TooManyTries):
        answer.headers["Retry-After"] = str(error.retry_after_s)
    return answer


def _moved(to: str) -> web.Response:
    answer = web.Response(status=303, headers={"Location": to})
    guard(answer)
    return answer


async def _style(_request: web.Request) -> web.Response:
    return page(packaged("ops.css"), content_type="text/css")


async def _icon(_request: web.Request) -> web.Response:
    return page(packaged("ops.svg"), content_type="image/svg+xml")
