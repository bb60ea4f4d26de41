"""The live page in a real Chromium: what operators see, and what nothing can make it do."""

import base64
import contextlib

import pytest
from watched_page import TOKEN, WatchedPage, event, letter, refused, status

from tests.chromium import Chromium
from tests.waiting import wait_until

MARKUP = '<img src=x onerror="window.ran=1"><script>window.ran=1</script>\'"&</pre>'
SIZES = {"desktop": (1440, 1000), "phone": (390, 844)}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Chromium(tmp_path_factory.mktemp("chromium") / "profile")
    with contextlib.closing(browser):
        yield browser


@pytest.fixture
def served():
    with WatchedPage() as served:
        yield served


@pytest.fixture
def opened(browser, served):
    """Sign in as a person does, and return the live page."""
    with browser.profile() as profile:
        page = browser.open(profile, served.path("live"))
        sign_in(page)
        yield page
        # A violation of the policy is told as an error; so is the 401 that had the form.
        assert [text for text in page.complaints if "401" not in text] == []


def sign_in(page, token=TOKEN) -> None:
    page.run(
        "document.getElementById('token').value = token;"
        " document.querySelector('form').requestSubmit()",
        token=token,
    )
    wait_until(lambda: is_true(page, "document.readyState === 'complete' && !tokenIsAsked()"))


def sign_in_wrongly(page) -> None:
    page.run(
        "document.getElementById('token').value = 'wrong';"
        " document.querySelector('form').requestSubmit()"
    )
    wait_until(lambda: is_true(page, "document.getElementById('message')"))


def is_true(page, expression) -> bool:
    # Between two documents there is none to ask.
    with contextlib.suppress(AssertionError):
        return page.run(
            "const tokenIsAsked = () => !!document.getElementById('token');"
            f" return Boolean({expression})"
        )
    return False


def texts(page, selector) -> list[str]:
    return page.run(
        "return [...document.querySelectorAll(selector)].map((one) => one.textContent)",
        selector=selector,
    )


def click(page, selector) -> None:
    page.run("document.querySelector(selector).click()", selector=selector)


class TestEvents:
    def test_they_appear_newest_first(self, opened, served):
        """Each event is a row as it is stored; opened, it is shown whole."""
        served.say(event(1), event(2))
        wait_until(lambda: len(texts(opened, "#event .row")) == 2)
        assert texts(opened, "#event .name") == ["Signed Up 2", "Signed Up 1"]
        assert texts(opened, "#event .key") == ["web", "web"]
        click(opened, "#event summary")
        wait_until(lambda: texts(opened, "#event pre") != [])
        assert '"user_id": "u1"' in texts(opened, "#event pre")[0]
        assert "id-2" in texts(opened, "#event .facts")[0]

    def test_rows_are_bounded(self, opened, served):
        """However many come, the page keeps the newest ones only."""
        for first in range(0, 600, 150):
            served.say(*(event(number) for number in range(first, first + 150)))
            wanted = f"Signed Up {first + 149}"
            wait_until(lambda wanted=wanted: wanted in texts(opened, "#event .name")[:1])
        assert len(texts(opened, "#event .row")) == 200

    def test_filter(self, opened, served):
        """A key that is chosen is asked of the server, and other keys' events go."""
        served.say(event(1), event(2, key="app"))
        wait_until(lambda: len(texts(opened, "#event .row")) == 2)
        opened.run(
            "const field = document.querySelector('[name=key]'); field.value = 'app';"
            " field.dispatchEvent(new Event('change', { bubbles: true }))"
        )
        wait_until(lambda: texts(opened, "#event .key") == ["app"])
        assert served.feed.wanted[-1].key == "app"

    def test_pause(self, opened, served):
        """While it is paused no row moves; what came meanwhile is there when it goes on."""
        served.say(event(1))
        wait_until(lambda: len(texts(opened, "#event .row")) == 1)
        click(opened, "#pause")
        served.say(event(2))
        wait_until(lambda: texts(opened, "#pause") == ["Resume (1 new)"])
        assert len(texts(opened, "#event .row")) == 1
        click(opened, "#pause")
        wait_until(lambda: len(texts(opened, "#event .row")) == 2)

    def test_it_reconnects(self, opened, served):
        """After a break of the connection what is known is shown again, each event once."""
        served.say(event(1))
        wait_until(lambda: len(texts(opened, "#event .row")) == 1)
        served.cut()
        wait_until(lambda: texts(opened, "#state") == ["Reconnecting"])
        served.say(event(2))
        wait_until(lambda: texts(opened, "#event .name") == ["Signed Up 2", "Signed Up 1"])
        opened.complaints[:] = [one for one in opened.complaints if "ERR_" not in one]

    def test_rows_stay_while_paused(self, opened, served):
        """A break of the connection takes nothing away from somebody who reads."""
        served.say(event(1))
        wait_until(lambda: len(texts(opened, "#event .row")) == 1)
        click(opened, "#pause")
        served.cut()
        wait_until(lambda: len(served.feed.wanted) == 2)
        wait_until(lambda: texts(opened, "#pause") == ["Resume (1 new)"])
        assert len(texts(opened, "#event .row")) == 1
        click(opened, "#pause")
        wait_until(lambda: texts(opened, "#pause") == ["Pause"])
        assert len(texts(opened, "#event .row")) == 1
        opened.complaints[:] = [one for one in opened.complaints if "ERR_" not in one]


