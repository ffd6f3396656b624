"""How the backup stands: from listings and records, and never better than that."""

from dataclasses import replace
from zoneinfo import ZoneInfo

import pytest
from backupcases import (
    BAD_CHECK,
    DAY_MS,
    HOUR_MS,
    MADE,
    NOW,
    RUN,
    copied,
    copied_listing,
    good_readings,
    good_records,
    listing,
    make_plan,
    record,
    snapshot,
)
from hypothesis import given
from hypothesis import strategies as st

from smartmail.core.backup_due import Cause, RunState
from smartmail.core.backup_record import Activity, Reason, Record
from smartmail.core.backup_status import JobStatus, Reading, Status, status
from smartmail.core.canonical import canonical
from smartmail.core.points import Freshness

UTC = ZoneInfo("UTC")


def look(readings: dict[str, Reading] | None = None, records: list[Record] | None = None, now_ms: int = NOW) -> Status:
    return status(
        make_plan(),
        good_readings() if readings is None else readings,
        good_records() if records is None else records,
        UTC,
        now_ms,
    )


def line(found: Status, job: str, repository: str) -> JobStatus:
    return next(one for one in found.jobs if (one.job, one.repository) == (job, repository))


def states(found: Status) -> list[str]:
    return [one.state.value if one.state else "?" for one in found.jobs]


def test_a_good_night() -> None:
    found = look()
    assert [(one.repository, one.job) for one in found.jobs] == [
        ("onsite", "accounts"),
        ("onsite", "mail"),
        ("offsite", "accounts"),
        ("offsite", "mail"),
    ]
    assert states(found) == ["ok"] * 4
    mail = line(found, "mail", "onsite")
    assert (mail.whole_ms, mail.age_ms(NOW), mail.partial_ms, mail.copied_ms) == (MADE, 4 * HOUR_MS, None, None)
    assert mail.figures is not None and mail.figures.files == 900
    assert mail.ended is not None and mail.ended.took_ms == 60_000 and mail.cause in (Cause.NOT_YET, Cause.TIME_CAME)
    away = line(found, "mail", "offsite")
    assert (away.copied_ms, away.ended, away.cause, away.next_ms) == (MADE + 120_000, None, None, None)
    offsite = found.repository("offsite")
    assert (offsite.snapshots, offsite.octets, offsite.readable) == (2, 4_900, True)
    assert offsite.check.parts_read == 4 and offsite.check.covered(NOW)
    assert offsite.probed_ms == NOW - DAY_MS and found.repository("onsite").retained_ms == NOW - 3 * HOUR_MS
    assert found.drill.proved(NOW) and found.drill.files == 212
    assert canonical(found.to_json())


def test_never_run_shows_as_that() -> None:
    found = look({"onsite": Reading(()), "offsite": Reading(())}, [])
    assert states(found) == ["never"] * 4
    mail = line(found, "mail", "onsite")
    assert (mail.whole_ms, mail.age_ms(NOW), mail.ended, mail.figures, mail.cause) == (None,) * 4 + (Cause.NEVER_RUN,)
    assert not found.drill.proved(NOW) and found.drill.next_ms == NOW
    assert found.repository("onsite").check.parts_read == 0


def test_a_repository_that_cannot_be_read_is_not_empty() -> None:
    found = look({"onsite": good_readings()["onsite"], "offsite": Reading(None, "unreachable")})
    assert states(found) == ["ok", "ok", "?", "?"]
    assert found.repository("offsite").snapshots is None and found.repository("offsite").fault == "unreachable"
    missing = look({})
    assert states(missing) == ["?"] * 4 and missing.repository("onsite").fault == "it was not read"


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (RunState.PARTIAL, Reason.MESSAGES_MISSED),
        (RunState.FAILED, Reason.ITEMS_UNREADABLE),
        (RunState.STARTED, Reason.NONE),
    ],
)
def test_a_snapshot_is_whole_only_if_its_run_was(state: RunState, reason: Reason) -> None:
    """No tag says it: the catalogue does, for the copy as well."""
    records = [one for one in good_records() if (one.activity, one.job) != (Activity.BACKUP, "mail")]
    ended = None if state is RunState.STARTED else MADE + 60_000
    records.append(record(Activity.BACKUP, ended, job="mail", repository="onsite", state=state, reason=reason))
    found = look(records=records)
    assert states(found) == ["ok", "partial", "ok", "partial"]
    assert line(found, "mail", "onsite").partial_ms == MADE and line(found, "mail", "onsite").whole_ms is None
    # Taken up again, and well.
    records.append(record(Activity.BACKUP, MADE + 90_000, job="mail", repository="onsite"))
    assert states(look(records=records)) == ["ok"] * 4


