"""A month from its samples to its revision, anew with what comes late, and to the credit."""

import hashlib
import random
import shutil
from collections.abc import Collection, Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from smartmail.core.columns import StreamPlanes
from smartmail.core.credits import Reason, credit_key
from smartmail.core.ledger import verify
from smartmail.core.maintenance import Action, Announcement
from smartmail.core.month_record import MonthRecord, digest, recompute
from smartmail.core.months import Month, Span, span_of
from smartmail.core.outcome import Outcome
from smartmail.core.roster import CheckKind, CheckSpec, Roster
from smartmail.core.sample import Batch, Sample, encode_batch
from smartmail.core.sla import Result, Terms
from smartmail.monitor import months as months_module
from smartmail.monitor.months import CONTROL, Months, read_record, terms_at, zone_of
from smartmail.store import customers, ledger, sla, subscriptions
from smartmail.store.agents import add_roster
from smartmail.store.database import Database
from smartmail.store.errors import Conflict, Invalid, NotFound
from smartmail.store.records import Act
from smartmail.store.samples import SampleStore, StoredSamples

OCTOBER = Month(2026, 10)
LONDON = zone_of("Europe/London")
SPAN = span_of(OCTOBER, LONDON)
TERMS = Terms("1", date(2020, 1, 1), "Europe/London")
GRACE = TERMS.grace_minutes
PLACES = ("berlin", "toronto", "tokyo")
MX = CheckSpec("mx", "mail", CheckKind.MX, "mx.example", 25, PLACES)
IMAPS = CheckSpec("imaps", "mail", CheckKind.IMAPS, "imap.example", 993, PLACES)


def act(minute: int, reason: str = "") -> Act:
    """At the start of a minute."""
    return Act("anna", reason, minute * 60 * 10**9)


CLOSING = act(SPAN.end + GRACE)


class Kept:
    """Samples as planes: everything was seen up but what `down` (check -> half-open minutes) says; in `cut` a location
    abstains, and from `silent_from` on nobody says anything."""

    def __init__(self, down: dict[str, list[tuple[int, int]]], cut: dict[str, tuple[int, int]] | None = None) -> None:
        self.down = down
        self.cut = cut or {}
        self.silent_from = SPAN.end + 10**6

    def read(self, span: Span, checks: Collection[str] | None = None) -> StoredSamples:
        planes = {}
        for place in PLACES:
            abstained = span.mask(*self.cut.get(place, (0, 0)))
            for check in sorted(checks or ()):
                failed = sum(span.mask(*one) for one in self.down.get(check, []))
                seen = span.mask(span.first, self.silent_from) & ~abstained
                if check == CONTROL:
                    planes[check, place] = StreamPlanes(seen, 0, abstained, 0)
                else:
                    planes[check, place] = StreamPlanes(seen & ~failed, seen & failed, 0, 0)
        text = ",".join(f"{plane:x}" for stream in sorted(planes) for plane in planes[stream])
        return StoredSamples(planes, hashlib.sha256(text.encode()).hexdigest(), 0)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with Database(f"sqlite:///{tmp_path / 'store' / 'smartmail.db'}") as database:
        database.upgrade()
        with database.write() as connection:
            add_roster(connection, Roster(1, SPAN.first - 100_000, PLACES, (MX, IMAPS)))
        yield database


