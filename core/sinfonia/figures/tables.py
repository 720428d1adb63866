"""All figures of one kind of process stand in one table, and a room registers its own tables.

A process cannot give a figure that its table does not list.  A table knows whether a process gave
all that it lists, too.
"""

from collections.abc import Iterator

from sinfonia.figures.figure import Figure, FigureFamily, Figures, Role, V, Value

Row = Figure[int] | Figure[float] | Figure[str] | FigureFamily[int] | FigureFamily[float]


class FigureTable:
    """The figures of one kind of process of a room, in the order in which they are shown."""

    def __init__(self, room: str, process: str, *rows: Row) -> None:
        """``process``: what kind of process gives them, in words."""
        self.room = room
        self.process = process
        self.rows = rows
        self._figures = {row.name: row for row in rows if isinstance(row, Figure)}
        self._families = [row for row in rows if isinstance(row, FigureFamily)]
        self.check_invariants()

    def check_invariants(self) -> None:
        """No name means two figures."""
        single = [row for row in self.rows if isinstance(row, Figure)]
        assert len(self._figures) == len(single), "a figure is listed twice"
        for family in self._families:
            others = [*self._figures, *(each.prefix for each in self._families if each != family)]
            assert not any(name.startswith(family.prefix) for name in others), family.prefix
        assert all(row.roles for row in self.rows), "a figure that no process gives"

    def row_of(self, name: str) -> Row | None:
        """The row that declares the figure ``name``; None: there is none."""
        if name in self._figures:
            return self._figures[name]
        return next((each for each in self._families if name.startswith(each.prefix)), None)

    def complaints(self, figures: Figures, role: Role) -> Iterator[str]:
        """What is wrong with the ``figures`` that a process gave as ``role``."""
        for name, value in figures.items():
            row = self.row_of(name)
            if row is None:
                yield f"{name} is not listed"
                continue
            if role not in row.roles:
                yield f"{name} is not listed for the role {role.value}"
            declared = row if isinstance(row, Figure) else row.of("")
            if not declared.fits(value):
                yield f"{name} is a {declared.type.__name__}, and not {value!r}"
        for name, figure in self._figures.items():
            if role in figure.roles and not figure.when and name not in figures:
                yield f"{name} is listed for the role {role.value} and was not given"


class Given:
    """The figures of one table that one process gives at one moment."""

    def __init__(self, table: FigureTable) -> None:
        self._table = table
        self._values: dict[str, Value] = {}

    def __setitem__(self, figure: Figure[V], value: V) -> None:
        assert self._table.row_of(figure.name) is not None, f"{figure.name} is not listed"
        assert figure.fits(value), f"{figure.name} is a {figure.type.__name__}, and not {value!r}"
        assert figure.name not in self._values, f"{figure.name} is given twice"
        self._values[figure.name] = value

    @property
    def values(self) -> dict[str, Value]:
        """The figures by name, as messages and snapshots carry them."""
        return self._values


_TABLES: list[FigureTable] = []


def register(table: FigureTable) -> FigureTable:
    """Make ``table`` known to whatever goes through the tables of a room; returns it."""
    assert not any((each.room, each.process) == (table.room, table.process) for each in _TABLES), (
        f"the figures of {table.process} are registered twice"
    )
    _TABLES.append(table)
    return table


def tables_of(room: str) -> list[FigureTable]:
    """The tables that ``room`` has registered, in that order."""
    return [table for table in _TABLES if table.room == room]
