"""A published report can be computed again by anybody, and no figure of it can be changed unseen."""

import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reportworld import BREACHED, INDETERMINATE, LONDON, SCENES, Scene, report_on
from typer import Typer
from typer.testing import CliRunner

from smartmail.core.canonical import canonical, digest_of
from smartmail.core.minutes import LocationVotes
from smartmail.core.month_record import build, difference
from smartmail.core.months import days_of
from smartmail.report.build import Reader, from_record
from smartmail.report.command import verify_report
from smartmail.report.model import Audience, Revision
from smartmail.report.published import octets, published
from smartmail.report.verify import NotAReport, read, verify

Path_ = tuple[str | int, ...]


def file_of(scene: Scene = BREACHED, audience: Audience = Audience.CUSTOMER) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(octets(report_on(scene, audience)))
    return loaded


def leaves(value: object, path: Path_ = ()) -> Iterator[tuple[Path_, object]]:
    if isinstance(value, dict):
        for key, one in value.items():
            yield from leaves(one, (*path, key))
    elif isinstance(value, list):
        for index, one in enumerate(value):
            yield from leaves(one, (*path, index))
    else:
        yield path, value


def other(value: object) -> object:
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, str):
        return f"{value}0" if value else "x"
    return 1


def changed(file: dict[str, Any], path: Path_, value: object) -> dict[str, Any]:
    made = copy.deepcopy(file)
    target: Any = made
    for step in path[:-1]:
        target = target[step]
    target[path[-1]] = value
    return made


def sealed(file: dict[str, Any]) -> dict[str, Any]:
    """The digests made right again, as a forger would."""
    made = {**file, "record_digest": digest_of(file["record"])}
    return {**made, "digest": digest_of({key: one for key, one in made.items() if key != "digest"})}


def problems(file: dict[str, Any]) -> tuple[str, ...]:
    return verify(read(json.dumps(file).encode())).problems


@pytest.mark.parametrize("audience", list(Audience))
def test_a_published_report_holds(any_scene: Scene, audience: Audience) -> None:
    assert problems(file_of(any_scene, audience)) == ()


def test_a_restated_report_holds() -> None:
    old, new = Scene("2026-10", silent=((100, 160),)).record(), Scene("2026-10").record()
    closed = (new.evidence.span.end + 5000) * 60_000
    report = from_record(new, report_on(BREACHED).clock.zone, Revision(2, closed, difference(old, new)), Reader())
    file = json.loads(octets(report))
    assert problems(file) == ()
    assert problems(sealed(changed(file, ("revision", "changes", 0, 3), "down"))) == (
        "revision.changes[0]: 60 of its minutes are judged otherwise",
    )


def test_any_value_is_held_by_the_digest() -> None:
    file = file_of()
    for path, value in list(leaves(file))[::9]:
        if path in (("digest",), ("format",)):
            continue
        found = problems(changed(file, path, other(value)))
        assert found and found[0].startswith("digest"), path
    assert problems(changed(file, ("digest",), "0" * 64))


def told_once(path: Path_) -> bool:
    """Of the days, which are all alike, only some."""
    return path[:2] != ("figures", "days") or path[2] in (0, 8, 17, 30)


FIGURES = [
    path
    for path, _ in leaves(file_of())
    if (path[0] == "figures" or path[:2] == ("record", "findings")) and told_once(path)
]


@pytest.mark.parametrize("path", FIGURES, ids=lambda path: ".".join(map(str, path)))
def test_every_figure_is_computed_again_even_if_the_digests_are_forged(path: Path_) -> None:
    file = file_of()
    value: Any = file
    for step in path:
        value = value[step]
    found = problems(sealed(changed(file, path, other(value))))
    assert found
    assert not any(line.startswith(("digest", "record_digest")) for line in found)


