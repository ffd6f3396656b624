"""Who is credited a month, once, and what undoes it."""

import json
from dataclasses import replace
from datetime import date
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartmail.core.credits import (
    CLAUSE,
    CreditRefused,
    Grounds,
    Reason,
    Subscriber,
    Undoing,
    audit,
    balance,
    credit_draft,
    credit_key,
    decide,
    reversal_key,
    reverse,
    subject_of,
)
from smartmail.core.ledger import Draft, Entry, Head, Kind, add_months, body_of, chain, head_of, shift_paid, verify
from smartmail.core.months import Month, first_minute, span_of

LONDON = ZoneInfo("Europe/London")
SPAN = span_of(Month(2026, 10), LONDON)
MAIL = Grounds("mail", "2026-10", SPAN, 1, "d" * 64, "v1", LONDON)
WEB = replace(MAIL, service="web")
ANN = Subscriber(
    subscription=7,
    customer=3,
    anchor_day=31,
    paid_through=date(2027, 1, 31),
    created=date(2025, 1, 31),
    first_minute=0,
    stays=(("mail", 0, None),),
)


def minute(day: int, month: int = 10) -> int:
    return first_minute(date(2026, month, day), LONDON)


def reason(subscriber: Subscriber, *grounds: Grounds, held: frozenset[str] = frozenset()) -> Reason:
    return decide(subscriber, grounds or (MAIL,), held).reason


# who


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({}, Reason.GRANTED, id="case_31 all month"),
        pytest.param({"first_minute": SPAN.end - 60}, Reason.GRANTED, id="case_31 an hour old at the month's end"),
        pytest.param({"first_minute": SPAN.end - 1}, Reason.GRANTED, id="case_31 its one minute"),
        pytest.param({"first_minute": SPAN.end}, Reason.ELSEWHERE, id="case_31 began as the month ended"),
        pytest.param({"end_minute": SPAN.first + 1}, Reason.GRANTED, id="case_31 ended in the month's first minute"),
        pytest.param({"end_minute": SPAN.first}, Reason.ENDED, id="case_36 ended before"),
        pytest.param({"stays": (("mail", 0, SPAN.first + 1),)}, Reason.GRANTED, id="case_31 moved away at once"),
        pytest.param({"stays": (("mail", 0, SPAN.first),)}, Reason.ELSEWHERE, id="case_40 moved away before"),
        pytest.param({"stays": (("web", 0, None),)}, Reason.ELSEWHERE, id="case_40 on another server"),
        pytest.param({"stays": ()}, Reason.ELSEWHERE, id="case_40 on no server"),
        pytest.param(
            {"stays": (("web", 0, SPAN.end - 1), ("mail", SPAN.end - 1, None))},
            Reason.GRANTED,
            id="case_40 moved there for the last minute",
        ),
        pytest.param({"closed_for": "abuse", "end_minute": SPAN.end}, Reason.ABUSE, id="case_36 closed for abuse"),
        pytest.param({"closed_for": "ended", "end_minute": SPAN.end - 9}, Reason.GRANTED, id="case_36 ended in it"),
        pytest.param({"trial_until": date(2026, 10, 31)}, Reason.TRIAL, id="case_36 on trial to the last day"),
        pytest.param({"trial_until": date(2026, 10, 30)}, Reason.GRANTED, id="case_36 on trial but for a day"),
        pytest.param(
            {"trial_until": date(2026, 10, 10), "end_minute": minute(11)},
            Reason.TRIAL,
            id="case_36 ended with its trial",
        ),
        pytest.param(
            {"trial_until": date(2026, 10, 10), "end_minute": minute(11) + 1},
            Reason.GRANTED,
            id="case_36 a minute longer than its trial",
        ),
        pytest.param({"paid_through": date(2020, 1, 31)}, Reason.GRANTED, id="case_36 long past due"),
        pytest.param({"paid_through": None}, Reason.GRANTED, id="case_36 never paid"),
    ],
)
def test_who_is_credited(changes: dict[str, object], expected: Reason) -> None:
    assert reason(replace(ANN, **changes)) is expected  # type: ignore[arg-type]


def test_the_terms_may_credit_trials_case_39() -> None:
    trial = replace(ANN, trial_until=date(2026, 12, 31))
    assert reason(trial) is Reason.TRIAL
    assert reason(trial, replace(MAIL, trial_credited=True)) is Reason.GRANTED


