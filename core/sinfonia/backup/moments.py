"""A moment is what hybrid clocks show, microseconds since 1970; people see it as a time."""

from datetime import UTC, datetime, timedelta

from sinfonia.errors import BackupError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def format_moment(moment: int) -> str:
    """``moment`` as ISO 8601 has it, to the microsecond."""
    return (_EPOCH + moment * _MICROSECOND).isoformat(timespec="microseconds")


def parse_moment(text: str) -> int:
    """The inverse; a time without a zone is this machine's local time.  Raises BackupError."""
    try:
        return (datetime.fromisoformat(text).astimezone(UTC) - _EPOCH) // _MICROSECOND
    except (ValueError, OverflowError) as error:
        raise BackupError(
            f"{text!r} is not a time; write 2026-03-01T12:00:00, or with a zone "
            "2026-03-01T12:00:00.123456+00:00"
        ) from error
