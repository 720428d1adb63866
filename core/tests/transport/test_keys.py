"""Keys in files: which users read them, which are on the list, what each role may ask for."""

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from sinfonia import ConfigError, load_keys
from sinfonia.addresses import MemoryNodeId
from sinfonia.cluster_keys import KEYS_VARIABLE, resolve_keys
from sinfonia.config import ClusterConfig
from sinfonia.protocol.identifiers import Tid
from sinfonia.protocol.membership.messages import GetUnsettled, HandOver, Recreate, Settle
from sinfonia.protocol.messages import (
    PROTOCOL_VERSION,
    Commit,
    ExecCommit,
    Forget,
    GetDirectory,
    GetStatus,
    Probe,
    Request,
    Requests,
    Resolve,
    Unwatch,
)
from sinfonia.protocol.replication.messages import Appended, GetImage, GetLog
from sinfonia.transport import authentication as authentication_module
from sinfonia.transport.allow_list import LOOK_AGAIN_AFTER, LOOK_EVERY, AllowList
from sinfonia.transport.authentication import (
    CLIENT_SILENT_MAX,
    FORGET_EVERY,
    MAKE_ROOM_EVERY,
    Authenticator,
)
from sinfonia.transport.keygen import add_client, make_cluster_keys
from sinfonia.transport.keys import CLIENTS, Keys, load_security
from sinfonia.transport.permissions import Role, forbidden
from sinfonia.transport.zeromq import bind_router, is_loopback

ALICE = 1
MINE, OTHERS = Tid(0, ALICE, 7), Tid(0, 2, 7)

PLAIN_CLUSTER = """
cluster = "c"
[manager]
endpoint = "tcp://127.0.0.1:7000"
data_directory = "manager"
[[memory_node]]
node = 0
endpoint = "tcp://127.0.0.1:7001"
capacity = "1MiB"
data_directory = "node0"
"""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("template") / "keys"
    make_cluster_keys(made, cluster="test")
    return made


@pytest.fixture
def directory(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "keys"))


@pytest.fixture
def authenticator(directory: Path) -> Iterator[Authenticator]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    made = Authenticator(context, load_security(directory), now=0.0)
    yield made
    made.check_invariants()
    made.close()
    context.term()


def batch(*requests: Request, client: int = ALICE) -> Requests:
    return Requests(PROTOCOL_VERSION, client, 0, 0, list(requests))


# --- files --------------------------------------------------------------------------------------


def test_secrets_are_for_their_owner_only_whatever_the_umask(tmp_path: Path) -> None:
    former = os.umask(0)
    try:
        secrets = make_cluster_keys(tmp_path / "keys", cluster="test")
        secrets.append(add_client(tmp_path / "keys", "alice", role=Role.CLIENT))
    finally:
        os.umask(former)
    assert [stat.S_IMODE(path.stat().st_mode) for path in secrets] == [0o600] * 4
    for entry in (tmp_path / "keys" / CLIENTS).iterdir():
        assert stat.S_IMODE(entry.stat().st_mode) == 0o644


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o620, 0o601])
def test_a_secret_that_others_can_read_is_refused(directory: Path, mode: int) -> None:
    secret = add_client(directory, "alice", role=Role.CLIENT)
    secret.chmod(mode)
    with pytest.raises(ConfigError, match=rf"mode {mode:o}.*chmod 600 {secret}"):
        load_keys(secret)
    secret.chmod(0o600)
    assert load_keys(secret).name == "alice"