def test_two_services_below_in_one_month_are_one_credit_case_33() -> None:
    moved = replace(ANN, stays=(("mail", 0, minute(10)), ("web", minute(10), None)))
    granted = decide(moved, (MAIL, WEB), frozenset())
    assert (granted.reason, granted.grounds, granted.paid_to) == (Reason.GRANTED, MAIL, date(2027, 2, 28))
    assert granted.key == decide(moved, (WEB, MAIL), frozenset()).key


def test_a_trial_on_one_service_does_not_hide_the_paid_time_on_another_case_36() -> None:
    moved = replace(ANN, trial_until=date(2026, 10, 9), stays=(("mail", 0, minute(10)), ("web", minute(10), None)))
    assert reason(moved) is Reason.TRIAL
    assert reason(moved, MAIL, WEB) is Reason.GRANTED


def test_three_subscriptions_are_three_credits_case_32() -> None:
    keys = {decide(replace(ANN, subscription=number), (MAIL,), frozenset()).key for number in (1, 2, 3)}
    assert keys == {f"credit:{number}:2026-10:{CLAUSE}" for number in (1, 2, 3)}


def test_the_key_is_subscription_month_and_clause_alone_case_34() -> None:
    later = replace(MAIL, revision=5, record="e" * 64, terms="v9", service="web")
    key = decide(ANN, (MAIL,), frozenset()).key
    assert key == decide(ANN, (later,), frozenset()).key == credit_key(7, "2026-10")


def test_what_is_held_is_not_granted_again_case_34() -> None:
    key = credit_key(7, "2026-10")
    again = decide(ANN, (MAIL,), {key})
    assert (again.reason, again.paid_to, again.grounds) == (Reason.ALREADY, None, None)
    assert reason(ANN, held=frozenset({key, reversal_key(key)})) is Reason.REVERSED
    restored = frozenset({key, reversal_key(key), reversal_key(reversal_key(key))})
    assert reason(ANN, held=restored) is Reason.ALREADY
    with pytest.raises(ValueError, match="nothing was granted"):
        credit_draft(again, "anna", 1)


def test_a_new_owner_gets_no_second_credit_and_the_entry_keeps_the_first_case_36() -> None:
    granted = decide(ANN, (MAIL,), frozenset())
    assert reason(replace(ANN, customer=9), held=frozenset({granted.key})) is Reason.ALREADY
    assert json.loads(credit_draft(granted, "anna", 1).body)["customer"] == 3


def test_another_month_is_another_credit_case_33() -> None:
    november = replace(MAIL, month="2026-11", span=span_of(Month(2026, 11), LONDON))
    assert reason(ANN, november, held=frozenset({credit_key(7, "2026-10")})) is Reason.GRANTED


def test_nothing_is_decided_without_grounds() -> None:
    with pytest.raises(ValueError):
        decide(ANN, (), frozenset())


# how much


@pytest.mark.parametrize(
    ("paid", "created", "anchor", "months", "expected"),
    [
        pytest.param(date(2026, 1, 31), date(2025, 1, 31), 31, 1, date(2026, 2, 28), id="case_37 clamped"),
        pytest.param(date(2026, 2, 28), date(2025, 1, 31), 31, 1, date(2026, 3, 31), id="case_37 and back"),
        pytest.param(date(2027, 2, 28), date(2024, 2, 29), 29, 1, date(2027, 3, 29), id="case_37 an annual term"),
        pytest.param(date(2026, 5, 10), date(2025, 1, 10), 10, 2, date(2026, 7, 10), id="the terms say two months"),
        pytest.param(None, date(2026, 10, 20), 20, 1, date(2026, 11, 20), id="never paid: from its first day"),
        pytest.param(None, date(2026, 10, 20), 15, 1, date(2026, 12, 15), id="never paid: from its first anchor day"),
        pytest.param(None, date(2026, 1, 31), 31, 1, date(2026, 2, 28), id="never paid: clamped"),
    ],
)
def test_a_credit_moves_paid_through_by_calendar_months(
    paid: date | None, created: date, anchor: int, months: int, expected: date
) -> None:
    subscriber = replace(ANN, paid_through=paid, created=created, anchor_day=anchor)
    assert decide(subscriber, (replace(MAIL, credit_months=months),), frozenset()).paid_to == expected


