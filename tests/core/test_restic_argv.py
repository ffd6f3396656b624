"""restic's command lines: what is in them, and above all what never is."""

import re
from collections.abc import Callable

import pytest

from smartmail.core import restic
from smartmail.core.restic import Backup, Command, CommandError, Prune, Repository, Restore
from smartmail.core.restic_version import Kind, Version, capabilities

OLD, MIDDLE, NEW = capabilities(Version(0, 14)), capabilities(Version(0, 16, 4)), capabilities(Version(0, 19, 1))
ONSITE = Repository("onsite", "/etc/s/onsite.repository", "/etc/s/onsite.password", lock_wait_s=300)
OFFSITE = Repository(
    "offsite",
    "/etc/s/offsite.repository",
    "/etc/s/offsite.password",
    variables=(("AWS_SHARED_CREDENTIALS_FILE", "/etc/s/aws"),),
    options=("s3.connections=8",),
    limit_upload=1000,
    certificate_file="/etc/s/ca.pem",
)
A, B = "a" * 64, "b" * 64
MAIL = Backup("mx1", ("job=mail", "run=20261003T020000Z-7f"), ("/srv/vmail",), excludes=("tmp", "dovecot.index*"))

EVERY: dict[str, Callable[[restic.Capabilities], Command]] = {
    "init": lambda known: restic.init(known, ONSITE),
    "init like": lambda known: restic.init(known, OFFSITE, ONSITE),
    "cat config": lambda known: restic.cat_config(known, ONSITE),
    "backup": lambda known: restic.backup(known, ONSITE, MAIL),
    "snapshots": lambda known: restic.snapshots(known, OFFSITE, host="mx1", tags=("job=mail", "run=1")),
    "ls": lambda known: restic.ls(known, ONSITE, A, ("/srv/vmail/-x",)),
    "find": lambda known: restic.find(known, ONSITE, ("-1.M*",), (A,)),
    "diff": lambda known: restic.diff(known, ONSITE, A, B),
    "copy": lambda known: restic.copy(known, ONSITE, OFFSITE, (A, B)),
    "forget": lambda known: restic.forget(known, OFFSITE, (A,)),
    "prune": lambda known: restic.prune(known, OFFSITE, Prune("unlimited", "10G", dry_run=True)),
    "check": lambda known: restic.check(known, OFFSITE, (3, 28)),
    "restore": lambda known: restic.restore(known, OFFSITE, Restore(A, "/restore", ("/srv/vmail/a",))),
    "stats": lambda known: restic.stats(known, ONSITE, mode="raw-data"),
    "unlock": lambda known: restic.unlock(known, ONSITE),
    "key list": lambda known: restic.key_list(known, ONSITE),
    "tag": lambda known: restic.tag(known, ONSITE, (A,), add=("partial=7",)),
    "list locks": lambda known: restic.list_locks(known, ONSITE),
    "cat lock": lambda known: restic.cat_lock(known, ONSITE, A),
}


@pytest.mark.parametrize("known", [OLD, MIDDLE, NEW], ids=lambda known: str(known.version))
@pytest.mark.parametrize("build", EVERY.values(), ids=EVERY)
def test_no_command_line_names_a_place_or_a_password(build: Callable[..., Command], known: restic.Capabilities) -> None:
    command = build(known)
    line = " ".join(command.argv)
    assert not re.search(r"-r |--repo[ =]|--password|--from-repo|/etc/s/(?!ca\.pem)", line)
    assert "--remove-all" not in line
    for name, value in command.environment.items():
        assert name.endswith("_FILE") and value.startswith("/etc/s/")
    assert set(command.environment.values()) <= set(command.secrets)
    assert " ".join(command.argv).startswith(command.kind.value)


@pytest.mark.parametrize(
    ("command", "argv"),
    [
        (
            restic.backup(OLD, ONSITE, MAIL),
            "backup --json --host=mx1 --tag=job=mail --tag=run=20261003T020000Z-7f --exclude=tmp"
            " --exclude=dovecot.index* -- /srv/vmail",
        ),
        (
            restic.backup(MIDDLE, ONSITE, Backup("mx1", (), stdin_name="/accounts.sql", parent=A[:8], dry_run=True)),
            f"backup --json --retry-lock=300s --host=mx1 --parent={A[:8]} --dry-run --stdin"
            " --stdin-filename=/accounts.sql",
        ),
        (
            restic.backup(OLD, ONSITE, Backup("mx1", (), paths_file="/var/lib/s/again", compression="max")),
            "backup --json --host=mx1 --compression=max --files-from-raw=/var/lib/s/again",
        ),
        (
            restic.copy(OLD, ONSITE, OFFSITE, (A, B)),
            f"copy --json --limit-upload=1000 -o s3.connections=8 --cacert=/etc/s/ca.pem -- {A} {B}",
        ),
        (restic.init(OLD, ONSITE), "init --json --repository-version=2"),
        (
            restic.init(OLD, OFFSITE, ONSITE),
            "init --json --limit-upload=1000 -o s3.connections=8 --cacert=/etc/s/ca.pem --repository-version=2"
            " --copy-chunker-params",
        ),
        (
            restic.snapshots(OLD, ONSITE, host="mx1", tags=("job=mail", "run=1")),
            "snapshots --json --no-lock --host=mx1 --tag=job=mail,run=1",
        ),
        (restic.ls(OLD, ONSITE, A, ("/-x",)), f"ls --json --no-lock --recursive -- {A} /-x"),
        (restic.check(OLD, ONSITE, (3, 28), with_cache=True), "check --json --with-cache --read-data-subset=3/28"),
        (restic.restore(OLD, ONSITE, Restore(A, "/r", if_changed=True)), f"restore --json --target=/r --verify -- {A}"),
        (
            restic.restore(NEW, ONSITE, Restore(A, "/r", subfolder="/srv/a", verify=False, if_changed=True)),
            f"restore --json --retry-lock=300s --target=/r --overwrite=if-changed -- {A}:/srv/a",
        ),
        (restic.forget(OLD, ONSITE, (A,), dry_run=True), f"forget --json --dry-run -- {A}"),
        (restic.cat_lock(OLD, ONSITE, A), f"cat lock --json --no-lock -- {A}"),
        (restic.version_command(), "version"),
    ],
)
def test_a_command_line_in_full(command: Command, argv: str) -> None:
    assert " ".join(command.argv) == argv


