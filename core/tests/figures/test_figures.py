"""Figures are typed rows: none is given that is not listed, none is listed that is never given."""

import pytest

from sinfonia.cli.status_tables import MEMORY_NODE_COLUMNS, PROCESS_COLUMNS
from sinfonia.figures import client, listening, manager, member
from sinfonia.figures.figure import (
    MEMBERS,
    PRIMARIES,
    Figure,
    FigureFamily,
    Kind,
    Role,
    Unit,
    counter,
    gauge,
    word,
)
from sinfonia.figures.tables import FigureTable, Given, register, tables_of
from sinfonia.metrics.sources import metrics_of
from sinfonia.metrics.table import INTRODUCTION, TABLES, MetricTable, document
from sinfonia.operating.rates import COUNTS

MEMBERS_READ = gauge("members_read", "groups_members_read", MEMBERS, "Members that have read all.")
LAG = FigureFamily(
    prefix="lag_of_",
    label="group",
    type=int,
    kind=Kind.GAUGE,
    help="Messages that a group has not read.",
    roles=MEMBERS,
    metric="groups_lag",
)


def table(*rows: Figure[int] | Figure[float] | Figure[str] | FigureFamily[int]) -> FigureTable:
    return FigureTable("test", "Processes of a test", *rows)


# --- giving and reading ------------------------------------------------------------------------


def test_what_is_given_is_read_back_with_its_type() -> None:
    given = Given(member.MEMBER)
    given[member.IN_DOUBT] = 3
    given[member.MODE] = "LOG"
    given[member.PACED_SECONDS] = 2
    given[member.ACK_SECONDS.of("tcp://a:1")] = 0.5
    assert member.IN_DOUBT.read(given.values) == 3
    assert member.MODE.read(given.values) == "LOG"
    assert member.PACED_SECONDS.read(given.values) == 2.0
    assert dict(member.ACK_SECONDS.read(given.values)) == {"tcp://a:1": 0.5}
    assert member.CLIENTS.read(given.values) is None


def test_what_another_process_says_is_not_trusted_to_be_of_the_right_type() -> None:
    assert member.IN_DOUBT.read({"in_doubt": "many"}) is None
    assert member.MODE.read({"mode": 7}) is None
    assert dict(member.VOTES.read({"votes_ok": "some", "votes_bad_cmp": 2})) == {"bad_cmp": 2}


def test_a_figure_that_the_table_does_not_list_cannot_be_given() -> None:
    given = Given(member.MEMBER)
    with pytest.raises(AssertionError, match="leading is not listed"):
        given[manager.LEADING] = 1


def test_a_figure_is_given_once_and_of_its_type() -> None:
    given = Given(member.MEMBER)
    given[member.STARTS] = 1
    with pytest.raises(AssertionError, match="starts is given twice"):
        given[member.STARTS] = 2
    with pytest.raises(AssertionError, match="in_doubt is a int, and not 'x'"):
        given[member.IN_DOUBT] = "x"  # type: ignore[misc]  # as a careless program would


def test_a_table_complains_of_what_is_unlisted_wrong_or_left_out() -> None:
    rows = table(
        gauge("always", "", MEMBERS, "A."),
        gauge("sometimes", "", MEMBERS, "B.", when="it rains"),
        word("primaries_only", PRIMARIES, "C."),
        LAG,
    )
    assert list(rows.complaints({"always": 1, "lag_of_x": 2}, Role.REPLICA)) == []
    complaints = list(
        rows.complaints({"sometimes": "no", "primaries_only": "yes", "else": 1}, Role.REPLICA)
    )
    assert complaints == [
        "sometimes is a int, and not 'no'",
        "primaries_only is not listed for the role replica",
        "else is not listed",
        "always is listed for the role replica and was not given",
    ]
    assert list(rows.complaints({"always": 1}, Role.PRIMARY)) == [
        "primaries_only is listed for the role primary and was not given"
    ]


def test_no_name_means_two_figures() -> None:
    with pytest.raises(AssertionError, match="listed twice"):
        table(gauge("one", "", MEMBERS, "A."), counter("one", "", MEMBERS, "B."))
    with pytest.raises(AssertionError, match="lag_of_"):
        table(LAG, gauge("lag_of_nothing", "", MEMBERS, "A."))


# --- what is made from the rows ------------------------------------------------------------------


def test_every_row_of_core_says_what_it_is_and_has_a_page() -> None:
    core = tables_of("core")
    assert set(core) == {member.MEMBER, manager.MANAGER, listening.ADMISSION, client.CLIENT}
    shown = {metric.name for each in TABLES for metric in each.metrics}
    for each in core:
        for row in each.rows:
            assert row.help.endswith("."), row
            assert not row.metric or row.metric in shown, row
            assert (row.unit is Unit.BYTES) == ("bytes" in _name(row)), row
            assert (row.unit is Unit.SECONDS) == ("seconds" in _name(row)), row


def test_status_and_top_show_what_the_rows_say() -> None:
    rows = [*member.MEMBER.rows, *manager.MANAGER.rows, member.VOTES_OK]
    columns = {row.column for row in rows if row.column}
    assert columns == {"LOG", "REPAIRS", "IN DOUBT", "PINNED", "CLIENTS", "COMMITTED"}
    assert columns - {"REPAIRS"} <= {*PROCESS_COLUMNS, *MEMORY_NODE_COLUMNS}
    rated = [row.name for row in rows if isinstance(row, Figure) and row.rate is not None]
    assert sorted(rated) == sorted(figure.name for figure in COUNTS.values())


def test_a_later_room_registers_its_own_table_and_has_its_own_page() -> None:
    groups = register(FigureTable("groups of a test", "Members of groups", MEMBERS_READ, LAG))
    assert tables_of("groups of a test") == [groups]
    assert groups not in tables_of("core")
    with pytest.raises(AssertionError, match="registered twice"):
        register(FigureTable("groups of a test", "Members of groups"))
    page = document("# Groups\n", [MetricTable(groups.process, ("node",), metrics_of(groups))])
    assert "| `groups_members_read` | gauge | `node` | Members that have read all. |" in page
    assert "| `groups_lag` | gauge | `node`, `group` |" in page
    assert INTRODUCTION not in page


def _name(row: object) -> str:
    return row.name if isinstance(row, Figure) else str(getattr(row, "prefix", ""))
