"""Standing on its way: plan the moves, show them, apply them. A plan is a value, so a dry run cannot act."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Table, insert, select, update
from sqlalchemy.sql.elements import ColumnElement

from smartmail.core.standing import Billing, Conduct, MoveRefused, move_billing, move_conduct
from smartmail.store import schema
from smartmail.store.changes import ChangeKind, bump
from smartmail.store.errors import Conflict, Invalid
from smartmail.store.records import (
    AccountRecord,
    Act,
    Axis,
    CustomerRecord,
    DomainRecord,
    StandingChange,
    Subject,
)


@dataclass(frozen=True, slots=True)
class Move:
    """One step on one axis. ref: the id of an account or customer, the name of a domain. name: as a person
    knows it."""

    subject: Subject
    ref: str
    name: str
    axis: Axis
    from_state: str
    to_state: str

    def __str__(self) -> str:
        return f"{self.subject} {self.name}: {self.axis} {self.from_state} -> {self.to_state}"


def account_moves(
    account: AccountRecord, *, billing: Billing | None = None, conduct: Conduct | None = None
) -> tuple[Move, ...]:
    """What to do to get there; empty when it stands there already. Raises Conflict for a move that the
    tables do not know."""
    moves = []
    if billing is not None and _moves(account.address, account.billing, billing):
        moves.append((Axis.BILLING, account.billing.value, billing.value))
    if conduct is not None and _moves(account.address, account.conduct, conduct):
        moves.append((Axis.CONDUCT, account.conduct.value, conduct.value))
    return tuple(Move(Subject.ACCOUNT, str(account.id), account.address, *move) for move in moves)


def customer_moves(
    customer: CustomerRecord, *, billing: Billing | None = None, closed: bool | None = None
) -> tuple[Move, ...]:
    """As `account_moves`; a customer's conduct is good or closed. Raises Conflict for a move that the
    tables do not know."""
    moves = []
    if billing is not None and _moves(customer.name, customer.billing, billing):
        moves.append((Axis.BILLING, customer.billing.value, billing.value))
    if closed is not None:
        moves += _closing(customer.closed_ns, closed)
    return tuple(Move(Subject.CUSTOMER, str(customer.id), customer.name, *move) for move in moves)


def domain_moves(domain: DomainRecord, *, closed: bool) -> tuple[Move, ...]:
    """As `account_moves`; a domain has no billing, and its conduct is good or closed."""
    return tuple(Move(Subject.DOMAIN, domain.name, domain.name, *move) for move in _closing(domain.closed_ns, closed))


def _moves(name: str, current: Billing | Conduct, wanted: Billing | Conduct) -> bool:
    """Is there anything to move? Raises Conflict where the tables of the core know no such move."""
    try:
        if isinstance(current, Billing) and isinstance(wanted, Billing):
            return move_billing(current, wanted) is not current
        if isinstance(current, Conduct) and isinstance(wanted, Conduct):
            return move_conduct(current, wanted) is not current
    except MoveRefused as error:
        raise Conflict(f"{name}: {error}", "go there by steps; see the standing with the show command") from error
    raise TypeError(f"{current!r} and {wanted!r} are not on one axis")


def _closing(closed_ns: int | None, closed: bool) -> list[tuple[Axis, str, str]]:
    current = Conduct.GOOD if closed_ns is None else Conduct.CLOSED
    wanted = Conduct.CLOSED if closed else Conduct.GOOD
    return [] if current is wanted else [(Axis.CONDUCT, current.value, wanted.value)]


def apply_moves(connection: Connection, moves: Sequence[Move], act: Act) -> None:
    """Apply a plan whole: each move with its evidence row and its change row, in the caller's transaction.

    Raises Invalid without a reason or a name, Conflict when something no longer stands where the plan
    found it.
    """
    if not act.reason.strip() or not act.who.strip():
        raise Invalid("a change of standing needs a reason and somebody who answers for it", "give --reason")
    for move in moves:
        table, key, kind = _TARGETS[move.subject]
        ref: int | str = move.ref if move.subject is Subject.DOMAIN else int(move.ref)
        where, values = _step(table, move, act.at_ns)
        done = connection.execute(update(table).where(table.c[key] == ref, where).values(values))
        if done.rowcount != 1:
            raise Conflict(
                f"{move.subject} {move.name} no longer has {move.axis} {move.from_state}",
                "look again, then repeat",
            )
        connection.execute(
            insert(schema.standing_change).values(
                subject=move.subject.value,
                ref=move.ref,
                axis=move.axis.value,
                from_state=move.from_state,
                to_state=move.to_state,
                reason=act.reason.strip(),
                who=act.who.strip(),
                at_ns=act.at_ns,
            )
        )
        bump(connection, kind, move.ref)


_TARGETS = {
    Subject.ACCOUNT: (schema.account, "id", ChangeKind.ACCOUNT),
    Subject.CUSTOMER: (schema.customer, "id", ChangeKind.CUSTOMER),
    Subject.DOMAIN: (schema.domain, "name", ChangeKind.DOMAIN),
}


def _step(table: Table, move: Move, at_ns: int) -> tuple[ColumnElement[bool], dict[str, str | int | None]]:
    """The condition that the move's start still holds, and the values that make its end."""
    if "closed_ns" in table.c and move.axis is Axis.CONDUCT:
        closing = move.to_state == Conduct.CLOSED
        column = table.c.closed_ns
        return (column.is_(None) if closing else column.is_not(None)), {"closed_ns": at_ns if closing else None}
    return table.c[move.axis.value] == move.from_state, {move.axis.value: move.to_state}


def standing_changes(connection: Connection, subject: Subject, ref: int | str, limit: int = 20) -> list[StandingChange]:
    """The newest `limit` evidence rows of one subject, newest first."""
    table = schema.standing_change
    rows = connection.execute(
        select(table)
        .where(table.c.subject == subject.value, table.c.ref == str(ref))
        .order_by(table.c.id.desc())
        .limit(limit)
    )
    return [
        StandingChange(
            Subject(row.subject),
            row.ref,
            Axis(row.axis),
            row.from_state,
            row.to_state,
            row.reason,
            row.who,
            row.at_ns,
        )
        for row in rows
    ]