def test_a_copy_has_two_repositories_each_with_its_own_key() -> None:
    assert dict(restic.copy(OLD, ONSITE, OFFSITE, (A,)).environment) == {
        "RESTIC_REPOSITORY_FILE": "/etc/s/offsite.repository",
        "RESTIC_PASSWORD_FILE": "/etc/s/offsite.password",
        "RESTIC_FROM_REPOSITORY_FILE": "/etc/s/onsite.repository",
        "RESTIC_FROM_PASSWORD_FILE": "/etc/s/onsite.password",
        "AWS_SHARED_CREDENTIALS_FILE": "/etc/s/aws",
    }


def test_two_accounts_of_one_storage_cannot_be_in_one_copy() -> None:
    other = Repository("other", "/r", "/p", variables=(("AWS_SHARED_CREDENTIALS_FILE", "/etc/s/aws2"),))
    with pytest.raises(CommandError, match="offsite and other both need AWS_SHARED_CREDENTIALS_FILE"):
        restic.copy(OLD, other, OFFSITE, (A,))


@pytest.mark.parametrize(
    "build",
    [
        lambda: restic.copy(OLD, ONSITE, OFFSITE, ()),
        lambda: restic.forget(OLD, ONSITE, ()),
        lambda: restic.forget(OLD, ONSITE, ("latest",)),
        lambda: restic.forget(OLD, ONSITE, ("--prune",)),
        lambda: restic.tag(OLD, ONSITE, (A,)),
        lambda: restic.tag(OLD, ONSITE, (A,), add=("a,b",)),
        lambda: restic.backup(OLD, ONSITE, Backup("mx1", ())),
        lambda: restic.backup(OLD, ONSITE, Backup("mx1", (), ("/a",), stdin_name="/b")),
        lambda: restic.backup(OLD, ONSITE, Backup("", (), ("/a",))),
        lambda: restic.backup(OLD, ONSITE, Backup("mx1", (), ("relative",))),
        lambda: restic.backup(OLD, ONSITE, Backup("mx1", (), ("/a\0b",))),
        lambda: restic.backup(OLD, ONSITE, Backup("mx1", (), ("/a",), compression="better")),
        lambda: restic.backup(capabilities(Version(0, 16, 3)), ONSITE, Backup("mx1", (), ("/a",), compression="max")),
        lambda: restic.restore(OLD, ONSITE, Restore(A, "/r", subfolder="/a")),
        lambda: restic.check(OLD, ONSITE, (0, 4)),
        lambda: restic.check(OLD, ONSITE, (5, 4)),
        lambda: restic.stats(OLD, ONSITE, mode="everything"),
        lambda: restic.find(OLD, ONSITE, (), (A,)),
        lambda: restic.unlock(capabilities(Version(0, 13)), ONSITE),
        lambda: Repository("x", "relative", "/p"),
        lambda: Repository("x", "/r", "/p", variables=(("AWS_SECRET_ACCESS_KEY", "s"),)),
        lambda: Repository("x", "/r", "/p", variables=(("RESTIC_PASSWORD", "s"),)),
        lambda: Repository("x", "/r", "/p", options=("--password-file=/x",)),
        lambda: Repository("x", "/r", "/p", options=("rest.url=https://u:secret@host/",)),
        lambda: Repository("x", "/r", "/p", limit_upload=-1),
    ],
)
def test_what_must_not_be_asked_cannot_be(build: Callable[[], object]) -> None:
    with pytest.raises(CommandError):
        build()


def test_exclusive_locks_and_progress_are_known() -> None:
    exclusive = {build(OLD).kind for build in EVERY.values() if build(OLD).exclusive}
    assert exclusive == {Kind.FORGET, Kind.PRUNE, Kind.CHECK, Kind.TAG}
    assert not EVERY["restore"](OLD).reports_progress and EVERY["restore"](NEW).reports_progress
    assert EVERY["check"](OLD).reports_progress and not EVERY["check"](NEW).reports_progress


def test_a_path_as_a_pattern_matches_only_itself() -> None:
    assert restic.literal("/srv/a[1]/*?\\b") == "/srv/a\\[1]/\\*\\?\\\\b"


@pytest.mark.parametrize(
    ("line", "clean"),
    [
        ("Head https://user:p%40ss@h/config: refused", "Head https://user:***@h/config: refused"),
        ("rest:http://:secret@h/", "rest:http://:***@h/"),
        ("at https://h:8000/x by a@b", "at https://h:8000/x by a@b"),
    ],
)
def test_passwords_of_addresses_are_blotted_out(line: str, clean: str) -> None:
    assert restic.redacted(line) == clean
