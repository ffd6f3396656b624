"""The report of a restore drill: what was restored from where, what of it was proved by its hash, what was wrong.

It is written in one way (canonical JSON) and signed as such, so that what was proved on a day cannot be said otherwise
later. A report with one finding, or with nothing proved of a job, proves nothing. Times are milliseconds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Final

from smartmail.core.canonical import Fields, JsonError, canonical, digest_of
from smartmail.core.manifest import Finding as ManifestFinding

FORMAT: Final = 1
PURPOSE: Final = "smartmail drill report v1"
MOST_FINDINGS: Final = 500
"""That are named; more are counted."""


class Fault(StrEnum):
    """What a drill can find; a closed list. Those up to FEWER are the manifest's, by the same words."""

    NOTHING_RESTORED = "nothing_restored"
    NOTHING_TO_PROVE = "nothing_to_prove"
    MISSING = "missing"
    SIZE = "size"
    HASH = "hash"
    DOUBLED = "doubled"
    FEWER = "fewer"
    NO_SNAPSHOT = "no_snapshot"
    """The repository has no snapshot of a job in this restore point."""
    NO_MANIFEST = "no_manifest"
    WRONG_MANIFEST = "wrong_manifest"
    """It was changed, or is of another run or job."""
    RESTORE_FAILED = "restore_failed"
    UNREADABLE = "unreadable"
    """What was restored cannot be opened as what it is: a mailbox, a message."""
    DUMP = "dump"
    """A database's dump does not load."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong. job: "" for the drill as a whole; where: a path, a mailbox, a table, or ""."""

    fault: Fault
    job: str
    where: str
    text: str


@dataclass(frozen=True, slots=True)
class JobProof:
    """One job. snapshots: their ids in the repository; manifest: its digest, "" without one. wanted: files that the
    manifest names; files, octets: how much was proved by hash. restore_ms: of the tool alone."""

    job: str
    kind: str
    snapshots: tuple[str, ...]
    manifest: str
    wanted: int
    files: int
    octets: int
    restored_files: int
    restore_ms: int


@dataclass(frozen=True, slots=True)
class MailboxProof:
    """A mailbox that was restored whole. expected: messages that the manifest wrote down; messages: that were opened.
    opened_by: with what."""

    job: str
    address: str
    expected: int
    messages: int
    folders: int
    octets: int
    opened_by: str


@dataclass(frozen=True, slots=True)
class DumpProof:
    """A database's dump that was loaded. how: in words, what was done with it."""

    job: str
    name: str
    tables: int
    rows: int
    how: str


@dataclass(frozen=True, slots=True)
class DrillReport:
    """One drill. run, point_ms: which restore point. seed: what the whole mailboxes were chosen by. more: findings
    beyond MOST_FINDINGS. octets_restored: all that was brought back, proved or not."""

    host: str
    repository: str
    offsite: bool
    run: str
    point_ms: int
    started_ms: int
    ended_ms: int
    tool: str
    seed: str
    octets_restored: int
    jobs: tuple[JobProof, ...]
    mailboxes: tuple[MailboxProof, ...]
    dumps: tuple[DumpProof, ...]
    findings: tuple[Finding, ...]
    more: int = 0

    @property
    def proved(self) -> bool:
        """Was something of every job proved, and nothing found?"""
        return bool(self.jobs) and all(one.files for one in self.jobs) and not self.findings and not self.more

    @property
    def files(self) -> int:
        """Files proved by their hash."""
        return sum(one.files for one in self.jobs)

    @property
    def octets(self) -> int:
        """Octets proved by their hash."""
        return sum(one.octets for one in self.jobs)

    @property
    def restored_files(self) -> int:
        """Files that came back."""
        return sum(one.restored_files for one in self.jobs)

    @property
    def restore_ms(self) -> int:
        """How long the restores took."""
        return sum(one.restore_ms for one in self.jobs)

    @property
    def took_ms(self) -> int:
        """How long all of it took."""
        return max(self.ended_ms - self.started_ms, 0)

    def to_json(self) -> dict[str, object]:
        """As it is signed."""
        found = asdict(self)
        return {"format": FORMAT, "proved": self.proved, **found}

    def octets_signed(self) -> bytes:
        """Canonical JSON."""
        return canonical(self.to_json())

    def digest(self) -> str:
        """SHA-256 of the canonical JSON, in hexadecimal."""
        return digest_of(self.to_json())

    def facts(self) -> dict[str, object]:
        """What the catalogue keeps of it."""
        return {
            "files": self.files,
            "octets": self.octets,
            "restored_files": self.restored_files,
            "restore_ms": self.restore_ms,
            "mailboxes": len(self.mailboxes),
            "findings": len(self.findings) + self.more,
            "report": self.digest(),
        }


