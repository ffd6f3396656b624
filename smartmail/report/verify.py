"""A published report computed again, offline: from what every location saw in every minute to the last figure.

What it finds wrong it names. It needs no database, no network and none of our keys; what it cannot know is whether the
locations told the truth, and whether the digest is the one that we published at the time: compare that.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date
from typing import Final

from smartmail.config.zones import TZ_VERSION, find_zone
from smartmail.core.canonical import Fields, JsonError, differences, digest_of, text, whole
from smartmail.core.credits import Reason, audit
from smartmail.core.ledger import Entry, seal, shift_paid
from smartmail.core.minutes import Verdict
from smartmail.core.month_record import MonthRecord, RecordError, build, from_json, to_json
from smartmail.core.months import Month, MonthError, days_of, span_of
from smartmail.report.build import Reader, from_record
from smartmail.report.model import Audience, Revision
from smartmail.report.published import FORMAT, figures

MOST_OCTETS: Final = 512 * 2**20
"""Of a file that is read at all."""
DAY_OFF: Final = 2 * 1440
"""Minutes that a month in some zone may begin before or after that of UTC, and more."""
MOST_DAYS: Final = 31
KEYS: Final = frozenset(
    ("format", "audience", "customer", "revision", "record", "record_digest", "figures", "seen", "credits", "digest")
)


class NotAReport(ValueError):
    """The octets are no published report; the message says why."""


@dataclass(frozen=True, slots=True)
class Verified:
    """What was found. problems: one line for each figure that is not what it says. remarks: what could not be told."""

    name: str
    record_digest: str
    digest: str
    problems: tuple[str, ...]
    remarks: tuple[str, ...] = ()


def read(octets: bytes) -> Mapping[str, object]:
    """The JSON object of a file. Raises NotAReport."""
    if len(octets) > MOST_OCTETS:
        raise NotAReport(f"it has {len(octets)} octets, and no report has more than {MOST_OCTETS}")
    try:
        value = json.loads(
            octets.decode(), object_pairs_hook=_object, parse_float=_no_fraction, parse_constant=_no_fraction
        )
    except RecursionError as error:
        raise NotAReport("it is nested too deep") from error
    except ValueError as error:
        raise NotAReport(f"it is no JSON that a report is written in: {error}") from error
    if not isinstance(value, dict) or "format" not in value:
        raise NotAReport("it has no format")
    if value["format"] != FORMAT:
        raise NotAReport(f"its format is not {FORMAT}")
    return value


def verify(value: Mapping[str, object]) -> Verified:
    """Compute everything again. Raises NotAReport where too little is there to begin with."""
    missing, unknown = KEYS - value.keys(), value.keys() - KEYS
    if missing:
        raise NotAReport(f"it lacks {', '.join(sorted(missing))}")
    problems = [f"{key}: does not belong there" for key in sorted(unknown)]
    problems += _digests(value)
    try:
        _bounded(Fields(value["record"], "record"))
        record = from_json(value["record"])
    except (RecordError, JsonError, MonthError) as error:
        told = (*problems, f"record: {error}")
        return Verified("unreadable", str(value["record_digest"])[:64], str(value["digest"])[:64], told)
    computed = build(record.evidence)
    problems += differences(value["record"], to_json(computed), "record")
    remarks: list[str] = []
    problems += _days(computed, remarks)
    problems += _figures(value, computed)
    for part, look in (("revision", _revision), ("seen", _seen), ("credits", _credits)):
        try:
            problems += [f"{part}.{line}" for line in look(value, computed)]
        except (ValueError, OverflowError) as error:
            problems.append(f"{part}: {error}")
    name = f"{computed.service}, {computed.month}"
    found = digest_of(value["record"]), digest_of({key: one for key, one in value.items() if key != "digest"})
    return Verified(name, *found, tuple(problems), tuple(remarks))


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise JsonError("a key stands twice in one object")
    return found


def _no_fraction(text_of: str) -> object:
    raise JsonError(f"{text_of[:20]} is no integer")


def _digests(value: Mapping[str, object]) -> list[str]:
    try:
        rest = digest_of({key: one for key, one in value.items() if key != "digest"})
        record = digest_of(value["record"])
    except JsonError as error:
        raise NotAReport(str(error)) from error
    return [
        f"{name}: published {str(said)[:80]!r}, computed {computed}"
        for name, said, computed in (
            ("digest", value["digest"], rest),
            ("record_digest", value["record_digest"], record),
        )
        if said != computed
    ]


def _bounded(record: Fields) -> None:
    """Its minutes are about those of its month: a hostile file may name any number, and planes are as long as that.
    Raises JsonError, MonthError."""
    month = span_of(Month.parse(record.text("month")), UTC)
    days = [Fields({"first": one[1], "end": one[2]}, "a day") for one in _triples(record.items("days"))]
    judged = record.fields("findings").fields("assessment").items("span")
    minutes = [one.number(key) for one in days for key in ("first", "end")]
    minutes += [whole(one, "a minute of the assessment") for one in judged]
    if not all(month.first - DAY_OFF <= minute <= month.end + DAY_OFF for minute in minutes):
        raise JsonError("its minutes are not those of its month in any zone")


def _triples(values: list[object]) -> list[list[object]]:
    found = [one for one in values if isinstance(one, list) and len(one) == 3]
    if len(found) != len(values) or len(found) > MOST_DAYS:
        raise JsonError("its days are not those of a month")
    return found


def _days(record: MonthRecord, remarks: list[str]) -> list[str]:
    """Are the days those of the month in its zone? By the rules of the version named, where we have that one."""
    evidence = record.evidence
    zone = find_zone(evidence.zone)
    if evidence.zone != evidence.terms.zone:
        return ["record.zone: not the zone of the terms"]
    before = find_zone(evidence.zone_before) if evidence.zone_before else None
    if evidence.zone_before and (before is None or evidence.zone_before == evidence.zone):
        return [f"record.zone_before: {evidence.zone_before!r} is no other time zone"]
    if zone is not None and evidence.days == days_of(evidence.month, zone, before):
        return []
    if evidence.tz_version == TZ_VERSION:
        return [f"record.days: not those of {evidence.month} in {evidence.zone}"]
    remarks.append(
        f"the days are not those of {evidence.month} in {evidence.zone} by the time zone rules {TZ_VERSION};"
        f" the report was made by {evidence.tz_version}"
    )
    return []


def _figures(value: Mapping[str, object], record: MonthRecord) -> list[str]:
    # Times of day are no figures: any zone will do.
    report = from_record(record, UTC, Revision(), Reader(Audience.EVERYBODY))
    return differences(value["figures"], figures(report), "figures")


def _revision(value: Mapping[str, object], record: MonthRecord) -> list[str]:
    fields = Fields(value["revision"], "revision")
    number, closed_ms = fields.number("number"), fields.number_or_none("closed_ms")
    problems = []
    if (number == 0) is not (closed_ms is None) or number < 0:
        problems.append("number: a closed month has a number and a time of closing, an open one neither")
    end, grace = record.evidence.span.end, record.evidence.terms.grace_minutes
    if closed_ms is not None and closed_ms < (end + grace) * 60_000:
        problems.append("closed_ms: before the grace of the terms was over")
    if number and record.evidence.until < end:
        problems.append("number: the month is closed, and its record ends before it does")
    changes = fields.items("changes")
    if changes and number < 2:
        problems.append("changes: there is no revision before")
    for index, one in enumerate(changes):
        problems += [f"changes[{index}]: {line}" for line in _change(one, record)]
    return problems


def _change(value: object, record: MonthRecord) -> list[str]:
    """The verdicts of now must be those of the record; those of before are the other revision's."""
    if not isinstance(value, list) or len(value) != 4:
        return ["not two minutes and two verdicts"]
    first, end = whole(value[0], "its first minute"), whole(value[1], "its end")
    before, after = (None if one is None else Verdict(text(one, "a verdict")) for one in value[2:])
    span = record.evidence.span
    if not span.first <= first < end <= span.end or before is after:
        return ["no change within the month"]
    wrong = [minute for minute in range(first, end) if record.assessment.verdict_at(minute) is not after]
    return [f"{len(wrong)} of its minutes are judged otherwise"] if wrong else []


