"""Plans for tests: an onsite and an offsite repository in a folder, a Maildir job, and mail to fill it."""

from pathlib import Path

from smartmail.core.backup_due import Schedule
from smartmail.core.backup_plan import BackupPlan, CheckPlan, DrillPlan, JobKind, JobPlan, RepositoryPlan
from smartmail.core.mailbox_place import Layout
from smartmail.core.manifest import SamplePlan
from smartmail.core.restic import Repository
from smartmail.core.retention import KeepRule, Period

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
HOURLY = Schedule(every_minutes=60)


def make_repository(folder: Path, name: str, copy_from: str = "", *, offsite: bool = False) -> RepositoryPlan:
    """A repository in `folder`/`name`, with a password of its own; restic makes it."""
    folder.mkdir(parents=True, exist_ok=True)
    location, password = folder / f"{name}.location", folder / f"{name}.password"
    for file, text in ((location, str(folder / name)), (password, f"the password of {name}")):
        file.write_text(f"{text}\n")
        file.chmod(0o600)
    return RepositoryPlan(
        name,
        Repository(name, str(location), str(password)),
        (KeepRule(Period.DAILY, 7),),
        26 * HOUR_MS,
        CheckPlan(4, HOURLY, 30 * DAY_MS),
        copy_from=copy_from,
        offsite=offsite,
    )


def make_plan(folder: Path, jobs: tuple[JobPlan, ...] = ()) -> BackupPlan:
    """Onsite, offsite by copy, and (unless others are given) one job of the Maildirs in `folder`/vmail."""
    vmail = folder / "vmail"
    mail = JobPlan(
        "mail", JobKind.MAILDIR, "onsite", HOURLY, 1, (str(vmail),), Layout(f"{vmail}/{{domain}}/{{local}}/Maildir")
    )
    return BackupPlan(
        "mx1.example.net",
        "Europe/London",
        str(folder / "state"),
        "restic",
        "doveadm",
        jobs or (mail,),
        (make_repository(folder, "onsite"), make_repository(folder, "offsite", "onsite", offsite=True)),
        DrillPlan("offsite", HOURLY, SamplePlan(20, 2, 1), 8 * DAY_MS),
    )


def put_message(maildir: Path, number: int, folder: str = "", *, flags: str = "S", text: str = "") -> Path:
    """Write message `number` into a folder (".Sent", "" for INBOX) of a Maildir, which is made if need be."""
    home = maildir / folder if folder else maildir
    for part in ("cur", "new", "tmp"):
        (home / part).mkdir(parents=True, exist_ok=True)
    words = text or f"This is {number}."
    body = (
        f"From: a{number}@example.org\r\nTo: {maildir.parent.name}@example.net\r\nSubject: message {number}\r\n"
        f"Message-ID: <{number}@example.org>\r\nDate: Tue, 24 Nov 2026 02:00:00 +0000\r\n\r\n{words}\r\n"
    ).encode()
    file = home / "cur" / f"{1_764_000_000 + number}.M{number}P1.mx1,S={len(body)}:2,{flags}"
    file.write_bytes(body)
    return file
