"""The figures of a member of a memory node."""

from dataclasses import replace

from sinfonia.figures.figure import (
    ACTIVE_MEMBERS,
    MEMBERS,
    PRIMARIES,
    REPLICAS,
    FigureFamily,
    Kind,
    Rate,
    Role,
    Unit,
    counter,
    gauge,
    seconds_counter,
    seconds_gauge,
    word,
)
from sinfonia.figures.tables import FigureTable, register

# Words that protocol and memory node use for themselves; a test compares them.
ROLES = ("starting", "primary", "replica")
PHASES = ("joining", "pulling", "resigning", "copying", "saving", "following")

# --- what the member is --------------------------------------------------------------------------

MODE = word("mode", MEMBERS, "The mode of the memory node.")

IDENTITY = word("identity", MEMBERS, "The identity of the data directory.")

ROLE = word(
    "role",
    MEMBERS,
    "1 for what the member is to its memory node, 0 for the others.",
    metric="sinfonia_role",
    words=ROLES,
)

PHASE = word(
    "phase",
    REPLICAS,
    "1 for what a replica is about, 0 for the others.",
    metric="sinfonia_replica_phase",
    words=PHASES,
)

DAMAGE = word("damage", MEMBERS, "What is damaged of its data.", when="its data is damaged")

WAITING_FOR = word(
    "waiting_for",
    frozenset({Role.STARTING}),
    "What a member that starts waits for.",
    when="it waits for something",
)

CAPACITY_BYTES = gauge(
    "capacity_bytes",
    "sinfonia_capacity_bytes",
    MEMBERS,
    "The address space.",
    unit=Unit.BYTES,
)

STARTS = gauge("starts", "sinfonia_starts", MEMBERS, "Which life of its data directory it is.")

INCARNATION = gauge(
    "incarnation",
    "sinfonia_incarnation",
    MEMBERS,
    "Which life of the memory node it serves; a fail-over or a restart begins another.",
)

CONFIG_EPOCH = gauge(
    "config_epoch",
    "sinfonia_config_epoch",
    MEMBERS,
    "The number of the configuration that it knows.",
)

EPOCH = gauge("epoch", "sinfonia_epoch", MEMBERS, "The epoch of tids.")

# --- what clients ask for ------------------------------------------------------------------------

EXECUTED = counter("executed", "", MEMBERS, "Minitransactions that committed here.")

ABORTED = counter(
    "aborted",
    "",
    MEMBERS,
    "Minitransactions that did not match or were refused here.",
)

RETRIED = counter(
    "retried",
    "",
    MEMBERS,
    "Minitransactions that were put off, so that their clients try again.",
)

BYTES_READ = counter(
    "bytes_read",
    "",
    MEMBERS,
    "Bytes that minitransactions read.",
    unit=Unit.BYTES,
    rate=Rate("bytes_read", "READ/s"),
)

BYTES_WRITTEN = counter(
    "bytes_written",
    "",
    MEMBERS,
    "Bytes that minitransactions wrote.",
    unit=Unit.BYTES,
    rate=Rate("bytes_written", "WRITTEN/s"),
)

VOTES = FigureFamily(
    prefix="votes_",
    label="vote",
    type=int,
    kind=Kind.COUNTER,
    help="Votes, by vote.",
    roles=MEMBERS,
    metric="sinfonia_votes_total",
)

# An OK vote, seen as the minitransaction that it is for.
VOTES_OK = replace(VOTES.of("ok"), column="COMMITTED", rate=Rate("minitransactions", "MTX/s"))

DUPLICATES = counter(
    "duplicates",
    "sinfonia_duplicates_total",
    MEMBERS,
    "Requests that had been answered before and were not executed again.",
)

IN_DOUBT = gauge(
    "in_doubt",
    "sinfonia_in_doubt",
    MEMBERS,
    "Minitransactions with an OK vote whose outcome is not known here; they hold locks.",
    column="IN DOUBT",
)

DECIDED = gauge(
    "decided",
    "sinfonia_decided",
    MEMBERS,
    "Committed minitransactions that some participant may still ask about.",
)

LOCK_SEGMENTS = gauge("lock_segments", "sinfonia_lock_segments", MEMBERS, "Ranges that are locked.")

LOCK_WAITERS = gauge(
    "lock_waiters",
    "sinfonia_lock_waiters",
    MEMBERS,
    "Minitransactions that stand in line for locks.",
)

LOCK_WAITS = counter(
    "lock_waits",
    "sinfonia_lock_waits_total",
    MEMBERS,
    "Minitransactions that ever stood in line for locks.",
)

LOCK_WAITS_EXPIRED = counter(
    "lock_waits_expired",
    "sinfonia_lock_waits_expired_total",
    MEMBERS,
    "Those of them that waited in vain.",
)

CLIENTS = gauge(
    "clients",
    "sinfonia_clients",
    MEMBERS,
    "Clients that are remembered.",
    column="CLIENTS",
)