def test_the_clusters_secret_is_as_guarded_as_a_clients(directory: Path) -> None:
    (directory / "cluster.key").chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_security(directory)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_secret_of_another_user_is_refused(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = directory / "operator.key"
    os.chown(secret, 12345, -1)
    with pytest.raises(ConfigError, match="another user"):
        load_keys(secret)
    os.chown(secret, 0, -1)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert load_keys(secret).name == "operator"


def test_secrets_are_not_in_messages() -> None:
    keys = Keys("alice", "public", "hidden", "cluster")
    assert "hidden" not in repr(keys)


def test_keys_are_not_overwritten_unless_that_is_asked_for(directory: Path) -> None:
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match="--force"):
        make_cluster_keys(directory, cluster="test")
    with pytest.raises(ConfigError, match="--force"):
        add_client(directory, "operator", role=Role.CLIENT)
    assert before == {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    add_client(directory, "operator", role=Role.OPERATOR, force=True)
    assert (directory / "operator.key").read_bytes() != before[directory / "operator.key"]


@pytest.mark.parametrize("name", ["", "a/b", "../x", ".hidden", "cluster", "a" * 65, "a b", "a\n"])
def test_a_client_has_a_name_that_is_good_for_a_file(directory: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be the name"):
        add_client(directory, name, role=Role.CLIENT)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "it has no name"),
        (b"\xff\xfe", "is not a key file"),
        (b"name = ", "is not a key file"),
        (b"a" * 5000, "too long"),
        (b'name = "a"\npublic = "short"\n', "public is not a key"),
        (b'name = "a"\npublic = "' + b"%" * 40 + b'"\n', "public is not a key"),
        (b"name = 1\n", "it has no name"),
    ],
)
def test_what_is_no_key_file_is_said_to_be_none(directory: Path, text: bytes, why: str) -> None:
    secret = directory / "operator.key"
    secret.write_bytes(text)
    with pytest.raises(ConfigError, match=why):
        load_keys(secret)


def test_a_missing_key_is_told_how_to_be_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="sinfonia keygen"):
        load_keys(tmp_path / "alice.key")


def test_a_process_of_another_cluster_does_not_start(directory: Path, tmp_path: Path) -> None:
    make_cluster_keys(tmp_path / "other", cluster="other")
    (tmp_path / "other" / "node.key").replace(directory / "node.key")
    with pytest.raises(ConfigError, match="another cluster"):
        load_security(directory)


def test_a_process_uses_its_own_pair_or_else_the_common_one(directory: Path) -> None:
    add_client(directory, "node0", role=Role.NODE)
    assert load_security(directory, "node0").keys.name == "node0"
    assert load_security(directory, "node1").keys.name == "node"


def test_an_allow_list_that_others_can_change_is_refused(directory: Path) -> None:
    (directory / CLIENTS).chmod(0o777)
    with pytest.raises(ConfigError, match="chmod go-w"):
        load_security(directory)


# --- which keys --------------------------------------------------------------------------------


def test_a_description_knows_its_keys_and_the_environment_those_of_endpoints(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = add_client(directory, "alice", role=Role.CLIENT)
    described = tmp_path / "cluster.toml"
    described.write_text(PLAIN_CLUSTER + '[security]\nkeys = "keys"\n', "utf-8")
    monkeypatch.setenv(KEYS_VARIABLE, str(alice))

    def name(cluster: str, chosen: Path | None = None) -> str | None:
        keys = resolve_keys(cluster, chosen)
        return None if keys is None else keys.name

    assert name(str(tmp_path)) == "operator"
    assert name("tcp://127.0.0.1:7000") == "alice"
    assert name(str(tmp_path), alice) == "alice"
    described.write_text(PLAIN_CLUSTER, "utf-8")
    assert name(str(tmp_path)) is None
    monkeypatch.delenv(KEYS_VARIABLE)
    assert name("tcp://127.0.0.1:7000") is None


@pytest.mark.parametrize("security", ["", 'keys = "keys"', "plain = true"])
def test_what_is_written_of_security_reads_as_the_same(tmp_path: Path, security: str) -> None:
    described = tmp_path / "cluster.toml"
    described.write_text(f"{PLAIN_CLUSTER}[security]\n{security}\n", "utf-8")
    config = ClusterConfig.load(described)
    described.write_text(config.to_toml(tmp_path), "utf-8")
    assert ClusterConfig.load(described) == config
    assert config.security.plain == (security == "plain = true")


def test_keys_and_plain_contradict_each_other(tmp_path: Path) -> None:
    described = tmp_path / "cluster.toml"
    described.write_text(PLAIN_CLUSTER + '[security]\nkeys = "keys"\nplain = true\n', "utf-8")
    with pytest.raises(ConfigError, match=r"security\.plain"):
        ClusterConfig.load(described)


# --- loopback ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("endpoint", "local"),
    [
        ("tcp://127.0.0.1:7000", True),
        ("tcp://127.9.9.9:7000", True),
        ("tcp://localhost:7000", True),
        ("tcp://[::1]:7000", True),
        ("tcp://lo:7000", True),
        ("tcp://0.0.0.0:7000", False),
        ("tcp://*:7000", False),
        ("tcp://10.0.0.1:7000", False),
        ("tcp://[::]:7000", False),
        ("tcp://eth0:7000", False),
        ("tcp://localhost.example.org:7000", False),
        ("tcp://127.0.0.1.example.org:7000", False),
    ],
)
def test_only_loopback_does_without_keys(endpoint: str, local: bool) -> None:
    assert is_loopback(endpoint) == local
    if not local:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        with pytest.raises(ConfigError, match=r"sinfonia keygen.*--plain"):
            bind_router(context, endpoint)
        context.term()


