"""The help of `sinfonia` lists its commands by what they are for, each on one whole line.

A command is imported when it is asked for, and not before.
"""

import importlib
from collections.abc import Mapping
from typing import Any

import click

# Longer summaries would not fit beside the names of commands on 80 columns.
SUMMARY_MAX = 58


class SectionedGroup(click.Group):
    """A group whose help shows its commands in named sections, in the order of their addition."""

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)  # type: ignore[arg-type]  # as click has it
        self._sections: dict[str, list[str]] = {}
        self._places: dict[str, str] = {}

    def add_sections(self, sections: Mapping[str, Mapping[str, str]]) -> None:
        """Add all commands of ``sections``: by title, by name, where each is (see ``load``)."""
        for title, places in sections.items():
            self._sections.setdefault(title, []).extend(places)
            self._places.update(places)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands."""
        del ctx
        return sorted(self._places)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name; None if there is none."""
        del ctx
        place = self._places.get(cmd_name)
        if place is None:
            return None
        command = load(place)
        assert isinstance(command, click.Command), f"{place} is no command"
        assert command.name == cmd_name, f"{place} is called {command.name}"
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections; no summary is cut off."""
        width = max(map(len, self._places))
        for title, names in self._sections.items():
            with formatter.section(title):
                formatter.write_dl(
                    [(name.ljust(width), self._summary(ctx, name)) for name in names]
                )

    def _summary(self, ctx: click.Context, name: str) -> str:
        command = self.get_command(ctx, name)
        assert command is not None
        return summary(command)


def load(place: str) -> Any:  # noqa: ANN401 - whatever is there
    """What ``place`` names, as MODULE:NAME."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


def summary(command: click.Command) -> str:
    """What a command does, in one line."""
    said = command.short_help
    assert said is not None, f"{command.name} has no short_help"
    assert len(said) <= SUMMARY_MAX, f"the summary of {command.name} is longer than {SUMMARY_MAX}"
    return said
