"""The help of `sinfonia` lists its commands by what they are for, each on one whole line."""

from collections.abc import Mapping, Sequence

import click

# Longer summaries would not fit beside the names of commands on 80 columns.
SUMMARY_MAX = 58


class SectionedGroup(click.Group):
    """A group whose help shows its commands in named sections, in the order of their addition."""

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)  # type: ignore[arg-type]  # as click has it
        self._sections: dict[str, list[str]] = {}

    def add_sections(self, sections: Mapping[str, Sequence[click.Command]]) -> None:
        """Add all commands of ``sections``, which are listed under the names of the sections."""
        for title, commands in sections.items():
            for command in commands:
                assert command.name is not None
                self.add_command(command)
                self._sections.setdefault(title, []).append(command.name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections; no summary is cut off."""
        del ctx
        width = max(len(name) for names in self._sections.values() for name in names)
        for title, names in self._sections.items():
            with formatter.section(title):
                formatter.write_dl(
                    [(name.ljust(width), summary(self.commands[name])) for name in names]
                )


def summary(command: click.Command) -> str:
    """What a command does, in one line."""
    said = command.short_help
    assert said is not None, f"{command.name} has no short_help"
    assert len(said) <= SUMMARY_MAX, f"the summary of {command.name} is longer than {SUMMARY_MAX}"
    return said