def test_an_entry_says_why_and_from_what_to_what_case_38() -> None:
    draft = credit_draft(decide(ANN, (MAIL,), frozenset()), "anna", 5)
    assert (draft.kind, draft.key, draft.actor, draft.subject) == (
        Kind.CREDIT_GRANTED,
        "credit:7:2026-10:uptime",
        "anna",
        "subscription:7",
    )
    assert json.loads(draft.body) == {
        "subscription": 7,
        "customer": 3,
        "service": "mail",
        "month": "2026-10",
        "clause": "uptime",
        "revision": 1,
        "record": "d" * 64,
        "terms": "v1",
        "months": 1,
        "anchor_day": 31,
        "paid_from": "2027-01-31",
        "counted_from": "2027-01-31",
        "paid_to": "2027-02-28",
    }


# undoing


class Book:
    """A ledger and one subscription, as the store keeps them."""

    def __init__(self, subscriber: Subscriber = ANN) -> None:
        self.subscriber = subscriber
        self.entries: list[Entry] = []

    def append(self, draft: Draft, paid: date | None) -> Entry:
        self.entries += chain(head_of(self.entries), [draft])
        self.subscriber = replace(self.subscriber, paid_through=paid)
        return self.entries[-1]

    def grant(self, month: str = "2026-10") -> Entry:
        held = frozenset(entry.key for entry in self.entries)
        decision = decide(self.subscriber, (replace(MAIL, month=month),), held)
        return self.append(credit_draft(decision, "anna", 1), decision.paid_to)

    def undo(self, entry: Entry, today: date = date(2026, 12, 1), *, used: bool = False) -> Entry:
        return self.append(*reverse(entry, self.subscriber, Undoing("a mistake", "boris", 2, today, used)))

    @property
    def paid(self) -> date | None:
        return self.subscriber.paid_through


def test_a_reversal_is_an_entry_and_so_is_its_own_reversal_case_35() -> None:
    book = Book()
    credit = book.grant()
    assert book.paid == date(2027, 2, 28)
    undone = book.undo(credit)
    assert (undone.kind, undone.key, book.paid) == (Kind.CREDIT_REVERSED, f"reversal:{credit.key}", date(2027, 1, 31))
    restored = book.undo(undone)
    assert (restored.kind, book.paid) == (Kind.CREDIT_RESTORED, date(2027, 2, 28))
    book.undo(restored)
    assert book.paid == date(2027, 1, 31)
    assert [balance(book.entries[:count]).get(7, 0) for count in range(5)] == [0, 1, 0, 1, 0]
    assert verify(book.entries) == [] and audit(book.entries) == []


def test_a_reversal_among_other_credits_takes_one_month_case_35() -> None:
    book = Book()
    first = book.grant("2026-08")
    book.grant("2026-09")
    assert book.paid == date(2027, 3, 31)
    book.undo(first)
    assert book.paid == date(2027, 2, 28)
    assert audit(book.entries) == []


def test_a_date_off_the_anchor_finds_back_to_its_own_day_case_35() -> None:
    book = Book(replace(ANN, anchor_day=15, paid_through=date(2027, 1, 30)))
    credit = book.grant()
    assert book.paid == date(2027, 2, 28)
    book.undo(credit)
    assert book.paid == date(2027, 1, 30)


def test_a_credit_that_is_used_is_taken_back_only_on_demand_case_35() -> None:
    book = Book()
    credit = book.grant()
    with pytest.raises(CreditRefused, match="is used"):
        book.undo(credit, today=date(2027, 2, 1))
    assert book.undo(credit, today=date(2027, 1, 31)), "the day before it begins to be used it still goes"
    other = Book()
    other.undo(other.grant(), today=date(2027, 2, 20), used=True)
    assert other.paid == date(2027, 1, 31)


def test_the_credit_of_one_that_never_paid_goes_back_to_nothing_case_35() -> None:
    book = Book(replace(ANN, paid_through=None, created=date(2026, 10, 20)))
    credit = book.grant()
    undone = book.undo(credit, used=True)
    assert book.paid is None
    book.undo(undone)
    assert book.paid == date(2026, 11, 30)
    assert audit(book.entries) == []


def test_only_credits_are_reversed_and_only_for_a_reason() -> None:
    book = Book()
    credit = book.grant()
    with pytest.raises(CreditRefused, match="reason"):
        reverse(credit, book.subscriber, Undoing(" ", "boris", 2, date(2026, 12, 1)))
    other = book.append(Draft(Kind.MONTH_CLOSED, "month:mail:2026-10:1", "anna", "service:mail", "{}", 3), book.paid)
    with pytest.raises(CreditRefused, match="is no credit"):
        book.undo(other)