def judged(database: Database, samples: Kept, terms: Terms = TERMS) -> MonthRecord:
    return Months(database, samples, [terms]).judge("mail", OCTOBER, CLOSING.at_ns // 10**6)


def announce(database: Database, first: int, end: int, recorded: int, action: Action = Action.ANNOUNCE) -> None:
    with database.write() as connection:
        new = Announcement("w", action, "mail", first, end, recorded * 60_000, "anna", "servicing")
        sla.record_announcements(connection, [new])


# judging


def test_a_month_is_judged_from_what_is_stored_case_31(database: Database) -> None:
    record = judged(database, Kept({"mx": [(SPAN.first + 100, SPAN.first + 145)]}))
    assessment = record.assessment
    assert (assessment.eligible, assessment.down_minutes, assessment.unknown_minutes) == (44_700, 45, 0)
    assert (assessment.result, assessment.credit, assessment.allowed_down) == (Result.BREACHED, True, 44)
    assert recompute(record) == []
    assert judged(database, Kept({"mx": [(SPAN.first, SPAN.first + 44)]})).assessment.result is Result.MET


def test_overlapping_outages_of_two_checks_count_once(database: Database) -> None:
    record = judged(
        database, Kept({"mx": [(SPAN.first, SPAN.first + 40)], "imaps": [(SPAN.first + 10, SPAN.first + 44)]})
    )
    assert (record.assessment.down_minutes, record.assessment.result) == (44, Result.MET)


def test_a_location_whose_control_targets_fail_is_silenced_with_all_its_checks(database: Database) -> None:
    outage = (SPAN.first + 100, SPAN.first + 200)
    samples = Kept({"mx": [outage]}, cut={"berlin": outage, "toronto": outage})
    assessment = judged(database, samples).assessment
    assert (assessment.down_minutes, assessment.unknown_minutes) == (0, 100), "one witness of three is no quorum"


def test_probing_goes_on_in_maintenance_so_that_an_overrun_is_known_case_24(database: Database) -> None:
    first, end = SPAN.first + 5000, SPAN.first + 5060
    announce(database, first, end, first - 2880)
    record = judged(database, Kept({"mx": [(first + 10, end + 7)]}))
    assert (record.assessment.maintenance_minutes, record.assessment.down_minutes) == (60, 7)
    (incident,) = record.findings.incidents
    assert (incident.down_minutes, incident.excluded_minutes, incident.end) == (7, 50, end + 7)


def test_a_running_month_is_judged_up_to_now(database: Database) -> None:
    now = SPAN.first + 1000
    record = Months(database, Kept({"mx": [(now - 5, now)]}), [TERMS]).judge("mail", OCTOBER, now * 60_000)
    assert record.assessment.span == Span(SPAN.first, now)
    assert (record.assessment.down_minutes, record.assessment.up_minutes) == (5, 995)
    assert record.findings.incidents[0].end is None
    with pytest.raises(Conflict, match="has not begun"):
        Months(database, Kept({}), [TERMS]).judge("mail", OCTOBER, SPAN.first * 60_000)


def test_the_months_terms_are_those_in_force_on_its_first_day_case_39(database: Database) -> None:
    stricter = replace(TERMS, version="2", effective=date(2026, 10, 1), numerator=9999, denominator=10_000)
    later = replace(TERMS, version="3", effective=date(2026, 10, 2), numerator=1, denominator=2)
    months = Months(database, Kept({"mx": [(SPAN.first, SPAN.first + 5)]}), [TERMS, stricter, later])
    record = months.judge("mail", OCTOBER, CLOSING.at_ns // 10**6)
    assert (record.evidence.terms.version, record.assessment.result) == ("2", Result.BREACHED)
    with pytest.raises(Conflict, match="no terms"):
        Months(database, Kept({}), [later]).judge("mail", OCTOBER, CLOSING.at_ns // 10**6)


def test_what_does_not_exist_is_said(database: Database) -> None:
    months = Months(database, Kept({}), [TERMS])
    with pytest.raises(NotFound, match="no service web"):
        months.judge("web", OCTOBER, CLOSING.at_ns // 10**6)
    assert months.services(OCTOBER) == ("mail",)
    assert months.services(Month(2020, 1)) == ()
    for name in ("Europe/Nowhere", "../../etc/passwd", "", "Europe"):
        with pytest.raises(Invalid):
            zone_of(name)


# closing


def test_a_month_is_closed_after_the_grace_and_once_case_28_case_34(database: Database) -> None:
    months = Months(database, Kept({"mx": [(SPAN.first, SPAN.first + 45)]}), [TERMS])
    with pytest.raises(Conflict, match="may not be closed before 2026-11-04 00:00Z"):
        months.close("mail", OCTOBER, act(SPAN.end + GRACE - 1))
    revision = months.close("mail", OCTOBER, CLOSING)
    assert (revision.number, revision.result, revision.credited) == (1, "breached", True)
    with pytest.raises(Conflict, match="is closed"):
        months.close("mail", OCTOBER, CLOSING)
    with database.read() as connection:
        stored = sla.get_revision(connection, "mail", "2026-10")
        kinds = [entry.kind for entry in ledger.entries(connection)]
    assert stored == revision
    assert digest(read_record(stored)) == revision.digest
    assert kinds == ["terms_recorded", "month_closed"]


def test_two_closers_racing_make_one_revision_case_34(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second has judged the month before the first one's revision is there."""
    months, other = (Months(database, Kept({}), [TERMS]) for _ in range(2))
    inside = months.judge

    def judge_while_the_other_closes(service: str, month: Month, now_ms: int) -> MonthRecord:
        other.close(service, month, CLOSING)
        return inside(service, month, now_ms)

    monkeypatch.setattr(months, "judge", judge_while_the_other_closes)
    with pytest.raises(Conflict, match="the next is 2"):
        months.close("mail", OCTOBER, CLOSING)
    with database.read() as connection:
        assert [one.number for one in sla.revisions(connection)] == [1]
        assert verify(ledger.entries(connection)) == []


def test_a_record_that_was_tampered_with_is_not_used(database: Database) -> None:
    revision = Months(database, Kept({}), [TERMS]).close("mail", OCTOBER, CLOSING)
    forged = replace(revision, record=revision.record.replace('"result":"met"', '"result":"breached"'))
    with pytest.raises(Conflict, match="not what its digest says"):
        read_record(forged)


# restating


def test_late_samples_make_the_next_revision_with_a_diff_and_the_old_one_stays_case_28(database: Database) -> None:
    samples = Kept({"mx": [(SPAN.first, SPAN.first + 45)]})
    samples.silent_from = SPAN.end - 60
    months = Months(database, samples, [TERMS])
    first = months.close("mail", OCTOBER, CLOSING)
    assert not months.restate("mail", OCTOBER, CLOSING).differs, "nothing has come"
    samples.silent_from = SPAN.end
    samples.down["mx"] = [(SPAN.first, SPAN.first + 40)]
    found = months.restate("mail", OCTOBER, CLOSING)
    assert found.differs and found.number == 2
    assert [(one.first - SPAN.first, one.end - SPAN.first, one.before, one.after) for one in found.changes] == [
        (40, 45, "down", "up"),
        (44_640, 44_700, "unknown", "up"),
    ]
    with database.read() as connection:
        assert sla.get_revision(connection, "mail", "2026-10", 1) == first
        assert sla.get_revision(connection, "mail", "2026-10").result == "met"
        assert [entry.kind for entry in ledger.entries(connection)][-1] == "month_restated"


def test_nothing_announced_after_the_fact_changes_a_closed_month_case_19_case_28(database: Database) -> None:
    months = Months(database, Kept({"mx": [(SPAN.first, SPAN.first + 45)]}), [TERMS])
    months.close("mail", OCTOBER, CLOSING)
    announce(database, SPAN.first, SPAN.first + 45, SPAN.end + 9000, Action.NOTE)
    found = months.restated("mail", OCTOBER, CLOSING.at_ns // 10**6)
    assert found.changes == () and found.new.assessment == found.old.assessment
    assert found.differs, "the note is evidence too, and shown"


def test_a_change_of_the_time_zones_rules_moves_no_closed_month_case_02(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    months = Months(database, Kept({}), [TERMS])
    months.close("mail", OCTOBER, CLOSING)
    monkeypatch.setattr(months_module, "zone_of", lambda _name: zone_of("Asia/Tokyo"))
    monkeypatch.setattr(months_module, "TZ_VERSION", "2099z")
    assert not months.restated("mail", OCTOBER, CLOSING.at_ns // 10**6).differs


def test_terms_that_came_later_do_not_judge_a_closed_month_anew_case_39(database: Database) -> None:
    Months(database, Kept({}), [TERMS]).close("mail", OCTOBER, CLOSING)
    later = replace(TERMS, version="2", effective=date(2026, 11, 1), minimum_reporters=3)
    assert not Months(database, Kept({}), [TERMS, later]).restated("mail", OCTOBER, CLOSING.at_ns // 10**6).differs


def test_a_month_is_restated_only_as_long_as_its_terms_say_case_28(database: Database) -> None:
    months = Months(database, Kept({}), [TERMS])
    with pytest.raises(NotFound):
        months.restated("mail", OCTOBER, CLOSING.at_ns // 10**6)
    months.close("mail", OCTOBER, CLOSING)
    last = SPAN.end + TERMS.restate_days * 1440
    months.restated("mail", OCTOBER, last * 60_000)
    with pytest.raises(Conflict, match="over 90 days ago"):
        months.restated("mail", OCTOBER, last * 60_000 + 1)


# retention


def test_samples_are_needed_until_their_month_is_closed_and_cannot_be_restated_case_29(database: Database) -> None:
    begun = SPAN.first - 100_000
    months = Months(database, Kept({}), [TERMS])
    far = (SPAN.end + 2_000_000) * 60_000
    assert months.prunable_until(far) == begun
    months.close("mail", OCTOBER, CLOSING)
    assert months.prunable_until(far) == begun, "the months before it are not closed"
    for month in (Month(2026, 7), Month(2026, 8), Month(2026, 9)):
        months.close("mail", month, CLOSING)
    assert months.prunable_until(far) == SPAN.end
    end_of_september = SPAN.first
    restatable = (SPAN.end + TERMS.restate_days * 1440) * 60_000
    assert months.prunable_until(restatable) == end_of_september
    assert months.prunable_until(restatable + 1) == SPAN.end


def test_each_service_keeps_what_it_needs_and_one_that_is_gone_nothing_case_29(database: Database) -> None:
    web = CheckSpec("web", "web", CheckKind.HTTPS, "web.example", 443, PLACES)
    with database.write() as connection:
        add_roster(connection, Roster(2, SPAN.first, PLACES, (MX, web)))
        add_roster(connection, Roster(3, SPAN.first + 1000, PLACES, (MX,)))
    months = Months(database, Kept({}), [TERMS])
    far = (SPAN.end + 2_000_000) * 60_000
    for month in (Month(2026, 7), Month(2026, 8), Month(2026, 9), OCTOBER):
        months.close("mail", month, CLOSING)
    assert months.prunable_until(far) == SPAN.first, "web has not closed October"
    months.close("web", OCTOBER, CLOSING)
    assert months.prunable_until(far) == SPAN.end


# credits


@pytest.fixture
def peopled(database: Database) -> Database:
    """Three subscriptions, paid through 31 Dec 2026."""
    with database.write() as connection:
        customer = customers.add_customer(connection, "Acme", "", act(SPAN.first - 90_000))
        for _ in range(3):
            number = customers.add_subscription(connection, customer, "standard", 31, act(SPAN.first - 90_000))
            customers.set_paid_through(connection, customer, number, date(2026, 12, 31))
    return database


def credit(months: Months) -> list[Reason]:
    order = months.credit_order(OCTOBER, CLOSING)
    return [one.reason for batch in months.credits(order, apply=True) for one in batch]


def paid(database: Database) -> set[date | None]:
    with database.read() as connection:
        return {one.paid_through for one in subscriptions.list_subscriptions(connection)}


def test_a_breached_month_credits_those_who_lived_there_once_case_31_case_34(peopled: Database) -> None:
    months = Months(peopled, Kept({"mx": [(SPAN.first, SPAN.first + 45)]}), [TERMS])
    assert credit(months) == [], "nothing is closed"
    revision = months.close("mail", OCTOBER, CLOSING)
    assert credit(months) == [Reason.GRANTED] * 3
    assert credit(months) == [Reason.ALREADY] * 3
    assert paid(peopled) == {date(2027, 1, 31)}
    with peopled.read() as connection:
        entry = ledger.get_entry(connection, credit_key(1, "2026-10"))
    assert f'"record":"{revision.digest}"' in entry.body


def test_met_to_breach_grants_and_breach_to_met_takes_nothing_back_case_35(peopled: Database) -> None:
    samples = Kept({"mx": [(SPAN.first, SPAN.first + 44)]})
    months = Months(peopled, samples, [TERMS])
    months.close("mail", OCTOBER, CLOSING)
    assert credit(months) == []
    samples.down["mx"] = [(SPAN.first, SPAN.first + 45)]
    months.restate("mail", OCTOBER, CLOSING)
    assert credit(months) == [Reason.GRANTED] * 3
    samples.down["mx"] = []
    months.restate("mail", OCTOBER, CLOSING)
    assert credit(months) == []
    assert paid(peopled) == {date(2027, 1, 31)}
    with peopled.read() as connection:
        kinds = [entry.kind for entry in ledger.entries(connection)]
    assert "credit_reversed" not in kinds and kinds.count("month_restated") == 2


def test_an_undecided_month_goes_by_the_terms_word_case_39(peopled: Database) -> None:
    samples = Kept({})
    samples.silent_from = SPAN.end - 60
    months = Months(peopled, samples, [TERMS])
    assert months.close("mail", OCTOBER, CLOSING).result == "indeterminate"
    assert credit(months) == [Reason.GRANTED] * 3


# the same from the samples themselves


SHORT = Span(SPAN.first + 3000, SPAN.first + 3090)
"""The minutes of a service that lived for an hour and a half."""


def batches() -> list[Batch]:
    """Ninety minutes from three places: mx down for ten of them, tokyo cut off for twenty."""
    made = []
    for place in PLACES:
        for number, start in enumerate(range(SHORT.first, SHORT.end, 15)):
            samples = []
            for minute in range(start, start + 15):
                cut = place == "tokyo" and minute < SHORT.first + 20
                down = SHORT.first + 40 <= minute < SHORT.first + 50
                outcome = Outcome.TIMEOUT if down or cut else Outcome.OK
                samples.append(Sample("mx", minute * 60_000 + 7000, outcome, 20, "no answer" if down or cut else ""))
                control = Outcome.CONTROL_FAILED if cut else Outcome.OK
                samples.append(Sample(CONTROL, minute * 60_000 + 1000, control, 5, "cut off" if cut else ""))
            made.append(Batch(f"agent-{place}", place, number, (start + 15) * 60_000, 0, tuple(samples)))
    return made


def hand_in(url: str, given: list[Batch], *, seal: bool = False) -> SampleStore:
    store = SampleStore(url)
    store.start()
    for one in given:
        store.put(encode_batch(one), one, SHORT.end * 60_000).result(60)
        if seal:
            store.seal()
    store.stop()
    return store


def short_lived(folder: Path) -> str:
    url = f"sqlite:///{folder / 'smartmail.db'}"
    with Database(url) as database:
        database.upgrade()
        with database.write() as connection:
            add_roster(connection, Roster(1, SHORT.first, PLACES, (MX,)))
            add_roster(connection, Roster(2, SHORT.end, PLACES, ()))
    return url


def record_of(url: str) -> MonthRecord:
    with Database(url) as database:
        return Months(database, SampleStore(url), [TERMS]).judge("mail", OCTOBER, CLOSING.at_ns // 10**6)


def test_replays_in_any_order_give_the_same_record_case_25(tmp_path: Path) -> None:
    found = set()
    for seed in range(3):
        given = batches() * 2
        random.Random(seed).shuffle(given)
        url = short_lived(tmp_path / str(seed))
        hand_in(url, given, seal=seed == 1)
        record = record_of(url)
        found.add(digest(record))
        judged = record.assessment
        assert (judged.span, judged.up_minutes, judged.down_minutes) == (SHORT, 80, 10)
        assert [one.silenced for one in record.findings.locations if one.location == "tokyo"] == [20]
    assert len(found) == 1


def test_a_restored_backup_and_a_replay_give_the_same_record_case_30(tmp_path: Path) -> None:
    """The agents send again what the backup does not have; the roster and the samples before it are in it."""
    url = short_lived(tmp_path / "first")
    given = batches()
    hand_in(url, given[:7], seal=True)
    (tmp_path / "restored").mkdir()
    shutil.copytree(tmp_path / "first", tmp_path / "restored", dirs_exist_ok=True)
    hand_in(url, given[7:])
    restored = f"sqlite:///{tmp_path / 'restored' / 'smartmail.db'}"
    hand_in(restored, given[3:][::-1])
    assert digest(record_of(restored)) == digest(record_of(url))


def test_a_closed_month_keeps_its_record_when_its_samples_are_let_go_case_29(tmp_path: Path) -> None:
    url = short_lived(tmp_path / "store")
    store = hand_in(url, batches(), seal=True)
    with Database(url) as database:
        months = Months(database, store, [TERMS])
        revision = months.close("mail", OCTOBER, CLOSING)
        store.prune(months.prunable_until((SPAN.end + 200_000) * 60_000))
        with pytest.raises(NotFound):
            months.restated("mail", OCTOBER, CLOSING.at_ns // 10**6)
        with database.read() as connection:
            assert recompute(read_record(sla.get_revision(connection, "mail", "2026-10"))) == []
            assert sla.get_revision(connection, "mail", "2026-10") == revision


# a contract that changes its zone, and a service that is off the roster for a while


@pytest.mark.parametrize(("before", "after"), [("UTC", "Asia/Tokyo"), ("UTC", "America/New_York")])
def test_a_change_of_the_zone_puts_every_minute_into_one_month_case_39(
    database: Database, before: str, after: str
) -> None:
    terms = [replace(TERMS, zone=before), Terms("2", date(2026, 11, 1), after)]
    months = Months(database, Kept({"mx": [(SPAN.end - 2000, SPAN.end + 2000)]}), terms)
    late = (SPAN.end + 100_000) * 60_000
    october, november = (months.judge("mail", one, late) for one in (OCTOBER, OCTOBER.next()))
    assert october.assessment.span.end == november.assessment.span.first
    assert october.assessment.down_minutes + november.assessment.down_minutes == 4000, "no minute twice, and none lost"
    assert (october.evidence.zone_before, november.evidence.zone_before) == ("", before)
    assert recompute(november) == []
    assert terms_at(terms, november.assessment.span.first).version == "2"
    assert terms_at(terms, november.assessment.span.first - 1).version == "1"


def test_off_the_roster_over_the_months_border_hides_no_outage(database: Database) -> None:
    gone, back = SPAN.end - 5000, SPAN.end + 5000
    with database.write() as connection:
        add_roster(connection, Roster(2, gone, PLACES, ()))
        add_roster(connection, Roster(3, back, PLACES, (MX, IMAPS)))
    months = Months(database, Kept({}), [TERMS])
    october, november = (months.judge("mail", one, (SPAN.end + 60_000) * 60_000) for one in (OCTOBER, OCTOBER.next()))
    assert (october.assessment.span, october.assessment.unknown_minutes) == (SPAN, 5000)
    assert (november.assessment.span.first, november.assessment.unknown_minutes) == (SPAN.end, 5000)
    assert recompute(october) == recompute(november) == []


def test_a_service_that_comes_back_after_months_begins_anew(database: Database) -> None:
    with database.write() as connection:
        add_roster(connection, Roster(2, SPAN.first - 90_000, PLACES, ()))
        add_roster(connection, Roster(3, SPAN.first + 5000, PLACES, (MX, IMAPS)))
    assert judged(database, Kept({})).assessment.span == Span(SPAN.first + 5000, SPAN.end)


# who lived where before anybody wrote it down


def test_a_service_added_later_takes_no_credit_from_those_who_lived_on_the_only_one_case_40(
    peopled: Database,
) -> None:
    web = CheckSpec("web", "web", CheckKind.HTTPS, "web.example", 443, PLACES)
    months = Months(peopled, Kept({"mx": [(SPAN.first, SPAN.first + 45)]}), [TERMS])
    months.close("mail", OCTOBER, CLOSING)
    with peopled.write() as connection:
        add_roster(connection, Roster(2, SPAN.end + 10, PLACES, (MX, IMAPS, web)))
        change = subscriptions.Change(service="web", service_from=SPAN.end + 20)
        subscriptions.change_subscription(connection, 1, change, CLOSING)
    assert months.credit_order(OCTOBER, CLOSING).home == "mail"
    assert credit(months) == [Reason.GRANTED] * 3, "it moved after the month"