HUNG_UP = counter(
    "hung_up",
    "sinfonia_hung_up_total",
    MEMBERS,
    "How often it hung up on all connections: they took too much memory, or descriptors.",
    when="monitoring asks",
)

CLIENTS_DROPPED = counter(
    "clients_dropped",
    "sinfonia_clients_dropped_total",
    MEMBERS,
    "Clients that were forgotten because they had heard everything, and others came.",
)

CLIENTS_TURNED_AWAY = counter(
    "clients_turned_away",
    "sinfonia_clients_turned_away_total",
    MEMBERS,
    "Batches of new clients that were put off because too many others are remembered.",
)

REMEMBERED = gauge(
    "remembered",
    "sinfonia_remembered",
    MEMBERS,
    "Answers that clients may ask for again.",
)

REMEMBERED_BYTES = gauge(
    "remembered_bytes",
    "sinfonia_remembered_bytes",
    MEMBERS,
    "Bytes of what was read in those answers, of large ones.",
    unit=Unit.BYTES,
)

WATCHES = gauge("watches", "sinfonia_watches", MEMBERS, "Ranges that clients watch.")

TURNED_AWAY = counter(
    "turned_away",
    "sinfonia_turned_away_total",
    MEMBERS,
    "Requests that were put off because their client had too much under way.",
    when="monitoring asks",
)

# --- the log -------------------------------------------------------------------------------------

LOG_BYTES = gauge(
    "log_bytes",
    "sinfonia_redo_log_bytes",
    MEMBERS,
    "The redo log on disk.",
    unit=Unit.BYTES,
    when="its mode has a disk",
    column="LOG",
)

LOGGED_BYTES = counter(
    "logged_bytes",
    "sinfonia_logged_bytes_total",
    PRIMARIES,
    "Bytes of log records that this primary wrote.",
    unit=Unit.BYTES,
    rate=Rate("logged_bytes", "LOGGED/s"),
)

SYNCS = counter(
    "syncs",
    "sinfonia_group_commits_total",
    ACTIVE_MEMBERS,
    "Times that everything logged was made stable at once.",
    rate=Rate("syncs", "SYNCS/s"),
)

CHECKPOINTS = counter(
    "checkpoints",
    "sinfonia_checkpoints_total",
    MEMBERS,
    "Checkpoints made.",
    when="its mode has a disk",
)

SCRUBBED_BYTES = counter(
    "scrubbed_bytes",
    "sinfonia_scrubbed_bytes_total",
    MEMBERS,
    "Bytes of image and log that were read to see whether they have rotted.",
    unit=Unit.BYTES,
    when="its mode has a disk",
)

SCRUB_FINDINGS = counter(
    "scrub_findings",
    "sinfonia_scrub_findings_total",
    MEMBERS,
    "Pages and blocks that had rotted: look at the disk.",
    when="its mode has a disk",
)

SCRUB_REPAIRS = counter(
    "scrub_repairs",
    "sinfonia_scrub_repairs_total",
    MEMBERS,
    "Pages and blocks that had rotted and were replaced from memory.",
    when="its mode has a disk",
)

SCRUB_PASSES = counter(
    "scrub_passes",
    "sinfonia_scrub_passes_total",
    MEMBERS,
    "How often all of image and log was read through.",
    when="its mode has a disk",
)

SCRUB_PASS_SECONDS = seconds_gauge(
    "scrub_pass_seconds",
    "sinfonia_scrub_pass_seconds",
    MEMBERS,
    "How long the last full pass of the scrubber took; 0 before there was one.",
    when="its mode has a disk",
)

REPLAYED_RECORDS = counter(
    "replayed_records",
    "sinfonia_replayed_records_total",
    MEMBERS,
    "Log records applied when the member started.",
)

LAST_RECORD = gauge(
    "last_record",
    "sinfonia_last_record",
    MEMBERS,
    "The last record logged.",
    rate=Rate("records", "RECORDS/s"),
)

STABLE_RECORD = gauge(
    "stable_record",
    "sinfonia_stable_record",
    MEMBERS,
    "The last record that is stable at this member.",
    when="its log is open",
)

COMMITTED_RECORD = gauge(
    "committed_record",
    "sinfonia_committed_record",
    ACTIVE_MEMBERS,
    "The last record that is stable at every in-sync member, as far as this one knows.",
)

APPLIED_RECORD = gauge(
    "applied_record",
    "sinfonia_applied_record",
    ACTIVE_MEMBERS,
    "The last record that memory shows.",
)

# --- replication ---------------------------------------------------------------------------------

REPLICAS_KNOWN = gauge(
    "replicas_known",
    "sinfonia_replicas",
    PRIMARIES,
    "Replicas of this primary.",
)

IN_SYNC_REPLICAS = gauge(
    "in_sync_replicas",
    "sinfonia_replicas_in_sync",
    PRIMARIES,
    "Replicas that could take over from this primary.",
)