def _seen(value: Mapping[str, object], record: MonthRecord) -> list[str]:
    lines = value["seen"]
    if not isinstance(lines, list) or len(lines) != len(record.findings.incidents):
        return ["not one list for each incident"]
    for one in lines:
        if not isinstance(one, list) or not all(isinstance(word, str) for word in one):
            return ["not lists of texts"]
    return []


def _credits(value: Mapping[str, object], record: MonthRecord) -> list[str]:
    fields = Fields(value["credits"], "credits")
    audience = Audience(text(value["audience"], "audience"))
    number = Fields(value["revision"], "revision").number("number")
    lines = fields.items("lines")
    problems: list[str] = []
    if audience is Audience.EVERYBODY and (lines or value["customer"]):
        problems.append("lines: what is for everybody names no customer")
    decisions: Counter[str] = Counter()
    for index, one in enumerate(lines):
        line = Fields(one, f"lines[{index}]")
        decisions[Reason(line.text("decision")).value] += 1
        problems += [f"lines[{index}]: {wrong}" for wrong in _credit(line, record, number)]
    problems += differences(fields.value("counts"), dict(decisions), "counts")
    subscriptions = [Fields(one, "a line").number("subscription") for one in lines]
    if len(set(subscriptions)) != len(subscriptions):
        problems.append("lines: a subscription stands there twice")
    return problems