def test_without_a_catalogue_the_repositories_still_count() -> None:
    assert states(look(records=[])) == ["ok"] * 4


def test_a_copy_that_lacks_a_snapshot_of_its_run() -> None:
    """The folders that were run again did not arrive."""
    again = snapshot("mail", MADE + 30_000, RUN, 1)
    readings = {"onsite": Reading((*listing(), again)), "offsite": Reading(copied_listing())}
    assert states(look(readings)) == ["ok", "ok", "ok", "partial"]
    readings["offsite"] = Reading((*copied_listing(), copied(again)))
    assert states(look(readings)) == ["ok"] * 4


def test_a_copy_with_another_tree() -> None:
    wrong = tuple(replace(one, tree="f" * 64) for one in copied_listing())
    found = look({"onsite": Reading(listing()), "offsite": Reading(wrong)})
    assert states(found)[2:] == ["partial", "partial"]
    assert len(found.repository("offsite").differing) == 2 and not found.repository("onsite").differing


def test_stale_and_in_the_future() -> None:
    assert states(look(now_ms=NOW + 3 * DAY_MS)) == ["stale"] * 4
    ahead = look({"onsite": Reading((snapshot("mail", NOW + 10 * DAY_MS),)), "offsite": Reading(())})
    mail = line(ahead, "mail", "onsite")
    assert (mail.state, mail.future, mail.whole_ms) == (Freshness.NEVER, 1, None)


def test_another_host_is_not_ours() -> None:
    other = tuple(snapshot(job, host="mx2.example.net") for job in ("mail", "accounts"))
    assert states(look({"onsite": Reading(other), "offsite": Reading(())})) == ["never"] * 4


def test_what_a_clock_that_was_ahead_wrote_proves_nothing() -> None:
    ahead = [
        record(Activity.DRILL, NOW + 3650 * DAY_MS, repository="offsite"),
        record(Activity.PROBE, NOW + 3650 * DAY_MS, repository="offsite"),
    ]
    found = look(records=ahead)
    assert found.drill.proved_ms is None and found.repository("offsite").probed_ms is None


def test_damage_ends_coverage() -> None:
    found = look(records=[*good_records(), BAD_CHECK]).repository("offsite").check
    assert found.damaged == (2,) and not found.covered(NOW)
    assert found.ended is not None and found.ended.words == "pack abcdef01 is damaged"


def test_locks_and_anomalies() -> None:
    readings = {**good_readings(), "onsite": Reading(listing(), lock_ms=NOW - HOUR_MS, lock_holder="mx1 pid 7")}
    facts = {"files": 3, "octets": 2, "added": 1, "unreadable": 4, "missed": 5, "anomalies": ["far fewer files"]}
    records = [*good_records(), record(Activity.BACKUP, NOW - 5, job="mail", repository="onsite", facts=facts)]
    found = look(readings, records)
    assert found.repository("onsite").lock_age_ms(NOW) == HOUR_MS
    mail = line(found, "mail", "onsite")
    assert mail.anomalies == ("far fewer files",)
    assert mail.figures is not None and (mail.figures.unreadable, mail.figures.missed) == (4, 5)


GOOD = good_records()


@given(st.permutations(GOOD))
def test_the_order_of_records_is_nothing(records: list[Record]) -> None:
    assert look(records=records) == look(records=GOOD)


@given(st.lists(st.sampled_from(listing()), max_size=4), st.integers(0, 60 * DAY_MS))
def test_fewer_snapshots_or_more_time_never_look_better(kept: list[object], later: int) -> None:
    order = ["ok", "partial", "stale", "never"]
    fewer = tuple(one for one in listing() if one in kept)
    found = look({"onsite": Reading(fewer), "offsite": Reading(copied_listing())}, now_ms=NOW + later)
    best = look(now_ms=NOW)
    for one, other in zip(states(found)[:2], states(best)[:2], strict=True):
        assert order.index(one) >= order.index(other)
