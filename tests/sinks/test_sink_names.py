"""The names of sinks: one for each place, so that its cursor is found again."""

import re

import pytest

from segsrv.errors import SettingsError
from segsrv.settings import Settings
from segsrv.sinks import registry


@pytest.fixture
def spellings(tmp_path, monkeypatch) -> dict[str, list[str]]:
    """Return URLs that lead to one folder each; `data` is the data directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path)
    return {
        "default": [
            "file:",
            "file:data/events",
            "file:data//events/",
            f"file:{tmp_path}/data/events",
            f"file://{tmp_path}/data/events",
            "file:data/../link/data/events",
        ],
        "other": ["file:out", "file:out/", "file:./out", f"file://{tmp_path}/out", "file:link/out"],
    }


def names(tmp_path, *urls: str) -> dict[str, str]:
    found = registry.resolve(Settings(data_dir=tmp_path / "data", sink=urls))
    return {named.name: named.config.url for named in found}


class TestNames:
    def test_the_default_folder_is_called_file(self, tmp_path, spellings):
        """However it is spelled, so that no spelling begins again from the oldest event."""
        for url in spellings["default"]:
            assert names(tmp_path, url) == {"file": url}

    def test_another_folder_has_one_name(self, tmp_path, spellings):
        """A slash, a dot or a link more in the URL is no other sink, and not the default one."""
        found = {name for url in spellings["other"] for name in names(tmp_path, url)}

        assert len(found) == 1
        assert re.fullmatch(r"file-[0-9a-f]{8}", found.pop())

    def test_the_same_place_is_refused_twice(self, tmp_path, spellings):
        """Two sinks with one cursor would each get half; two cursors would store all twice."""
        for first, *others in spellings.values():
            for other in others:
                with pytest.raises(SettingsError, match="given twice"):
                    names(tmp_path, first, other)

    def test_two_places_have_two_names(self, tmp_path):
        """Neither the order nor the company changes a name."""
        urls = ("file:", "file:a", "file:b", "file:A")
        together = {url: name for name, url in names(tmp_path, *reversed(urls)).items()}

        assert together == {url: name for url in urls for name in names(tmp_path, url)}
        assert len(set(together.values())) == len(urls)

    def test_the_sink_writes_where_its_name_says(self, tmp_path, spellings):
        """The folder that the sink opens is the one that its name was made of."""
        roots = [
            {
                built.sink.root.resolve()
                for url in urls
                for built in registry.build(Settings(data_dir=tmp_path / "data", sink=(url,)))
            }
            for urls in spellings.values()
        ]

        assert roots == [{tmp_path / "data" / "events"}, {tmp_path / "out"}]
