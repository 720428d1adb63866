"""A mistake in a TOML file is told in the words of the file: where it is, and what may be there."""

import difflib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from sinfonia.errors import ConfigError


def quoted(text: str) -> str:
    """``text`` as a string of TOML, whose basic strings escape as JSON's do."""
    return json.dumps(text, ensure_ascii=False)


def quoted_path(path: str, directory: Path) -> str:
    """``path`` as seen from ``directory``, if it lies there."""
    absolute = Path(path)
    inside = absolute.is_relative_to(directory)
    return quoted(str(absolute.relative_to(directory) if inside else absolute))


def tables(table: Mapping[str, Any], key: str) -> list[tuple[str, Mapping[str, Any]]]:
    """The tables under ``key``, one or a list of them, and how each is called."""
    found = table.get(key)
    if isinstance(found, Mapping):
        return [(f"{key}.", found)]
    parts = enumerate(found) if isinstance(found, list) else ()
    return [(f"{key}[{k}].", part) for k, part in parts if isinstance(part, Mapping)]


def refuse_unknown(table: Mapping[str, Any], struct: type[msgspec.Struct], where: str) -> None:
    """Raise ConfigError for a key that ``struct`` does not have."""
    allowed = struct.__struct_fields__
    for key in table:
        if key not in allowed:
            close = difflib.get_close_matches(key, allowed, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ConfigError(f"{where}{key}: unknown; {hint}allowed: {', '.join(allowed)}")


def refuse_twice(what: str, values: Iterable[object]) -> None:
    """Raise ConfigError if a value is there more than once."""
    for value, times in Counter(values).most_common(1):
        if times > 1:
            raise ConfigError(f"{what}: {value} is there {times} times; each must have its own")


def readable(error: msgspec.ValidationError, choices: Iterable[str]) -> str:
    """msgspec's message, in the words of the file: "Expected `int`, got `str` - at `$.a[0].b`".

    ``choices`` are the values of the only thing in the file that is a choice.
    """
    what, _, place = str(error).partition(" - at ")
    place = place.strip("`").removeprefix("$").removeprefix(".")
    if what.startswith("Invalid enum value"):
        what += f"; allowed: {', '.join(choices)}"
    what = what.replace("Object missing required field", "missing").replace("`", "")
    return f"{place}: {what}" if place else what