def test_plain_off_loopback_must_be_asked_for() -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    bind_router(context, "tcp://0.0.0.0:*", plain=True).close(0)
    context.term()


# --- the allow-list ----------------------------------------------------------------------------


def names(found: AllowList) -> set[str]:
    return {each.name for each in found.allowed.values()}


def test_the_list_is_looked_at_about_once_a_second(directory: Path) -> None:
    found = AllowList(directory / CLIENTS, now=0.0)
    add_client(directory, "alice", role=Role.CLIENT)
    found.refresh(LOOK_EVERY / 2)
    assert (names(found), found.changes) == ({"operator", "node"}, 0)
    found.refresh(LOOK_EVERY)
    assert (names(found), found.changes) == ({"operator", "node", "alice"}, 1)
    (directory / CLIENTS / "alice.pub").unlink()
    found.refresh(2 * LOOK_EVERY)
    assert (names(found), found.changes) == ({"operator", "node"}, 2)


def test_a_new_key_that_knocks_need_not_wait(directory: Path) -> None:
    found = AllowList(directory / CLIENTS, now=0.0)
    alice = load_keys(add_client(directory, "alice", role=Role.CLIENT))
    assert not found.admits(alice.public, LOOK_AGAIN_AFTER / 2)
    assert found.admits(alice.public, LOOK_AGAIN_AFTER)


