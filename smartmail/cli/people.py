"""The store's side of the embedded start and of the demo: the sample account, and the demo's people.

`python -m smartmail.cli.people`: an order as JSON on standard input, see `smartmail.cli.sample.provision`.
"""

import json
import sys

from sqlalchemy import Connection, func, select

from smartmail.cli.acting import act
from smartmail.cli.sample import DEMO_DOMAIN, SAMPLE_DOMAIN, SMALL_QUOTA, Order, Sample
from smartmail.core.limits import Limit, Scope, Unit
from smartmail.core.standing import Billing, Conduct
from smartmail.store import accounts, customers, moves, plans, schema
from smartmail.store.accounts import hash_password
from smartmail.store.database import Database
from smartmail.store.errors import NotFound, StoreError
from smartmail.store.records import AccountRecord, Plan

SAMPLE_CUSTOMER = "Sample customer"
DEMO_CUSTOMER = "Demo customer"
DEMO_PLAN = "demo"
SMALL_PLAN = "demo-small"


def main() -> int:
    """The child process: an order as JSON on standard input, the newest change's number on standard output."""
    values = json.load(sys.stdin)
    sample = values.pop("sample")
    order = Order(**values, sample=Sample(**sample) if sample else None)
    try:
        print(carry_out(order))
    except StoreError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def carry_out(order: Order) -> int:
    """Make what is missing of the order. Raises StoreError."""
    # Outside the transaction: hashing takes long, and the writer waits.
    sample_hash = hash_password(order.sample.password) if order.sample else ""
    demo_hash = hash_password(order.demo_password) if order.demo_password else ""
    with Database(order.url) as database, database.write() as connection:
        if order.sample is not None:
            _make_sample(connection, order.sample.login, sample_hash, new_password=order.new_password)
        if demo_hash:
            _make_demo(connection, demo_hash)
        return connection.execute(select(func.max(schema.change.c.id))).scalar() or 0


def make_host(url: str, login: str, password: str) -> None:
    """A database, made anew, with one account in a domain of its own. Raises StoreError."""
    password_hash = hash_password(password)
    with Database(url) as database:
        database.upgrade()
        with database.write() as connection:
            _make_domain(connection, login.rpartition("@")[2], SAMPLE_CUSTOMER)
            accounts.add_account(connection, login, password_hash, act("demo"))


def _make_sample(connection: Connection, login: str, password_hash: str, *, new_password: bool) -> None:
    try:
        found = accounts.get_account(connection, login)
    except NotFound:
        _make_domain(connection, SAMPLE_DOMAIN, SAMPLE_CUSTOMER)
        accounts.add_account(connection, login, password_hash, act("sample"))
        return
    if new_password:
        accounts.set_password(connection, found.id, password_hash)


def _make_demo(connection: Connection, password_hash: str) -> None:
    """The demo's people as the scene needs them at its start, whatever became of them in an earlier one."""
    _make_domain(connection, DEMO_DOMAIN, DEMO_CUSTOMER)
    _make_plans(connection)
    for name in ("ben", "cleo", "dora", "leaver"):
        _stand(connection, _person(connection, name, password_hash, DEMO_PLAN), Billing.CURRENT, Conduct.GOOD)
    _stand(connection, _person(connection, "newsletter", password_hash, SMALL_PLAN), Billing.CURRENT, Conduct.GOOD)
    _stand(connection, _person(connection, "unpaid", password_hash, DEMO_PLAN), Billing.SUSPENDED, Conduct.GOOD)
    _stand(connection, _person(connection, "closed", password_hash, DEMO_PLAN), Billing.CURRENT, Conduct.CLOSED)


def _make_domain(connection: Connection, name: str, customer_name: str) -> None:
    """The domain and its customer, both open and paid for."""
    begins = act("sample accounts begin anew")
    try:
        domain = customers.get_domain(connection, name)
    except NotFound:
        try:
            owner = customers.get_customer(connection, customer_name).id
        except NotFound:
            owner = customers.add_customer(connection, customer_name, "", begins)
        customers.add_domain(connection, name, owner, begins)
        domain = customers.get_domain(connection, name)
    customer = customers.get_customer(connection, domain.customer)
    opened = moves.customer_moves(customer, billing=Billing.CURRENT, closed=False)
    moves.apply_moves(connection, (*opened, *moves.domain_moves(domain, closed=False)), begins)


def _make_plans(connection: Connection) -> None:
    names = {plan.name: plan for plan in plans.list_plans(connection)}
    if DEMO_PLAN not in names:
        plans.add_plan(connection, Plan(DEMO_PLAN, "For the people of the demo: no limits", ()))
    if SMALL_PLAN not in names:
        plans.add_plan(connection, Plan(SMALL_PLAN, "For the burst of the demo", ()))
    # What was used is counted under the limit's name, over restarts too: under a new one each scene begins at zero.
    former = names[SMALL_PLAN].limits if SMALL_PLAN in names else ()
    number = max((int(one.name.rpartition("-")[2]) for one in former if _numbered(one.name)), default=0) + 1
    for one in former:
        plans.drop_limit(connection, SMALL_PLAN, one.name)
    limit = Limit(f"scene-{number}", Scope.ACCOUNT, Unit.MESSAGES, SMALL_QUOTA, 60)
    plans.put_limit(connection, SMALL_PLAN, limit)


def _numbered(name: str) -> bool:
    number = name.rpartition("-")[2]
    return number.isascii() and number.isdecimal()


def _person(connection: Connection, name: str, password_hash: str, plan: str) -> AccountRecord:
    address = f"{name}@{DEMO_DOMAIN}"
    try:
        found = accounts.get_account(connection, address)
    except NotFound:
        return accounts.add_account(connection, address, password_hash, act("demo"), plan)
    accounts.set_password(connection, found.id, password_hash)
    if found.plan != plan:
        accounts.set_plan(connection, found.id, plan)
    return found


def _stand(connection: Connection, account: AccountRecord, billing: Billing, conduct: Conduct) -> None:
    planned = moves.account_moves(account, billing=billing, conduct=conduct)
    moves.apply_moves(connection, planned, act("the demo's scene asks for it"))


if __name__ == "__main__":
    sys.exit(main())
