"""How a run of restic ended, by version: the texts are what those versions print."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartmail.core.restic_version import (
    Feature,
    Kind,
    Outcome,
    Version,
    capabilities,
    classify,
    ignored_ids,
    parse_version,
    sign_of,
)

V14, V15, V16, V170, V171, V18, V19 = (
    Version(0, 14),
    Version(0, 15, 2),
    Version(0, 16, 4),
    Version(0, 17),
    Version(0, 17, 3),
    Version(0, 18),
    Version(0, 19, 1),
)
ALL = (V14, V15, V16, V170, V171, V18, V19)
TYPED = (V170, V171, V18, V19)
PACK = "c257e1daaa668156baf536c34e4cade3286e452e5ed4fb19c791f3277507b629"


def json_exit(code: int, text: str) -> str:
    return f'{{"message_type":"exit_error","code":{code},"message":"{text}"}}'


LOCKED = "unable to create lock in backend: repository is already locked by PID 18856 on vm by root (UID 0, GID 0)"
NO_CONFIG = "Fatal: unable to open config file: stat /srv/repo/config: no such file or directory"
EMPTY_14 = '{"message_type":"error","error":{"Op":"read","Path":"/x","Err":{}},"during":"archival","item":"/x"}'
EMPTY_18 = (
    '{"message_type":"error","error":{"message":"failed to save /x: read /x: no data read"},'
    '"during":"archival","item":"/x"}'
)
UNREAD = "Warning: at least one source file could not be read"
IGNORED = 'Ignoring "deadbeef": no matching ID found for prefix "deadbeef"'
RETRYING = (
    f"Load(<data/{PACK[:10]}>, 0, 0) returned error, retrying after 552ms: "
    f"open /srv/repo/data/c2/{PACK}: no such file or directory"
)

CASES = [
    ("no repository", Kind.SNAPSHOTS, V14, 1, [NO_CONFIG, "Is there a repository here?"], Outcome.NO_REPOSITORY),
    ("no repository", Kind.SNAPSHOTS, V18, 10, [], Outcome.NO_REPOSITORY),
    (
        "a repository that cannot be asked is not a missing one",
        Kind.SNAPSHOTS,
        V14,
        1,
        [
            'Fatal: unable to open config file: client.Head: Head "http://h/config": dial tcp 127.0.0.1:9: '
            "connect: connection refused"
        ],
        Outcome.UNREACHABLE,
    ),
    (
        "wrong storage password is not a missing repository",
        Kind.SNAPSHOTS,
        V14,
        1,
        ["Fatal: unable to open config file: unexpected HTTP response (401): 401 Unauthorized"],
        Outcome.REFUSED,
    ),
    ("locked", Kind.FORGET, V14, 1, [LOCKED, "lock was created at 2026-11-23 23:38:48"], Outcome.LOCKED),
    ("locked", Kind.FORGET, V18, 11, [json_exit(11, LOCKED)], Outcome.LOCKED),
    ("wrong password", Kind.LS, V14, 1, ["Fatal: wrong password or no key found"], Outcome.WRONG_PASSWORD),
    ("wrong password", Kind.LS, V170, 1, ["Fatal: wrong password or no key found"], Outcome.WRONG_PASSWORD),
    ("wrong password", Kind.LS, V171, 12, [], Outcome.WRONG_PASSWORD),
    ("code of a later version", Kind.LS, V14, 10, [NO_CONFIG], Outcome.FAILED),
    ("code of a later version", Kind.LS, V170, 12, [], Outcome.FAILED),
    ("empty stdin", Kind.BACKUP, V14, 1, [EMPTY_14, "Fatal: unable to save snapshot: snapshot is empty"],
     Outcome.EMPTY_INPUT),
    ("empty stdin", Kind.BACKUP, V18, 3, [EMPTY_18, json_exit(3, UNREAD)],
     Outcome.EMPTY_INPUT),
    ("unreadable files", Kind.BACKUP, V14, 3, [UNREAD], Outcome.PARTIAL),
    ("a missing source path", Kind.BACKUP, V14, 0, ["/srv/vmail does not exist, skipping"], Outcome.PARTIAL),
    ("a missing source path", Kind.BACKUP, V18, 0, ["/srv/vmail does not exist, skipping"], Outcome.PARTIAL),
    ("a missing source path", Kind.BACKUP, V19, 3, ["/srv/vmail does not exist, skipping"], Outcome.PARTIAL),
    ("no source at all", Kind.BACKUP, V14, 1, ["Fatal: all target directories/files do not exist"], Outcome.NO_SOURCE),
    ("no source at all", Kind.BACKUP, V18, 1, [json_exit(1, "Fatal: all source directories/files do not exist")],
     Outcome.NO_SOURCE),
    ("a path that vanishes at the start: Go's panic", Kind.BACKUP, V18, 2, ["panic: runtime error"], Outcome.FAILED),
    ("an id that was ignored", Kind.LS, V14, 0, [IGNORED], Outcome.NOT_FOUND),
    ("a copy of nothing", Kind.COPY, V14, 0, [IGNORED], Outcome.NOT_FOUND),
    ("forgotten before", Kind.FORGET, V14, 0, [IGNORED], Outcome.OK),
    ("no such snapshot", Kind.RESTORE, V14, 1, ['invalid id "deadbeef": no matching ID found for prefix "deadbeef"'],
     Outcome.NOT_FOUND),
    ("no such snapshot", Kind.RESTORE, V18, 1,
     [json_exit(1, "Fatal: failed to find snapshot: no matching ID found for prefix")], Outcome.NOT_FOUND),
    ("no such snapshot, asked for by its whole id", Kind.LS, V18, 1,
     [json_exit(1, f"Load(<snapshot/{PACK[:10]}>, 0, 0) failed: open /r/snapshots/{PACK}: no such file or directory")],
     Outcome.NOT_FOUND),
    ("a byte was flipped", Kind.CHECK, V14, 1,
     [f"Pack ID does not match, want {PACK}, got b9b0f02b", "Fatal: repository contains errors"], Outcome.DAMAGED),
    ("forget refused", Kind.FORGET, V19, 3, ["unexpected HTTP response (403): 403 Forbidden"], Outcome.REFUSED),
    ("forget in part", Kind.FORGET, V19, 3, ["unable to remove <snapshot/1234>"], Outcome.PARTIAL),
    ("forget has no exit 3 yet", Kind.FORGET, V18, 3, [], Outcome.FAILED),
    ("there already", Kind.INIT, V14, 1, ["Fatal: create repository at r failed: config file already exists"],
     Outcome.EXISTS),
    ("there already", Kind.INIT, V18, 1,
     [json_exit(1, "Fatal: create repository at r failed: Fatal: unable to open: config file already exists\\n")],
     Outcome.EXISTS),
    ("disk full", Kind.BACKUP, V18, 1,
     [json_exit(1, "Fatal: unable to save snapshot: write /r/data/06/06c9-tmp-1: no space left on device")],
     Outcome.NO_SPACE),
    ("no ssh server", Kind.SNAPSHOTS, V14, 1,
     ["subprocess ssh: ssh: connect to host 127.0.0.1 port 22: Connection refused",
      "Fatal: unable to open repository at sftp:u@h:/x: unable to start the sftp session, error: EOF"],
     Outcome.UNREACHABLE),
    ("wrong host key", Kind.SNAPSHOTS, V14, 1,
     ["subprocess ssh: Host key verification failed.",
      "Fatal: unable to open repository at sftp:u@h:/x: unable to start the sftp session, error: EOF"],
     Outcome.UNTRUSTED),
    ("key not taken by the ssh server", Kind.SNAPSHOTS, V18, 1,
     ["subprocess ssh: u@h: Permission denied (publickey).",
      json_exit(1, "Fatal: unable to open repository at sftp:u@h:/x: unable to start the sftp session")],
     Outcome.REFUSED),
    ("ssh ended without a word", Kind.SNAPSHOTS, V14, 1,
     ["Fatal: unable to open repository at sftp:u@h:/x: unable to start the sftp session, error: EOF"],
     Outcome.UNREACHABLE),
    ("unknown certificate", Kind.LS, V18, 1,
     [json_exit(1, "Fatal: unable to open config file: x509: certificate signed by unknown authority")],
     Outcome.UNTRUSTED),
    ("a pack is missing", Kind.CHECK, V14, 1, [f"pack {PACK}: does not exist", "Fatal: repository contains errors"],
     Outcome.DAMAGED),
    ("a pack is missing", Kind.CHECK, V18, 1,
     [f'{{"message_type":"error","message":"pack {PACK}: does not exist\\n"}}',
      json_exit(1, "Fatal: repository contains errors")],
     Outcome.DAMAGED),
    ("a byte was flipped", Kind.RESTORE, V14, 1,
     ["ignoring error for /a: ciphertext verification failed", "Fatal: There were 1 errors"], Outcome.DAMAGED),
    ("damage wins over a short fault of the network", Kind.CHECK, V14, 1,
     ["Load(<data/aa>, 0, 0) returned error, retrying: connection refused", f"pack {PACK}: does not exist",
      "Fatal: repository contains errors"], Outcome.DAMAGED),
    ("a check that could not read", Kind.CHECK, V14, 1,
     ["Load(<data/aa>, 0, 0) returned error, retrying: connection refused", "Fatal: repository contains errors"],
     Outcome.UNREACHABLE),
    ("retries of a pack that is gone", Kind.RESTORE, V14, 1, [RETRYING], Outcome.DAMAGED),
    ("a flag that is not known", Kind.BACKUP, V18, 1, [json_exit(1, "unknown flag: --bogus")], Outcome.UNSUPPORTED),
    ("cancelled with exit 1", Kind.LS, V18, 1, ["\x1b[2Ksignal interrupt received, cleaning up"], Outcome.INTERRUPTED),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "version", "code", "stderr", "expected"),
    [pytest.param(*case[1:], id=f"{case[0]}, {case[2]}") for case in CASES],
)
def test_an_end_has_one_outcome(kind: Kind, version: Version, code: int, stderr: list[str], expected: Outcome) -> None:
    assert classify(kind, version, code, stderr) is expected


@pytest.mark.parametrize("version", ALL, ids=str)
@pytest.mark.parametrize("kind", Kind)
def test_what_every_version_says_the_same_way(version: Version, kind: Kind) -> None:
    assert classify(kind, version, 0, []) is Outcome.OK
    assert classify(kind, version, 1, ["Fatal: something else"]) is Outcome.FAILED
    for code in (130, -2, 143, -15):
        assert classify(kind, version, code, []) is Outcome.INTERRUPTED
    for code in (137, -9):
        assert classify(kind, version, code, []) is Outcome.KILLED


@given(st.sampled_from(ALL), st.sampled_from(Kind), st.integers(-64, 255), st.lists(st.text()))
def test_a_code_that_is_not_known_is_a_failure(version: Version, kind: Kind, code: int, stderr: list[str]) -> None:
    known = {0, 1, 3, 10, 11, 12, 130, 137, 143, -2, -9, -15}
    outcome = classify(kind, version, code, stderr)
    if code not in known:
        assert outcome is Outcome.FAILED
    assert code == 0 or outcome is not Outcome.OK


@pytest.mark.parametrize("version", ALL, ids=str)
def test_typed_exits_begin_with_0_17(version: Version) -> None:
    assert capabilities(version).has(Feature.TYPED_EXITS) is (version in TYPED)
    assert capabilities(version).supported


def test_each_version_has_what_the_one_before_had() -> None:
    for older, newer in pairwise(ALL):
        assert capabilities(older).features <= capabilities(newer).features
    assert capabilities(V14).features == frozenset()
    assert capabilities(Version(1, 0)).features == frozenset(Feature)
    assert not capabilities(Version(0, 13, 9)).supported


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("restic 0.14.0 compiled with go1.19.8 on linux/amd64\n", V14),
        ("restic 0.18.0 compiled with go1.24.4 on linux/amd64", V18),
        ("restic 0.19.1-dev (compiled manually) compiled with go1.25 on linux/amd64", V19),
        ("restic 0.20 compiled", Version(0, 20, 0)),
        ("borg 1.2.4", None),
        ("", None),
    ],
)
def test_the_version_is_read(text: str, version: Version | None) -> None:
    assert parse_version(text) == version


def test_ids_that_were_passed_over_are_named() -> None:
    assert ignored_ids([IGNORED, "something", IGNORED.replace("deadbeef", "00000000")]) == ("deadbeef", "00000000")


@pytest.mark.parametrize(
    ("line", "expected"),
    [(LOCKED, Outcome.LOCKED), (json_exit(11, LOCKED), Outcome.LOCKED), ("loading", None), ('{"a"', None)],
)
def test_a_line_alone_may_tell_the_reason(line: str, expected: Outcome | None) -> None:
    assert sign_of(line) is expected


@pytest.mark.parametrize("line", sorted({line for case in CASES for line in case[4]}))
def test_a_line_that_decides_alone_is_kept_from_a_flood(line: str) -> None:
    judged = classify(Kind.LS, V14, 1, [line])
    restated = "sftp session" in line or "contains errors" in line
    assert sign_of(line) is not None or restated or judged in (Outcome.FAILED, Outcome.INTERRUPTED)