EVIDENCE = [
    (("record", "streams", "imaps", "london", "down"), ""),
    (("record", "streams", "mx", "amsterdam", "up"), ""),
    (("record", "silenced", "frankfurt"), "0+10"),
    (("record", "terms", "numerator"), 990),
    (("record", "terms", "minimum_reporters"), 4),
    (("record", "terms", "notice_minutes"), 5000),
    (("record", "terms", "indeterminate"), "provider"),
    (("record", "announcements", 0, "recorded_ms"), 1_792_000_000_000_000),
    (("record", "announcements", 0, "until_minute"), 29_900_000),
    (("record", "rosters", 0, "checks", 0, "sla"), False),
    (("record", "rosters", 0, "checks", 1, "locations"), ["london"]),
    (("record", "days", 0, 1), 29_000_000),
    (("record", "until"), 29_800_000),
]


@pytest.mark.parametrize(
    ("path", "value"), EVIDENCE, ids=lambda one: ".".join(map(str, one)) if isinstance(one, tuple) else None
)
def test_other_evidence_gives_other_figures(path: Path_, value: object) -> None:
    scene = INDETERMINATE if path[-1] == "indeterminate" else BREACHED
    assert problems(sealed(changed(file_of(scene), path, value)))


CREDITS = [
    (("credits", "lines", 0, "paid_to"), "2027-03-01"),
    (("credits", "lines", 0, "months"), 2),
    (("credits", "lines", 0, "counted_from"), "2026-12-01"),
    (("credits", "lines", 0, "paid_from"), "2026-12-01"),
    (("credits", "lines", 0, "anchor_day"), 9),
    (("credits", "lines", 0, "hash"), "0" * 64),
    (("credits", "lines", 0, "entry"), 43),
    (("credits", "lines", 0, "subscription"), 1002),
    (("credits", "lines", 0, "decision"), "on trial"),
    (("credits", "lines", 1, "decision"), "granted"),
    (("credits", "lines", 1, "decision"), "nonsense"),
    (("credits", "lines", 1, "paid_to"), "2027-03-01"),
    (("credits", "lines", 0, "ledger", "at_ms"), 1),
    (("credits", "lines", 0, "ledger", "actor"), "somebody"),
    (("credits", "lines", 0, "ledger", "prev"), "0" * 64),
    (("credits", "lines", 0, "ledger", "body"), "{}"),
    (("credits", "lines", 0, "ledger", "body"), "["),
    (("credits", "counts", "granted"), 2),
    (("credits", "counts"), {}),
    (("revision", "number"), 0),
    (("revision", "closed_ms"), None),
    (("revision", "closed_ms"), 1),
    (("revision", "changes"), [[29_700_000, 29_700_001, "up", "down"]]),
    (("seen"), []),
    (("audience",), "everybody"),
    (("audience",), "nobody"),
]


@pytest.mark.parametrize(("path", "value"), CREDITS)
def test_forged_credits_and_revisions_are_named(path: Path_ | str, value: object) -> None:
    where = (path,) if isinstance(path, str) else path
    found = problems(sealed(changed(file_of(), where, value)))
    assert found
    assert not any(line.startswith("digest") for line in found)


def test_what_does_not_belong_there_is_named() -> None:
    assert problems(sealed({**file_of(), "note": "x"})) == ("note: does not belong there",)


def test_a_month_of_days_that_are_not_its_own_is_named() -> None:
    """Days shifted by an hour, everything else computed from them."""
    scene = Scene("2026-06")
    record = scene.record()
    days = tuple((day, replace(span, first=span.first + 60, end=span.end + 60)) for day, span in record.evidence.days)
    from smartmail.config.zones import TZ_VERSION
    from smartmail.core.month_record import build

    shifted = build(replace(record.evidence, days=days, tz_version=TZ_VERSION, until=days[-1][1].end))
    report = from_record(shifted, report_on(scene).clock.zone, Revision(), Reader())
    assert problems(json.loads(octets(report))) == ("record.days: not those of 2026-06 in Europe/London",)
    # Of other rules than ours it cannot be said who is right.
    foreign = build(replace(shifted.evidence, tz_version="2019z"))
    report = from_record(foreign, report_on(scene).clock.zone, Revision(), Reader())
    found = verify(published(report))
    assert found.problems == () and "2019z" in found.remarks[0]


