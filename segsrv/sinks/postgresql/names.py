"""Names of tables, as settings give them and as SQL takes them."""

from __future__ import annotations

import re
from typing import NamedTuple

NAME_BYTES_MAX = 63
_PART = re.compile(r'([A-Za-z_\u0080-\U0010ffff][\w$]*)|"((?:[^"\0]|"")+)"')


class Name(NamedTuple):
    """A table's name; `schema` is empty for the first one of the search path."""

    schema: str
    table: str

    @classmethod
    def read(cls, text: str, *, default_schema: str = "") -> Name:
        """Read a name as SQL does: quoted parts as they are, others in lower case.

        Raises:
            ValueError: It is no name; says why.

        """
        parts: list[str] = []
        position = 0
        while (found := _PART.match(text, position)) is not None:
            plain, quoted = found.groups()
            parts.append(plain.lower() if plain else quoted.replace('""', '"'))
            position = found.end()
            if text[position : position + 1] != ".":
                break
            position += 1
        if position != len(text) or not 1 <= len(parts) <= 2 or text.endswith("."):
            raise ValueError('expected NAME or SCHEMA.NAME, with "…" around odd names')
        for part in parts:
            if len(part.encode()) > NAME_BYTES_MAX:
                raise ValueError(f"a name of more than {NAME_BYTES_MAX} bytes")
        return cls(parts[0] if len(parts) == 2 else default_schema, parts[-1])

    @property
    def quoted(self) -> str:
        """The name for SQL."""
        table = quoted(self.table)
        return f"{quoted(self.schema)}.{table}" if self.schema else table


def quoted(name: str) -> str:
    """Return *name* as an identifier that SQL takes as it is."""
    return '"' + name.replace('"', '""') + '"'