def test_a_role_that_is_edited_counts(directory: Path) -> None:
    alice = load_keys(add_client(directory, "alice", role=Role.CLIENT))
    found = AllowList(directory / CLIENTS, now=0.0)
    entry = directory / CLIENTS / "alice.pub"
    entry.write_text(entry.read_text("utf-8").replace("client", "operator"), "utf-8")
    found.refresh(LOOK_EVERY)
    assert found.allowed[alice.public].role is Role.OPERATOR


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\0\0",
        'role = "god"\npublic = "{key}"',
        "role = []\npublic = 1",
        'role = "client"\npublic = "x"',
        'public = "{key}"\n' + "#" * 5000,
    ],
)
def test_an_entry_that_makes_no_sense_lets_no_key_in_and_keeps_no_key_out(
    directory: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    public = zmq.curve_keypair()[0].decode("ascii")
    entry = directory / CLIENTS / "mallory.pub"
    entry.write_text(text.replace("{key}", public), "utf-8")
    assert names(AllowList(directory / CLIENTS, now=0.0)) == {"operator", "node"}
    assert "mallory.pub" in caplog.text


def test_an_entry_that_others_can_change_does_not_count(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (directory / CLIENTS / "node.pub").chmod(0o666)
    assert names(AllowList(directory / CLIENTS, now=0.0)) == {"operator"}
    assert "chmod go-w" in caplog.text


def test_without_its_directory_the_list_is_empty(directory: Path) -> None:
    found = AllowList(directory / CLIENTS, now=0.0)
    (directory / CLIENTS).rename(directory / "elsewhere")
    found.refresh(LOOK_EVERY)
    assert not found.allowed


# --- roles -------------------------------------------------------------------------------------

FOR_CLIENTS = [
    ExecCommit(counter=1, epoch=0),
    GetDirectory(),
    GetStatus(),
    Unwatch([1]),
    Commit(MINE, True),
]
FOR_OPERATORS = [
    Recreate(MemoryNodeId(0)),
    HandOver(MemoryNodeId(0), ""),
    GetUnsettled(),
    Settle(OTHERS),
    GetImage(),
    GetLog(0),
]
FOR_NODES = [
    Probe(0, 0.0, 0.0),
    Appended(identity="", starts=0, config_epoch=0, last=0, sent_at=0.0),
]


@pytest.mark.parametrize("request_", [*FOR_CLIENTS, *FOR_OPERATORS, *FOR_NODES], ids=repr)
def test_a_role_may_send_what_it_is_for(request_: Request) -> None:
    refused = {role for role in Role if forbidden(role, batch(request_))}
    expected: set[Role] = set()
    if request_ in FOR_OPERATORS:
        expected = {Role.CLIENT}
    elif request_ in FOR_NODES:
        expected = {Role.CLIENT, Role.OPERATOR}
    assert refused == expected


def test_one_request_that_is_not_allowed_spoils_the_batch() -> None:
    found = forbidden(
        Role.CLIENT, batch(GetStatus(), ExecCommit(counter=1, epoch=0), Recreate(MemoryNodeId(0)))
    )
    assert found == "Recreate"


@pytest.mark.parametrize(
    "request_",
    [Commit(OTHERS, False), Resolve(OTHERS, [MemoryNodeId(0)]), Forget([MINE, OTHERS])],
    ids=repr,
)
def test_only_managers_settle_what_others_have_begun(request_: Request) -> None:
    assert "another client" in forbidden(Role.CLIENT, batch(request_))
    assert "another client" in forbidden(Role.OPERATOR, batch(request_))
    assert not forbidden(Role.NODE, batch(request_))


# --- the authenticator -------------------------------------------------------------------------


def test_a_client_incarnation_belongs_to_the_key_that_used_it_first(
    authenticator: Authenticator, directory: Path
) -> None:
    alice = load_keys(directory / "operator.key").public
    mallory = load_keys(directory / "node.key").public
    question = batch(GetStatus(), client=5)
    assert not authenticator.refusal(alice, question, 0.0)
    assert authenticator.refusal(mallory, question, 1.0) == "client incarnation of another key"
    assert not authenticator.refusal(alice, question, 2.0)
    assert not authenticator.refusal(mallory, batch(GetStatus(), client=6), 2.0)
    # Any client may ask questions that name no client.
    assert not authenticator.refusal(mallory, batch(GetStatus(), client=0), 2.0)
    assert not authenticator.refusal(alice, batch(GetStatus(), client=0), 2.0)


def test_one_key_cannot_take_all_sessions(
    authenticator: Authenticator, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authentication_module, "CLIENTS_PER_KEY_MAX", 3)
    authenticator.remembers = lambda _client: True
    greedy = load_keys(directory / "operator.key").public
    other = load_keys(directory / "node.key").public

    def refusal(public: str, client: int, now: float) -> str:
        return authenticator.refusal(public, batch(GetStatus(), client=client), now)

    assert [refusal(greedy, client, 0.0) for client in (1, 2, 3)] == ["", "", ""]
    assert refusal(greedy, 4, 1.0) == "too many client incarnations"
    assert not refusal(greedy, 1, CLIENT_SILENT_MAX)
    assert not refusal(other, 4, 1.0)
    # Clients that have long been silent make room.
    authenticator.refresh(CLIENT_SILENT_MAX + FORGET_EVERY)
    assert [refusal(greedy, client, CLIENT_SILENT_MAX) for client in (5, 6)] == ["", ""]
    assert refusal(greedy, 7, CLIENT_SILENT_MAX)


def test_short_lived_clients_of_one_key_make_room_for_each_other(
    authenticator: Authenticator, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of which the memory node remembers nothing are no matter."""
    monkeypatch.setattr(authentication_module, "CLIENTS_PER_KEY_MAX", 4)
    public = load_keys(directory / "operator.key").public
    authenticator.remembers = lambda client: client == 1
    for client in range(1, 100):
        now = client * MAKE_ROOM_EVERY
        assert not authenticator.refusal(public, batch(GetStatus(), client=client), now)
    authenticator.check_invariants()
    mallory = load_keys(directory / "node.key").public
    assert authenticator.refusal(mallory, batch(GetStatus(), client=1), now)


def test_a_key_that_is_not_on_the_list_is_not_heard(
    authenticator: Authenticator, directory: Path
) -> None:
    alice = load_keys(directory / "operator.key").public
    assert not authenticator.refusal(alice, batch(GetStatus()), 0.0)
    (directory / CLIENTS / "operator.pub").unlink()
    authenticator.refresh(LOOK_EVERY)
    assert authenticator.refusal(alice, batch(GetStatus()), LOOK_EVERY) == "revoked"
    assert authenticator.refusal(None, batch(GetStatus()), LOOK_EVERY) == "revoked"
    assert authenticator.refused.total() == 2


def test_the_log_is_not_flooded_by_refused_peers(
    authenticator: Authenticator, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(500):
        authenticator.refusal(None, batch(GetStatus()), 0.0)
    assert len(caplog.records) == 1
    assert authenticator.refused["revoked"] == 500