@pytest.mark.parametrize(
    "octets_",
    [
        b"",
        b"\xff\xfe",
        b"null",
        b"[]",
        b"{}",
        b'{"format": "other"}',
        b'{"format": "smartmail-sla-report-1"}',
        b'{"format": "smartmail-sla-report-1", "format": "smartmail-sla-report-1"}',
        b'{"format": 1.5}',
        b'{"format": NaN}',
        b"[" * 100_000,
        b'{"format":' + b"9" * 5000 + b"}",
        canonical(dict.fromkeys(file_of()) | {"format": "x"}),
    ],
)
def test_garbage_is_no_report(octets_: bytes) -> None:
    with pytest.raises(NotAReport):
        verify(read(octets_))


@pytest.mark.parametrize("key", ["record", "figures", "credits", "revision", "seen", "audience", "digest"])
@pytest.mark.parametrize("value", [None, 1, "x", [], {}, [[]], {"a": 1}])
def test_nonsense_in_the_right_place_is_told_and_does_not_break(key: str, value: object) -> None:
    assert problems(sealed({**file_of(), key: value}) if key != "digest" else {**file_of(), key: value})


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("record", "days", 30, 2), 10**15),
        (("record", "findings", "assessment", "span"), [0, 10**15]),
        (("record", "month"), "9998-12"),
        (("record", "days"), [["2026-10-01", 0, 1]] * 100_000),
    ],
)
def test_a_file_that_would_take_all_memory_is_refused(path: Path_, value: object) -> None:
    (line,) = problems(sealed(changed(file_of(), path, value)))
    assert line.startswith("record: its ")


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_a_changed_vote_never_passes(data: st.DataObject) -> None:
    file = file_of(SCENES["indeterminate"], Audience.EVERYBODY)
    check = data.draw(st.sampled_from(["imaps", "mx", "submission"]))
    place = data.draw(st.sampled_from(["amsterdam", "frankfurt", "london"]))
    start = data.draw(st.integers(14_000, 40_000))
    up = f"0+{start},{start + 1}+{43_200 - start - 1}"
    assert problems(sealed(changed(file, ("record", "streams", check, place, "up"), up)))


app = Typer()
app.command()(verify_report)


def ran(path: Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(path)])
    return result.exit_code, result.stdout, result.stderr


def test_the_command_needs_nothing_but_the_file(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(octets(report_on(BREACHED)))
    code, out, _ = ran(path)
    assert code == 0 and "cluster-eu-1, 2026-10: every figure is as computed" in out
    assert report_on(BREACHED).verification.record_digest in out


def test_the_command_names_each_wrong_figure_and_ends_with_1(tmp_path: Path) -> None:
    file = sealed(changed(file_of(), ("figures", "minutes", "down"), 3))
    path = tmp_path / "report.json"
    path.write_text(json.dumps(file))
    code, out, _ = ran(path)
    assert code == 1
    assert "figures.minutes.down: published 3, computed 133" in out and "1 place is not as computed" in out


def test_the_command_ends_with_2_for_garbage(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(b'{"format": "\x1b[31m"}')
    code, out, error = ran(path)
    assert (code, out) == (2, "") and "this is no report" in error and "\x1b" not in error


def test_no_escape_of_a_file_reaches_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(json.dumps(sealed({**file_of(), "\x1b[2J": 1})))
    code, out, _ = ran(path)
    assert code == 1 and "\x1b" not in out


def test_a_month_that_begins_by_another_zone_holds_and_cannot_be_made_to_begin_elsewhere() -> None:
    scene = replace(BREACHED, terms=replace(BREACHED.terms, zone="Europe/London"))
    evidence = scene.record().evidence
    later = evidence.span.first + 60
    days = days_of(evidence.month, LONDON, ZoneInfo("UTC"))
    assert days[0][1].first == later
    shifted = {
        check: {place: LocationVotes(one.up >> 60, one.down >> 60) for place, one in places.items()}
        for check, places in evidence.streams.items()
    }
    silenced = {place: plane >> 60 for place, plane in evidence.silenced.items()}
    record = build(replace(evidence, days=days, zone_before="UTC", streams=shifted, silenced=silenced))
    file = json.loads(octets(report_on(record)))
    assert problems(file) == () or all("tz" in one for one in problems(file))
    forged = sealed(changed(file, ("record", "zone_before"), "Asia/Tokyo"))
    assert any("zone_before" in one or "days" in one for one in (*problems(forged), *verify(forged).remarks))