class TestHostile:
    def test_markup_is_text(self, opened, served):
        """What clients sent is shown as they sent it, in each place, and none of it runs."""
        body = {MARKUP: MARKUP, "event_name": MARKUP, "list": [{MARKUP: MARKUP}]}
        told = dict.fromkeys(("key", "message", "excerpt", "path", "code", "worker"), MARKUP)
        served.say(
            event(type=MARKUP + "type", id=MARKUP, format=MARKUP, key=MARKUP, event=body),
            refused(**told),
            letter(**told, reason=MARKUP),
            status(
                workers=[{"worker": MARKUP, "ready": False, "message": MARKUP}],
                sinks=[{"name": MARKUP, "state": MARKUP, "message": MARKUP}],
                rates={name: {MARKUP: 1.0} for name in ("by_key", "by_type", "by_answer")},
                errors=[MARKUP],
            ),
        )
        wait_until(lambda: texts(opened, "#errors li") == [MARKUP])
        for name in ("event", "refused", "letter"):
            wait_until(lambda name=name: len(texts(opened, f"#{name} .row")) == 1)
            click(opened, f"[data-list={name}]")
            click(opened, f"#{name} summary")
            wait_until(lambda name=name: texts(opened, f"#{name} pre") != [])
        assert texts(opened, "#event .name") == texts(opened, "#event .key") == [MARKUP]
        assert texts(opened, "#refused pre") == [MARKUP]
        assert texts(opened, "#sinks .label") == [MARKUP]
        assert opened.run("return document.querySelectorAll('main img, main script').length") == 0
        assert opened.run("return window.ran === undefined")

    def test_values_that_are_no_texts(self, opened, served):
        """An event of other types than expected is a row too, and so is what comes after it."""
        served.say(event(1, event={"event": 5, "name": None, "eventn_ctx": []}), event(2))
        served.say(event(3, event=None, is_too_large=True))
        wait_until(lambda: len(texts(opened, "#event .row")) == 3)


class TestWhyNothing:
    def test_no_request(self, opened, served):
        """As long as nothing is asked of the server, the page says what to look at."""
        served.say(status())
        wait_until(lambda: texts(opened, "#why")[0].startswith("No request yet."))

    def test_only_refused(self, opened, served):
        """Where all are refused, it says with which codes, and where the reason is."""
        served.say(status(), refused(), refused(code="unauthorized", status=401, key=""))
        wait_until(lambda: "bad_json (1), unauthorized (1)" in texts(opened, "#why")[0])
        click(opened, "[data-list=refused]")
        assert texts(opened, "#refused .type") == ["401 unauthorized", "400 bad_json"]

    def test_a_worker_takes_nothing(self, opened, served):
        """A worker that is not ready is named with its reason."""
        stuck = {"worker": "w0", "ready": False, "message": "the disk is full"}
        served.say(status(workers=[stuck]))
        wait_until(
            lambda: "Worker w0 takes no events: the disk is full" in texts(opened, "#why")[0]
        )