def test_closing_for_abuse_forfeits_what_was_credited_case_36() -> None:
    book = Book()
    book.grant()
    gone = Draft(Kind.SUBSCRIPTION_FORFEITED, "change:7:2", "anna", subject_of(7), body_of(subscription=7), 3)
    book.append(gone, book.paid)
    assert balance(book.entries) == {7: 0}
    assert reason(replace(book.subscriber, closed_for="abuse")) is Reason.ABUSE


# the sums can be checked by anybody


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"paid_to": "2027-03-31"}, "months apart"),
        ({"months": 12}, "months apart"),
        ({"subscription": 8}, "another subscription"),
        ({"month": "2026-11"}, "key is not"),
        ({"counted_from": "2027-02-28"}, "not counted from"),
        ({"paid_to": "tomorrow"}, "cannot be read"),
        ({"months": None}, "cannot be read"),
    ],
)
def test_an_audit_finds_a_credit_that_does_not_add_up_case_38(changes: dict[str, object], words: str) -> None:
    draft = credit_draft(decide(ANN, (MAIL,), frozenset()), "anna", 5)
    forged = replace(draft, body=body_of(**(json.loads(draft.body) | changes)))
    (line,) = audit(chain(Head(), [forged]))
    assert words in line


def test_an_audit_finds_a_reversal_of_nothing_case_38() -> None:
    book = Book()
    book.undo(book.grant())
    assert audit(book.entries[1:]) == ["entry 2: it does not undo what it names"]


# invariants


@st.composite
def subscribers(draw: st.DrawFn) -> Subscriber:
    edge = st.integers(SPAN.first - 3, SPAN.end + 3)
    near = st.sampled_from([SPAN.first - 1, SPAN.first, SPAN.first + 1, SPAN.end - 1, SPAN.end]) | edge
    begun = draw(near)
    cuts = sorted(draw(st.lists(near, min_size=2, max_size=6)))
    stays = tuple((draw(st.sampled_from(["mail", "web", "idle"])), first, end) for first, end in pairwise(cuts))
    return replace(
        ANN, first_minute=begun, end_minute=draw(st.none() | near.map(lambda at: max(at, begun))), stays=stays
    )


@given(subscriber=subscribers())
def test_lived_for_any_minute_of_the_month_is_credited_and_nobody_else_case_31(subscriber: Subscriber) -> None:
    """Against each minute near the edges asked by itself."""
    asked = {*range(SPAN.first, SPAN.first + 5), *range(SPAN.end - 5, SPAN.end)}
    asked |= {at for _, first, end in subscriber.stays for at in (first, (end or 0) - 1)}
    asked |= {subscriber.first_minute, (subscriber.end_minute or SPAN.end) - 1}

    def lived(at: int) -> bool:
        there = subscriber.first_minute <= at and (subscriber.end_minute is None or at < subscriber.end_minute)
        return (
            there
            and at in SPAN
            and any(
                service == "mail" and first <= at and (end is None or at < end)
                for service, first, end in subscriber.stays
            )
        )

    assert (reason(subscriber) is Reason.GRANTED) == any(lived(at) for at in asked)


@given(
    months=st.lists(st.sampled_from([f"2026-{number:02}" for number in range(1, 13)]), max_size=6),
    undone=st.lists(st.integers(0, 20), max_size=6),
    paid=st.dates(date(2027, 1, 1), date(2028, 12, 31)),
    anchor=st.integers(1, 31),
)
def test_paid_through_is_what_the_ledger_adds_up_to_case_38(
    months: list[str], undone: list[int], paid: date, anchor: int
) -> None:
    """Any credits and reversals, in any order: the date is the first one, moved by the ledger's balance."""
    book = Book(replace(ANN, anchor_day=anchor, paid_through=add_months(paid, 0, anchor)))
    first = book.paid
    for month in months:
        if credit_key(7, month) not in {entry.key for entry in book.entries}:
            book.grant(month)
    for pick in undone:
        open_ones = [one for one in book.entries if reversal_key(one.key) not in {two.key for two in book.entries}]
        if open_ones:
            book.undo(open_ones[pick % len(open_ones)], used=True)
    assert first is not None
    assert book.paid == shift_paid(first, balance(book.entries).get(7, 0), anchor)
    assert verify(book.entries) == [] and audit(book.entries) == []


def test_what_was_forfeited_is_not_reversed_too_case_36() -> None:
    book = Book()
    credit = book.grant()
    book.subscriber = replace(book.subscriber, closed_for="abuse")
    with pytest.raises(CreditRefused, match="forfeited"):
        book.undo(credit)
