"""A database in which a simulated month is stored, judged, closed and credited."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from simmonth import SERVICE, Plan

from smartmail.core.credits import Reason
from smartmail.core.month_record import MonthRecord
from smartmail.core.months import Month, Span, span_of
from smartmail.core.roster import checks_of
from smartmail.core.sla import Terms
from smartmail.monitor.control import CONTROL
from smartmail.monitor.months import Months, zone_of
from smartmail.store import customers, sla, subscriptions
from smartmail.store.agents import add_roster
from smartmail.store.database import Database
from smartmail.store.records import Act
from smartmail.store.samples import SampleStore, StoredSamples

TERMS = Terms("1", date(2020, 1, 1), "Europe/London")
PAID = date(2026, 12, 31)


def month_span(month: Month, terms: Terms = TERMS) -> Span:
    return span_of(month, zone_of(terms.zone))


def empty_database(folder: Path) -> Path:
    """A database of the newest schema, to be copied: an upgrade takes its time."""
    file = folder / "empty.db"
    with Database(f"sqlite:///{file}") as database:
        database.upgrade()
    return file


@dataclass
class World:
    """One database and its months. `month` is the one of the plan."""

    plan: Plan
    month: Month
    terms: Terms
    url: str
    database: Database
    samples: SampleStore
    months: Months

    @property
    def over_ms(self) -> int:
        """When the month may be closed."""
        return (month_span(self.month, self.terms).end + self.terms.grace_minutes) * 60_000

    def act(self, after_minutes: int = 0) -> Act:
        return Act("closer", "", (self.over_ms + after_minutes * 60_000) * 10**6)

    def judged(self, now_ms: int | None = None) -> MonthRecord:
        return self.months.judge(SERVICE, self.month, self.over_ms if now_ms is None else now_ms)

    def stored(self, span: Span | None = None) -> StoredSamples:
        """The samples of the service's checks, and the looks at control targets."""
        span = span or month_span(self.month, self.terms)
        return self.samples.read(span, (*checks_of(self.plan.history, SERVICE, span.first, span.end), CONTROL))

    def add_subscriptions(self, count: int) -> None:
        """Each lives on the service, and is paid through PAID."""
        lives = subscriptions.Change(paid_through=PAID, service=SERVICE, service_from=self.plan.span.first - 100_000)
        act = Act("anna", "", (self.plan.span.first - 100_000) * 60 * 10**9)
        with self.database.write() as connection:
            customer = customers.add_customer(connection, "Acme", "", act)
            for _ in range(count):
                number = customers.add_subscription(connection, customer, "standard", 31, act)
                subscriptions.change_subscription(connection, number, lives, act)

    def credit(self) -> list[Reason]:
        order = self.months.credit_order(self.month, self.act())
        return [one.reason for batch in self.months.credits(order, apply=True) for one in batch]


@contextmanager
def world(empty: Path, folder: Path, plan: Plan, month: Month, terms: Terms = TERMS) -> Iterator[World]:
    """A database of its own in `folder`, with the plan's rosters and announcements."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "smartmail.db"
    shutil.copy(empty, file)
    url = f"sqlite:///{file}"
    with Database(url) as database:
        with database.write() as connection:
            for one in plan.history:
                add_roster(connection, one)
            for entry in plan.announcements:
                sla.record_announcement(connection, entry)
        samples = SampleStore(url)
        yield World(plan, month, terms, url, database, samples, Months(database, samples, [terms]))