class TestSession:
    def test_a_wrong_token(self, browser, served):
        """The form comes again and says so; sign-out ends the session."""
        with browser.profile() as profile:
            page = browser.open(profile, served.path("live"))
            sign_in_wrongly(page)
            sign_in(page)
            wait_until(lambda: is_true(page, "document.getElementById('pause')"))
            page.run("document.querySelector('header form').requestSubmit()")
            wait_until(lambda: is_true(page, "tokenIsAsked()"))
            page.go(served.path("live"))
            assert is_true(page, "tokenIsAsked()")


def busy() -> list[dict]:
    names = ["Signed Up", "Order Completed", "Video Started", "A rather long name, as some are"]
    events = []
    for number in range(40):
        body = {"event_name": names[number % 4], "user_id": f"u{number}", "api_key": "[key web]"}
        size = 300 + 97 * number % 4_000
        events.append(event(number, key=("web", "ios-app")[number % 2], bytes=size, event=body))
    events[38] |= {"type": "identify", "event": {"user_id": "u38", "traits_plan": "team"}}
    well = {"name": "file", "state": "ok", "message": "", "events_per_s": 412.5}
    well |= {"lag_events": 0, "lag_bytes": 0, "lag_s": 0.0, "eta_s": 0.0}
    down = {"name": "clickhouse", "state": "retrying", "message": "connection refused"}
    down |= {"lag_events": 84_210, "lag_bytes": 68_400_000, "lag_s": 204.0, "events_per_s": 0.0}
    sinks = [well, {**down, "eta_s": None}]
    rates = {
        "by_key": {"web": 310.2, "ios-app": 102.3},
        "by_type": {"track": 330.0, "page": 61.1, "identify": 21.4},
        "by_answer": {"ok": 412.5, "bad_json": 0.4, "unauthorized": 1.2},
    }
    error = "delivery: sink clickhouse: connection refused, trying again in 30 s"
    return [*events, refused(), letter(), status(sinks=sinks, rates=rates, errors=[error])]


def show_at(page, size, scheme) -> None:
    width, height = SIZES[size]
    page.call(
        "Emulation.setDeviceMetricsOverride",
        width=width,
        height=height,
        deviceScaleFactor=1,
        mobile=size == "phone",
    )
    page.call(
        "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}]
    )


def check_fits(request, tmp_path, page, name, size) -> None:
    folder = request.config.getoption("--screenshots") or tmp_path
    folder.mkdir(parents=True, exist_ok=True)
    picture = page.call("Page.captureScreenshot", format="png")["data"]
    (folder / f"{name}.png").write_bytes(base64.b64decode(picture))
    assert page.run("return document.documentElement.scrollWidth") <= SIZES[size][0]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_it_fits(request, tmp_path, opened, served, size, scheme):
    """At each size nothing is wider than the screen; with --screenshots pictures are kept."""
    show_at(opened, size, scheme)
    served.say(*busy())
    wait_until(lambda: len(texts(opened, "#event .row")) == 40)
    wait_until(lambda: len(texts(opened, "#sinks .card")) == 2)
    click(opened, "#event .row:nth-child(3) summary")
    wait_until(lambda: texts(opened, "#event pre") != [])
    check_fits(request, tmp_path, opened, f"live-{size}-{scheme}", size)
    click(opened, "[data-list=refused]")
    click(opened, "#refused summary")
    wait_until(lambda: texts(opened, "#refused pre") != [])
    check_fits(request, tmp_path, opened, f"refused-{size}-{scheme}", size)


@pytest.mark.parametrize("size", SIZES)
def test_the_form_fits(request, tmp_path, browser, served, size):
    """So does the form that signs in, and what is told where nothing came yet."""
    with browser.profile() as profile:
        page = browser.open(profile, served.path("live"))
        show_at(page, size, "light")
        sign_in_wrongly(page)
        check_fits(request, tmp_path, page, f"form-{size}", size)
        sign_in(page)
        served.say(status())
        wait_until(lambda: texts(page, "#why")[0].startswith("No request yet."))
        check_fits(request, tmp_path, page, f"empty-{size}", size)