RECORDS_BEHIND = FigureFamily(
    prefix="records_behind_",
    label="replica",
    type=int,
    kind=Kind.GAUGE,
    help="Records that a replica of this primary has not acknowledged.",
    roles=PRIMARIES,
    when="its mode keeps replicas",
    metric="sinfonia_replica_behind_records",
)

DAMAGED = gauge(
    "damaged",
    "sinfonia_damaged",
    MEMBERS,
    "1 while a member's data is not to be trusted, so that it is to be filled from a copy.",
)

REPAIRS = counter(
    "repairs",
    "sinfonia_repairs_total",
    MEMBERS,
    "How often damaged data was replaced by a copy of an in-sync member's.",
    column="REPAIRS",
)

UNPROVEN_REPLICAS = gauge(
    "unproven_replicas",
    "sinfonia_unproven_replicas",
    PRIMARIES,
    "In-sync replicas that restarted and may not take over before they have joined again.",
)

CATCHING_UP = gauge(
    "catching_up",
    "sinfonia_catching_up",
    MEMBERS,
    "1 for a replica that could not take over.",
)

REPLIES_WAITING = gauge(
    "replies_waiting",
    "sinfonia_replies_waiting",
    PRIMARIES,
    "Batches of replies of this primary that wait for its replicas.",
)

ACK_SECONDS = FigureFamily(
    prefix="ack_seconds_",
    label="replica",
    type=float,
    kind=Kind.GAUGE,
    unit=Unit.SECONDS,
    help="How long a replica of this primary took lately to acknowledge, on average.",
    roles=PRIMARIES,
    when="its mode keeps replicas",
    metric="sinfonia_ack_seconds",
)

REPLICAS_DROPPED_SLOW = counter(
    "replicas_dropped_slow",
    "sinfonia_replicas_dropped_slow_total",
    PRIMARIES,
    "Replicas that this primary gave up for being slow, each time.",
    when="its mode keeps replicas",
)

PACED_SECONDS = seconds_counter(
    "paced_seconds",
    "sinfonia_paced_seconds_total",
    PRIMARIES,
    "For how long this primary held back answers to writers, so that a replica catches up.",
    when="its mode keeps replicas",
)

COPIES_BEGUN = counter(
    "copies_begun",
    "sinfonia_copies_begun_total",
    REPLICAS,
    "How often this replica began to copy the image of its primary.",
)

COPIED_OUT_BYTES = counter(
    "copied_out_bytes",
    "sinfonia_copied_out_bytes_total",
    PRIMARIES,
    "Bytes sent to replicas and backups that copy.",
    unit=Unit.BYTES,
)

COPIED_BYTES = counter(
    "copied_bytes",
    "sinfonia_copied_in_bytes_total",
    REPLICAS,
    "Bytes of its primary's image that this replica copied.",
    unit=Unit.BYTES,
)

MEMBER = register(
    FigureTable(
        "core",
        "Members of memory nodes",
        MODE,
        IDENTITY,
        ROLE,
        PHASE,
        DAMAGE,
        WAITING_FOR,
        CAPACITY_BYTES,
        STARTS,
        INCARNATION,
        CONFIG_EPOCH,
        EPOCH,
        EXECUTED,
        ABORTED,
        RETRIED,
        BYTES_READ,
        BYTES_WRITTEN,
        VOTES,
        DUPLICATES,
        IN_DOUBT,
        DECIDED,
        LOCK_SEGMENTS,
        LOCK_WAITERS,
        LOCK_WAITS,
        LOCK_WAITS_EXPIRED,
        CLIENTS,
        HUNG_UP,
        CLIENTS_DROPPED,
        CLIENTS_TURNED_AWAY,
        REMEMBERED,
        REMEMBERED_BYTES,
        WATCHES,
        TURNED_AWAY,
        LOG_BYTES,
        LOGGED_BYTES,
        SYNCS,
        CHECKPOINTS,
        SCRUBBED_BYTES,
        SCRUB_FINDINGS,
        SCRUB_REPAIRS,
        SCRUB_PASSES,
        SCRUB_PASS_SECONDS,
        REPLAYED_RECORDS,
        LAST_RECORD,
        STABLE_RECORD,
        COMMITTED_RECORD,
        APPLIED_RECORD,
        REPLICAS_KNOWN,
        IN_SYNC_REPLICAS,
        RECORDS_BEHIND,
        DAMAGED,
        REPAIRS,
        UNPROVEN_REPLICAS,
        CATCHING_UP,
        REPLIES_WAITING,
        ACK_SECONDS,
        REPLICAS_DROPPED_SLOW,
        PACED_SECONDS,
        COPIES_BEGUN,
        COPIED_OUT_BYTES,
        COPIED_BYTES,
    )
)

# What `top` shows of a member, in this order.
RATES = (VOTES_OK, BYTES_READ, BYTES_WRITTEN, LAST_RECORD, LOGGED_BYTES, SYNCS)
