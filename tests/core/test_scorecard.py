"""3-2-1-1-0: green only on what was verified within its window."""

from collections.abc import Callable
from dataclasses import replace
from zoneinfo import ZoneInfo

import pytest
from backupcases import (
    BAD_CHECK,
    DAY_MS,
    HOUR_MS,
    NOW,
    copied_listing,
    good_readings,
    good_records,
    make_plan,
    record,
)

from smartmail.core.backup_due import RunState
from smartmail.core.backup_plan import BackupPlan
from smartmail.core.backup_record import Activity, Reason, Record
from smartmail.core.backup_status import Reading, status
from smartmail.core.canonical import canonical
from smartmail.core.restic_location import take_apart
from smartmail.core.scorecard import Mark, Scorecard, medium, scorecard

MEDIA = {"onsite": "local", "offsite": "rest backup.example.org"}
Readings = dict[str, Reading]
UTC = ZoneInfo("UTC")


def card_of(
    readings: Readings | None = None,
    records: list[Record] | None = None,
    plan: BackupPlan | None = None,
    media: dict[str, str] | None = None,
    now_ms: int = NOW,
) -> Scorecard:
    plan = plan or make_plan()
    found = status(plan, readings or good_readings(), good_records() if records is None else records, UTC, now_ms)
    return scorecard(found, plan, MEDIA if media is None else media)


def marks(card: Scorecard) -> list[str]:
    return [f"{one.digit} {one.mark.value}" for one in card.digits]


ALL_MET = ["3 met", "2 met", "1 met", "1 met", "0 met"]


def test_all_of_it() -> None:
    card = card_of()
    assert marks(card) == ALL_MET and card.met and card.count == 5
    assert all(fact.command.startswith("smartmail backup ") for one in card.digits for fact in one.facts)
    assert all(one.oldest_ms() is not None for one in card.digits)
    assert canonical(card.to_json())


def without(activity: Activity, repository: str | None = None) -> list[Record]:
    return [
        one
        for one in good_records()
        if one.activity is not activity or (repository is not None and one.repository != repository)
    ]


@pytest.mark.parametrize(
    ("name", "records", "wanted"),
    [
        ("never drilled", lambda: without(Activity.DRILL), "0 not_proved"),
        ("never checked", lambda: without(Activity.CHECK, "offsite"), "0 not_proved"),
        ("never probed", lambda: without(Activity.PROBE), "1 not_proved"),
        (
            "a part of the data never read",
            lambda: [one for one in good_records() if one.facts.get("part") != 3],
            "0 not_proved",
        ),
        ("damage found", lambda: [*good_records(), BAD_CHECK], "0 not_met"),
        (
            "the last drill found something",
            lambda: [
                *good_records(),
                record(Activity.DRILL, NOW - HOUR_MS, state=RunState.FAILED, reason=Reason.NOT_PROVED),
            ],
            "0 not_met",
        ),
        (
            "the last drill could not be done",
            lambda: [
                *good_records(),
                record(Activity.DRILL, NOW - HOUR_MS, state=RunState.FAILED, reason=Reason.UNREACHABLE),
            ],
            "0 not_proved",
        ),
        (
            "a deletion was carried out",
            lambda: [
                *good_records(),
                record(
                    Activity.PROBE, NOW - 1, repository="offsite", state=RunState.FAILED, reason=Reason.NOT_APPEND_ONLY
                ),
            ],
            "1 not_met",
        ),
    ],
)
def test_one_digit_goes(name: str, records: Callable[[], list[Record]], wanted: str) -> None:
    card = card_of(records=records())
    assert [one for one in marks(card) if not one.endswith(" met") or one == wanted][:1] == [wanted], name
    assert card.count == 4 and not card.met


@pytest.mark.parametrize(("days", "wanted"), [(7, ALL_MET), (9, [*ALL_MET[:4], "0 not_proved"])])
def test_a_drill_counts_for_its_window(days: int, wanted: list[str]) -> None:
    records = [*without(Activity.DRILL), record(Activity.DRILL, NOW - days * DAY_MS, facts={"files": 5})]
    assert marks(card_of(records=records)) == wanted


def test_offsite_cannot_be_read() -> None:
    card = card_of({**good_readings(), "offsite": Reading(None, "unreachable")})
    assert marks(card)[:4] == ["3 not_proved", "2 not_proved", "1 not_proved", "1 not_met"]
    assert "could not be read: unreachable" in card.digits[2].facts[0].text


def test_offsite_is_stale() -> None:
    """What counts is the age of the snapshots, not that a copy said that it went well."""
    card = card_of(now_ms=NOW + 3 * DAY_MS)
    assert marks(card)[:3] == ["3 not_met", "2 not_met", "1 not_met"]


def test_a_copy_that_differs() -> None:
    good = good_readings()
    listing = tuple(replace(one, tree="f" * 64) for one in copied_listing())
    card = card_of({**good, "offsite": replace(good["offsite"], snapshots=listing)})
    assert marks(card)[:4] == ["3 not_met", "2 not_met", "1 not_met", "1 not_met"]


def test_two_on_one_kind_of_storage_are_one() -> None:
    assert marks(card_of(media={"onsite": "local", "offsite": "local"}))[1] == "2 not_met"
    assert marks(card_of(media={}))[1] == "2 not_met"


def test_nothing_configured() -> None:
    card = card_of({}, [], replace(make_plan(), jobs=(), repositories=()))
    assert card.count == 0 and {one.mark for one in card.digits} <= {Mark.NOT_MET, Mark.NOT_PROVED}


def test_no_repository_refuses_deletion() -> None:
    plan = make_plan()
    plain = replace(plan, repositories=tuple(replace(one, append_only=False) for one in plan.repositories))
    assert marks(card_of(plan=plain))[3] == "1 not_met"


@pytest.mark.parametrize(
    ("address", "wanted"),
    [
        ("/srv/backup", "this machine's own storage"),
        ("rest:https://user:secret@backup.example.org:8000/mx1/", "rest at backup.example.org:8000"),
        ("s3:https://s3.example.org/bucket", "s3 at s3.example.org"),
    ],
)
def test_medium(address: str, wanted: str) -> None:
    assert medium(take_apart(address)) == wanted
