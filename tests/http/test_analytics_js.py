"""The browser SDK's files, served to pages with Segment's snippet."""

import gzip

import pytest

from tests.site import KEY

SCRIPT = b"window.analyticsWriteKey='__WRITE_KEY__';\n"
CHUNK = "queryString.bundle.34b193ada8fe288d1bd1.js"
PAGE = "https://shop.example"
LOADED = f"/analytics.js/v1/{KEY}/analytics.min.js"


@pytest.fixture
def umd(tmp_path):
    """Make a folder like the package's `dist/umd`, with something secret beside it."""
    folder = tmp_path / "umd"
    folder.mkdir()
    (folder / "standalone.js").write_bytes(SCRIPT)
    (folder / CHUNK).write_bytes(b"chunk();\n")
    (folder / f"{CHUNK}.map").write_bytes(b'{"version":3}\n')
    (folder / "notes.txt").write_text("nothing for browsers")
    (folder / "folder.js").mkdir()
    (tmp_path / "secret.js").write_text("secret")
    return folder


def test_the_script_is_served_below_every_prefix(new_site, umd):
    """A known key gets the script, told first where it came from; pages may read and keep it."""
    site = new_site("--analytics-js-dir", str(umd))
    for prefix in ("", "/api/v1/segment", "/api/v1/segment/compat"):
        answer = site.get(prefix + LOADED, Origin=PAGE)
        assert answer.status == 200
        first_line, rest = answer.body.split(b"\n", 1)
        assert b"_cdn" in first_line
        assert rest == SCRIPT
        assert answer.headers["Content-Type"] == "text/javascript; charset=utf-8"
        assert answer.headers["Cache-Control"] == "public, max-age=300"
        assert answer.headers["Access-Control-Allow-Origin"] == PAGE


def test_chunks_are_served_for_good(new_site, umd):
    """A chunk, whose name holds its hash, may be kept for ever; its map is JSON."""
    site = new_site("--analytics-js-dir", str(umd))
    chunk = site.get(f"/analytics-next/bundles/{CHUNK}", Origin=PAGE)
    assert (chunk.status, chunk.body) == (200, b"chunk();\n")
    assert chunk.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert chunk.headers["Access-Control-Allow-Origin"] == PAGE
    source_map = site.get(f"/analytics-next/bundles/{CHUNK}.map")
    assert (source_map.status, source_map.json()) == (200, {"version": 3})
    assert source_map.headers["Content-Type"] == "application/json"


def test_browsers_get_it_compressed_and_once(new_site, umd):
    """Who takes gzip gets it, caches keep both forms apart, and an unchanged file is not resent."""
    site = new_site("--analytics-js-dir", str(umd))
    plain = site.get(LOADED)
    answer = site.get(LOADED, **{"Accept-Encoding": "gzip, deflate, br"})
    assert answer.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(answer.body) == plain.body
    for headers in (plain.headers, answer.headers):
        assert headers["Vary"] == "Accept-Encoding, Origin"
    again = site.get(LOADED, **{"If-None-Match": answer.headers["ETag"]})
    assert (again.status, again.body) == (304, b"")


def test_carelessly_joined_paths_are_found(start_server, umd):
    """The script is there also below a CDN's address that ends with a slash."""
    site = start_server("--analytics-js-dir", str(umd))
    assert site.get("/" + LOADED).body == site.get(LOADED).body
    assert site.get("/" + LOADED).status == 200


def test_nothing_else_is_served(start_server, umd):
    """An unknown key, and a name that is no script of the folder, is 404, readable for pages."""
    site = start_server("--analytics-js-dir", str(umd))
    for path in (
        "/analytics.js/v1/unknown-key/analytics.min.js",
        "/analytics-next/bundles/missing.js",
        "/analytics-next/bundles/notes.txt",
        "/analytics-next/bundles/folder.js",
        "/analytics-next/bundles/../secret.js",
        "/analytics-next/bundles/..%2Fsecret.js",
        "/analytics-next/bundles/%2e%2e%2fsecret.js",
        "/analytics-next/bundles/",
    ):
        answer = site.get(path, Origin=PAGE)
        assert (answer.status, answer.json()["code"]) == (404, "not_found"), path
        assert answer.headers["Access-Control-Allow-Origin"] == PAGE


def test_without_a_folder_there_is_no_script(new_site):
    """A server that is not told where the SDK is has neither script nor chunks."""
    site = new_site()
    for path in (LOADED, "/analytics-next/bundles/standalone.js"):
        assert site.get(path).status == 404


def test_a_key_needs_no_particular_letters(start_server, umd):
    """A key is found by its escaped form in a path too, and never becomes part of the script."""
    key = "';alert(1)//&é"
    site = start_server("--analytics-js-dir", str(umd), write_keys=[key])
    quoted = "%27;alert(1)%2F%2F&%C3%A9"
    answer = site.get(f"/analytics.js/v1/{quoted}/analytics.min.js")
    assert answer.status == 200
    assert b"alert" not in answer.body


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda folder: (folder / "standalone.js").unlink(), "has no standalone.js"),
        (lambda folder: (folder / "big.js").write_bytes(b" " * (4 << 20) + b" "), "big.js"),
        (lambda folder: folder.rename(folder.parent / "elsewhere"), "can't be read"),
    ],
    ids=["no_script", "too_big", "no_folder"],
)
def test_a_wrong_folder_stops_the_start(start_server, umd, make, complaint):
    """A folder that is not the package's stops the start with one line that says why."""
    make(umd)
    with pytest.raises(AssertionError, match="ended with 2 at start") as caught:
        start_server("--analytics-js-dir", str(umd))
    assert complaint in str(caught.value)
    assert f"analytics_js_dir={umd}" in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_a_head_request_says_what_a_get_would(new_site, umd):
    """HEAD has the headers of GET, for those who watch the address."""
    site = new_site("--analytics-js-dir", str(umd))
    answer = site.request("HEAD", LOADED)
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["Content-Type"] == "text/javascript; charset=utf-8"