class ReportError(ValueError):
    """This is no drill report; the message says why."""


def report_from_json(value: object) -> DrillReport:
    """Read what `to_json` gives, and nothing else. Raises ReportError."""
    try:
        fields = Fields(value, "the report")
        if fields.number("format") != FORMAT:
            raise ReportError(f"a report of format {fields.number('format')}; this reads {FORMAT}")
        found = DrillReport(
            fields.text("host"),
            fields.text("repository"),
            fields.flag("offsite"),
            fields.text("run"),
            fields.number("point_ms"),
            fields.number("started_ms"),
            fields.number("ended_ms"),
            fields.text("tool"),
            fields.text("seed"),
            fields.number("octets_restored"),
            tuple(_job(Fields(one, "a job")) for one in fields.items("jobs")),
            tuple(_mailbox(Fields(one, "a mailbox")) for one in fields.items("mailboxes")),
            tuple(_dump(Fields(one, "a dump")) for one in fields.items("dumps")),
            tuple(_finding(Fields(one, "a finding")) for one in fields.items("findings")),
            fields.number("more"),
        )
        if canonical(value) != found.octets_signed():
            raise ReportError("the report holds what does not belong there, or says that it proves what it does not")
    except JsonError as error:
        raise ReportError(str(error)) from None
    return found


def of_manifest(job: str, findings: Sequence[ManifestFinding]) -> tuple[Finding, ...]:
    """What a comparison found, as findings of a drill."""
    return tuple(Finding(Fault(one.fault.value), job, one.where, one.text) for one in findings)


def cut(findings: Sequence[Finding]) -> tuple[tuple[Finding, ...], int]:
    """Those that are named, sorted, and how many more there are: one of each kind and job comes first."""
    ordered = sorted(findings, key=lambda one: (one.job, one.fault.value, one.where, one.text))
    first: dict[tuple[str, Fault], Finding] = {}
    for one in ordered:
        first.setdefault((one.job, one.fault), one)
    leading = list(first.values())
    chosen = set(leading)
    rest = [one for one in ordered if one not in chosen]
    named = [*leading, *rest][:MOST_FINDINGS]
    return tuple(named), len(leading) + len(rest) - len(named)


def signed_text(digest: str) -> bytes:
    """The octets that are signed: what they are for, and the report's digest, a line each."""
    return f"{PURPOSE}\n{digest}\n".encode("ascii")


def envelope(report: DrillReport, key: str, signature: str) -> dict[str, object]:
    """The published file. key, signature: Ed25519, in base64."""
    return {
        "purpose": PURPOSE,
        "report": report.to_json(),
        "digest": report.digest(),
        "key": key,
        "signature": signature,
    }


def read_envelope(value: object) -> tuple[DrillReport, Mapping[str, str]]:
    """The report in a published file, with purpose, digest, key and signature as they are said. Raises ReportError;
    whether the digest and the signature are right is the caller's to see."""
    try:
        fields = Fields(value, "the file")
        said = {key: fields.text(key) for key in ("purpose", "digest", "key", "signature")}
        unknown = set(fields) - {*said, "report"}
        if unknown:
            raise ReportError(f"{sorted(unknown)[0]} does not belong into the file")
        if said["purpose"] != PURPOSE:
            raise ReportError(f"its purpose is not {PURPOSE!r}")
        return report_from_json(fields.value("report")), said
    except JsonError as error:
        raise ReportError(str(error)) from None


def _job(fields: Fields) -> JobProof:
    return JobProof(
        fields.text("job"),
        fields.text("kind"),
        fields.texts("snapshots"),
        fields.text("manifest"),
        *(fields.number(key) for key in ("wanted", "files", "octets", "restored_files", "restore_ms")),
    )


def _mailbox(fields: Fields) -> MailboxProof:
    return MailboxProof(
        fields.text("job"),
        fields.text("address"),
        fields.number("expected"),
        fields.number("messages"),
        fields.number("folders"),
        fields.number("octets"),
        fields.text("opened_by"),
    )


def _dump(fields: Fields) -> DumpProof:
    return DumpProof(
        fields.text("job"), fields.text("name"), fields.number("tables"), fields.number("rows"), fields.text("how")
    )


def _finding(fields: Fields) -> Finding:
    try:
        fault = Fault(fields.text("fault"))
    except ValueError:
        raise ReportError(f"there is no finding of the kind {fields.text('fault')!r}") from None
    return Finding(fault, fields.text("job"), fields.text("where"), fields.text("text"))
