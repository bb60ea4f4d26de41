"""The live page of a real server, in a real Chromium: all workers' events, refusals and figures."""

import base64
import contextlib
import re

import pytest
from test_live_browser import is_true, sign_in, texts

from tests.chromium import Chromium
from tests.site import FLAT, KEY, RAW, new_id, started_site
from tests.waiting import wait_until

MARKUP = '<img src=x onerror="window.ran=1"><script>window.ran=1</script>'


@pytest.fixture
def browser(tmp_path):
    browser = Chromium(tmp_path / "profile")
    with contextlib.closing(browser):
        yield browser


@pytest.mark.parametrize("workers", [1, 2])
def test_what_a_server_shows(request, tmp_path, browser, workers):
    """Events of every worker, what is refused and why, and figures; markup is shown as text."""
    flags = (f"--workers={workers}", "--ops-listen=127.0.0.1:0")
    keys = ("web:" + KEY, "app:other-key")
    with (
        started_site(tmp_path / "data", *flags, write_keys=keys) as site,
        browser.profile() as profile,
    ):
        (address,) = re.findall(r"live page +(http://\S+)/live\n", site.process.stdout)
        token = (tmp_path / "data" / "state" / "ops-token").read_text().strip()
        page = browser.open(profile, f"{address}/live")
        sign_in(page, token)
        for number in range(6):
            site.post(
                {
                    "type": "track",
                    "messageId": new_id(),
                    "event": f"Order {number}" if number else MARKUP,
                    "userId": MARKUP,
                    "properties": {MARKUP: MARKUP},
                },
                path=(FLAT, RAW)[number % 2],
                key=(KEY, "other-key")[number % 2],
            )
        site.post(b'{"batch":[' + KEY.encode(), path=FLAT)
        site.post({"batch": [7, {"type": "track"}]}, path=FLAT)
        site.post({"type": "track"}, key="nobody's")
        wait_until(lambda: len(texts(page, "#event .row")) >= 7, deadline_s=30)
        wait_until(lambda: len(texts(page, "#refused .row")) >= 2, deadline_s=30)
        wait_until(lambda: len(texts(page, "#letter .row")) >= 1, deadline_s=30)
        assert MARKUP in texts(page, "#event .name")
        assert {"web", "app"} <= set(texts(page, "#event .key"))
        page.run("document.querySelectorAll('details.row').forEach((row) => { row.open = true; })")
        wait_until(lambda: is_true(page, "document.body.textContent.includes('key web')"))
        everything = page.run("return document.documentElement.outerHTML")
        assert KEY not in everything
        assert page.run("return window.ran") is None
        assert [text for text in page.complaints if "401" not in text] == []
        folder = request.config.getoption("--screenshots") or tmp_path
        picture = page.call("Page.captureScreenshot", format="png")["data"]
        (folder / f"server-{workers}.png").write_bytes(base64.b64decode(picture))
