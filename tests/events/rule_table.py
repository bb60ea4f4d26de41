"""The two rule tables as data, and an interpreter that takes them literally.

The mappers are written by hand; this is what they are compared with. It shares no code with them
and knows no shortcuts: it reads from the input in rule order, writes to a second object, deletes
only after the last rule, and removes root keys at the very end.
"""

from copy import deepcopy
from typing import Any, NamedTuple

ABSENT: Any = object()


class Rule(NamedTuple):
    """A numbered line of the table; one without destinations takes `source` off the result."""

    number: int
    source: str
    destinations: tuple[str, ...]


_FLAT_TEXT = """
1   /context/page/title             /page_title
2   /context/page                   /doc
3   /context/page/referrer          /referer
4   /page
5   /traits                         /user
6   /context/traits                 /user
7   /traits
8   /context/userAgent              /user_agent
9   /userAgent
10  /anonymousId                    /ids/ajs_anonymous_id
11  /anonymousId                    /user/anonymous_id
12  /userId                         /ids/ajs_user_id
13  /userId                         /user/internal_id /user/id
14  /context/campaign               /utm
15  /context/campaign/name          /utm/campaign
16  /campaign
17  /context/location               /location
18  /context/referrer/url           /referer
19  /context/os/name                /parsed_ua/os_family
20  /context/os/version             /parsed_ua/os_version
21  /os
22  /context/device/manufacturer    /parsed_ua/device_brand
23  /context/device/model           /parsed_ua/device_model
24  /context/device/version         /parsed_ua/ua_version
25  /context/device/advertisingId   /parsed_ua/device_advertising_id
26  /context/device/id              /parsed_ua/device_id
27  /context/device/name            /parsed_ua/device_name
28  /context/device/type            /parsed_ua/device_type
29  /device
30  /context/locale                 /user_language
31  /type                           /event_type
32  /context/ip                     /source_ip
33  /ip
34  /locale
35  /context/user_agent             /user_agent
36  /properties                     /
37  /context                        /
"""

_TRACKER_FIELDS = frozenset(
    "page_title doc referer user user_agent ids utm location parsed_ua user_language".split()
)


def _flat_rules() -> tuple[Rule, ...]:
    rows = (line.split() for line in _FLAT_TEXT.strip().splitlines())
    return tuple(Rule(int(row[0]), row[1], tuple(row[2:])) for row in rows)


def _compat_rules() -> tuple[Rule, ...]:
    rules = []
    for number, source, destinations in FLAT_RULES:
        moved = tuple(
            f"/eventn_ctx{path}" if path.split("/")[1] in _TRACKER_FIELDS else path
            for path in destinations
            if path != "/user/id"
        )
        rules.append(Rule(number, source, moved))
        if source == "/context/location":
            rules.append(Rule(number, "/location", ()))
    return tuple(rules)


FLAT_RULES = _flat_rules()
COMPAT_RULES = _compat_rules()


def applies(rule: Rule, event: dict[str, Any]) -> bool:
    """Say whether *event* has what the rule moves or, at its root or once flattened, takes off."""
    if rule.destinations:
        return _read(event, rule.source) is not ABSENT
    places = ("", "/properties", "/context")
    return any(_read(event, place + rule.source) is not ABSENT for place in places)


def run_table(rules: tuple[Rule, ...], event: dict[str, Any]) -> dict[str, Any]:
    """Return what the table makes of *event*, which is left as it is."""
    event = deepcopy(event)
    raw = _set_aside_non_objects(event)
    mapped: dict[str, Any] = {}
    found = []
    for rule in rules:
        value = _read(event, rule.source) if rule.destinations else ABSENT
        # Empty texts of os and device don't count as given, which is a stated difference too.
        is_nothing = value == "" and any("/parsed_ua/" in path for path in rule.destinations)
        if value is ABSENT or is_nothing:
            continue
        found.append(rule.source)
        for path in rule.destinations:
            _write(mapped, path, value)
    for path in found:
        _delete(event, path)
    result = event | mapped
    for rule in rules:
        if not rule.destinations:
            _delete(result, rule.source)
    return result | raw


def _set_aside_non_objects(event: dict[str, Any]) -> dict[str, Any]:
    """Take the four containers that are no objects off *event*, and return what is kept of them.

    This is no rule of the table but a stated difference from it: the table would fail.
    """
    raw = {}
    context = event.get("context")
    holders = [(event, "traits"), (event, "properties"), (event, "context")]
    if isinstance(context, dict):
        holders.append((context, "traits"))
    for holder, name in holders:
        if name in holder and not isinstance(holder[name], dict):
            value = holder.pop(name)
            if not (value is None or value in ("", [])):
                raw[f"{name}_raw"] = value
    return raw


def _read(event: dict[str, Any], path: str) -> Any:
    value: Any = event
    for name in _names(path):
        if not isinstance(value, dict) or name not in value:
            return ABSENT
        value = value[name]
    return value


def _write(mapped: dict[str, Any], path: str, value: Any) -> None:
    if path == "/":
        mapped.update(value)
        return
    *parents, last = _names(path)
    holder = mapped
    for name in parents:
        holder = holder.setdefault(name, {})
    holder[last] = value


def _delete(event: dict[str, Any], path: str) -> None:
    *parents, last = _names(path)
    holder = _read(event, "/".join(["", *parents])) if parents else event
    if isinstance(holder, dict):
        holder.pop(last, None)


def _names(path: str) -> list[str]:
    return path.split("/")[1:]