def _credit(line: Fields, record: MonthRecord, number: int) -> list[str]:
    for key in ("plan", "decision", "hash"):
        line.text(key)
    for key in ("paid_from", "counted_from", "paid_to"):
        if line.value(key) is not None:
            date.fromisoformat(line.text(key))
    line.number("anchor_day")
    line.number_or_none("entry")
    if line.text("decision") != Reason.GRANTED.value:
        told = {"months": line.number("months"), "entry": line.value("entry"), "hash": line.text("hash")}
        told |= {key: line.value(key) for key in ("paid_from", "counted_from", "paid_to")}
        return [f"{key}: nothing was granted" for key, value in told.items() if value]
    problems = []
    if line.value("paid_to") is not None:
        counted = date.fromisoformat(line.text("counted_from"))
        paid_to = shift_paid(counted, line.number("months"), line.number("anchor_day"))
        if paid_to.isoformat() != line.text("paid_to"):
            problems.append(f"paid_to: published {line.text('paid_to')!r}, computed {paid_to.isoformat()!r}")
        if line.value("paid_from") not in (None, line.text("counted_from")):
            problems.append("paid_from: it is not what was counted from")
    # A credit of an earlier revision stands, whatever the later ones say.
    if not record.assessment.credit and number < 2:
        problems.append("decision: this month grants nothing")
    if "ledger" in line:
        problems += _entry(line, record, number)
    return problems


def _entry(line: Fields, record: MonthRecord, number: int) -> list[str]:
    """Its hash, its sum, and that it is about this month and says what the line says."""
    fields = line.fields("ledger")
    entry = Entry(
        seq=fields.number("seq"),
        at_ms=fields.number("at_ms"),
        kind=fields.text("kind"),
        key=fields.text("key"),
        actor=fields.text("actor"),
        subject=fields.text("subject"),
        body=fields.text("body"),
        prev=fields.text("prev"),
        hash=fields.text("hash"),
    )
    problems = [] if seal(entry) == entry.hash else ["ledger.hash: not that of the entry"]
    problems += [f"ledger: {wrong}" for wrong in audit([entry])]
    body = Fields(json.loads(entry.body), "ledger.body")
    said = {
        "subscription": line.value("subscription"),
        "months": line.value("months"),
        "anchor_day": line.value("anchor_day"),
        "paid_from": line.value("paid_from"),
        "counted_from": line.value("counted_from"),
        "paid_to": line.value("paid_to"),
        "month": str(record.month),
        "service": record.service,
    }
    if body.number("revision") == number:
        said["record"] = digest_of(to_json(record))
    problems += [f"ledger.body.{key}: not what the report says" for key, one in said.items() if body.value(key) != one]
    if (entry.seq, entry.hash) != (line.value("entry"), line.value("hash")):
        problems.append("entry: not the number and hash of the ledger's entry")
    return problems
