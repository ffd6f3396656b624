"""Limits hold to the unit, through the whole relay: however many race, and whatever becomes of their mails.

The holes of others that are tried here: a counter read at MAIL and written when queued (n sessions send n times the
rest), the first mail of a new counter that always passes, exempted recipients, charges that never come back.
"""

import asyncio
from collections import Counter
from dataclasses import replace

import pytest
from upstream import CAPABILITIES, Override, Upstream
from world import Client, Setup, World, account, running

from smartmail.core.limits import Limit, Mode, Scope, Unit

ON_UVLOOP = True


def limit(unit: Unit, quota: int, scope: Scope = Scope.ACCOUNT, burst: int = 0, mode: Mode = Mode.ENFORCE) -> Limit:
    return Limit(f"{scope}-{unit}".replace("_", "-"), scope, unit, quota, 3600, burst, mode)


def used(world: World, key: str, which: int = 0) -> tuple[int, int]:
    """(committed, in flight) of one of the limits."""
    services = world.services
    found = services.counters.usage(services.rules.limits[which], key, services.clock.now_ns())
    return found.used, found.reserved


async def all_at_once(client: Client, content: bytes = b"x\r\n.\r\n") -> int:
    """A mail to one recipient, pipelined. 250 if it was taken, else the code that refused it."""
    await client.send(b"MAIL FROM:<ann@example.com>\r\nRCPT TO:<bob@example.net>\r\nDATA\r\n")
    codes = [(await client.reply())[0] for _ in range(3)]
    if codes[2] != 354:
        return next(code for code in codes if code >= 400)
    await client.send(content)
    return (await client.reply())[0]


async def race(world: World, sessions: int, mails: int) -> Counter[int]:
    """Sessions of one account that send as fast as they can, all at the same time."""
    clients = [await world.logged_in(listener="plain") for _ in range(sessions)]
    start = asyncio.Event()

    async def run(client: Client) -> list[int]:
        await start.wait()
        codes = []
        for _ in range(mails):
            codes.append(await all_at_once(client))
            if codes[-1] != 250:
                await client.ask("RSET", 250)
        return codes

    tasks = [asyncio.create_task(run(client)) for client in clients]
    start.set()
    return Counter(code for codes in await asyncio.gather(*tasks) for code in codes)


@pytest.mark.parametrize("burst", [0, 17], ids=["sliding", "rate"])
@pytest.mark.parametrize("unit", [Unit.MESSAGES, Unit.RECIPIENTS])
async def test_racing_sessions_pass_exactly_what_the_limit_allows(unit: Unit, burst: int) -> None:
    setup = Setup(listeners=("plain",), limits=(limit(unit, 17, burst=burst),))
    async with running(setup) as world:
        codes = await race(world, sessions=20, mails=3)
        assert codes == {250: 17, 450: 43}
        assert len(world.upstream.kept) == 17
        assert used(world, "a:1") == (17, 0)


async def test_racing_sessions_of_several_accounts_share_their_customers_limit() -> None:
    accounts = [account(number, f"user{number}@example.com") for number in range(1, 6)]
    setup = Setup(accounts=accounts, listeners=("plain",), limits=(limit(Unit.MESSAGES, 7, Scope.CUSTOMER),))
    async with running(setup) as world:
        clients = [await world.logged_in(one.address, "plain") for one in accounts * 3]

        async def send(number: int, client: Client) -> int:
            sender = accounts[number % 5].address
            await client.send(f"MAIL FROM:<{sender}>\r\nRCPT TO:<bob@example.net>\r\nDATA\r\n".encode())
            codes = [(await client.reply())[0] for _ in range(3)]
            if codes[2] != 354:
                return max(codes[:2])
            await client.send(b".\r\n")
            return (await client.reply())[0]

        codes = await asyncio.gather(*(send(number, client) for number, client in enumerate(clients)))
        assert Counter(codes) == {250: 7, 450: 8}
        assert used(world, "c:100") == (7, 0)


async def test_what_is_in_flight_counts_against_others_until_it_is_known() -> None:
    upstream = Upstream(overrides=[Override("dot", "held", times=1)])
    setup = Setup(listeners=("plain",), limits=(limit(Unit.MESSAGES, 1),), upstream=upstream)
    async with running(setup) as world:
        first, second = await world.logged_in(listener="plain"), await world.logged_in(listener="plain")
        sending = asyncio.create_task(all_at_once(first))
        await upstream.until(lambda: upstream.reached["dot"] == 1)
        assert used(world, "a:1") == (0, 1)
        assert await all_at_once(second) == 450
        upstream.going.set()
        assert await sending == 250
        assert used(world, "a:1") == (1, 0)


REFUSALS = {
    "mail": Override("mail", "550 5.1.8 no"),
    "mail for now": Override("mail", "451 4.3.0 no"),
    "rcpt": Override("rcpt", "550 5.1.1 no"),
    "rcpt for now": Override("rcpt", "450 4.2.0 no"),
    "rcpt with 421": Override("rcpt", "421 4.3.2 no"),
    "data": Override("data", "451 4.3.0 no"),
    "content": Override("content", "552 5.3.4 no"),
    "dot": Override("dot", "554 5.7.1 no"),
    "dot for now": Override("dot", "452 4.3.1 no"),
    "closed at mail": Override("mail", "close"),
    "closed at rcpt": Override("rcpt", "close"),
    "closed at data": Override("data", "reset"),
    "nonsense at rcpt": Override("rcpt", "what?"),
}


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS.keys())
async def test_a_mail_that_is_not_taken_gives_every_reservation_back(refusal: Override) -> None:
    limits = (
        limit(Unit.MESSAGES, 5),
        limit(Unit.RECIPIENTS, 5),
        limit(Unit.FIRST_TIME, 5),
        limit(Unit.BYTES, 500),
        limit(Unit.RECIPIENTS, 5, Scope.RECIPIENT_DOMAIN),
    )
    upstream = Upstream(overrides=[Override(refusal.step, refusal.says)])
    async with running(Setup(listeners=("plain",), limits=limits, upstream=upstream)) as world:
        client = await world.logged_in(listener="plain")
        for _ in range(8):
            assert await all_at_once(client) >= 400
            await client.ask("RSET", 250)
        for which, key in enumerate(["a:1", "a:1", "a:1", "a:1", "r:example.net"]):
            assert used(world, key, which) == (0, 0)
        upstream.overrides.clear()
        assert await all_at_once(client) == 250


async def test_a_recipient_that_is_refused_is_not_charged_and_the_others_are() -> None:
    upstream = Upstream(overrides=[Override("rcpt", "550 5.1.1 no", "nobody")])
    limits = (limit(Unit.RECIPIENTS, 3), limit(Unit.MESSAGES, 3))
    async with running(Setup(listeners=("plain",), limits=limits, upstream=upstream)) as world:
        client = await world.logged_in(listener="plain")
        await client.ask("MAIL FROM:<ann@example.com>", 250)
        for number in range(9):
            await client.ask(f"RCPT TO:<nobody{number}@example.net>", 550)
        await client.ask("RCPT TO:<a@example.net>", 250)
        await client.ask("RCPT TO:<b@example.net>", 250)
        await client.ask("DATA", 354)
        await client.ask(b".", 250)
        assert (used(world, "a:1", 0), used(world, "a:1", 1)) == ((2, 0), (1, 0))


async def test_the_mail_that_nobody_confirmed_is_charged() -> None:
    upstream = Upstream(overrides=[Override("dot", "close")])
    async with running(Setup(listeners=("plain",), limits=(limit(Unit.MESSAGES, 2),), upstream=upstream)) as world:
        client = await world.logged_in(listener="plain")
        assert [await all_at_once(client) for _ in range(3)] == [451, 451, 450]
        assert used(world, "a:1") == (2, 0)


async def test_a_client_that_leaves_at_any_step_gets_its_reservation_back() -> None:
    async with running(Setup(listeners=("plain",), limits=(limit(Unit.MESSAGES, 2),))) as world:
        steps = [b"MAIL FROM:<ann@example.com>\r\n", b"RCPT TO:<bob@example.net>\r\n", b"DATA\r\n"]
        for last in range(1, 4):
            client = await world.logged_in(listener="plain")
            for step in steps[:last]:
                await client.send(step)
                await client.reply()
            client.hang_up()
        async with asyncio.timeout(10):
            while world.relay.sessions:
                await asyncio.sleep(0.001)
        assert used(world, "a:1") == (0, 0)


async def test_the_first_mail_of_a_new_counter_is_no_exception() -> None:
    """Rspamd lets the first mail on a new bucket pass, however many recipients it has."""
    for burst in (0, 3):
        async with running(Setup(listeners=("plain",), limits=(limit(Unit.RECIPIENTS, 3, burst=burst),))) as world:
            client = await world.logged_in(listener="plain")
            await client.send(b"MAIL FROM:<ann@example.com>\r\n")
            await client.reply()
            codes = []
            for number in range(10):
                await client.send(b"RCPT TO:<r%d@example.net>\r\n" % number)
                codes.append((await client.reply())[0])
            assert codes == [250] * 3 + [450] * 7


@pytest.mark.parametrize("recipient", ["postmaster@example.net", "MAILER-DAEMON@example.net", "abuse@example.net"])
async def test_no_recipient_exempts_a_mail_from_its_limits(recipient: str) -> None:
    async with running(Setup(listeners=("plain",), limits=(limit(Unit.RECIPIENTS, 2),))) as world:
        client = await world.logged_in(listener="plain")
        await client.envelope("ann@example.com", recipient, "a@example.net")
        await client.ask("RCPT TO:<b@example.net>", 450)
        await client.ask(f"RCPT TO:<{recipient}>", 450)


async def test_chunks_are_charged_as_data_is_and_a_mail_begun_with_them_too() -> None:
    upstream = Upstream(capabilities=(*CAPABILITIES, "CHUNKING"))
    async with running(Setup(listeners=("plain",), limits=(limit(Unit.MESSAGES, 3),), upstream=upstream)) as world:
        client = await world.logged_in(listener="plain")
        await client.envelope()
        await client.send(b"BDAT 3\r\na\r\n")
        assert (await client.reply())[0] == 250
        await client.ask("RSET", 250)
        assert used(world, "a:1") == (0, 0)
        assert await all_at_once(client) == 250
        await client.envelope()
        await client.send(b"BDAT 3\r\na\r\nBDAT 0 LAST\r\n")
        assert [(await client.reply())[0] for _ in range(2)] == [250, 250]
        assert used(world, "a:1") == (2, 0)
        assert [row.verdict for row in world.rows] == ["aborted", "accepted", "accepted"]


async def test_bytes_are_charged_once_however_many_recipients_and_keys() -> None:
    limits = (limit(Unit.BYTES, 10_000), limit(Unit.BYTES, 10_000, Scope.RECIPIENT_DOMAIN))
    async with running(Setup(listeners=("plain",), limits=limits)) as world:
        client = await world.logged_in(listener="plain")
        content = b"x" * 998 + b"\r\n"
        code, _ = await client.mail(content, "a@example.net", "b@example.net", "c@example.org")
        assert code == 250
        passed = len(content) + 3
        assert used(world, "a:1", 0) == (passed, 0)
        assert used(world, "r:example.net", 1) == (passed, 0)
        assert used(world, "r:example.org", 1) == (passed, 0)


async def test_new_rules_hold_from_the_next_recipient_on_for_sessions_that_are_open() -> None:
    async with running(Setup(listeners=("plain",))) as world:
        client = await world.logged_in(listener="plain")
        assert await all_at_once(client) == 250
        world.services.rules = replace(world.services.rules, limits=(limit(Unit.MESSAGES, 1),))
        world.relay.rules_changed()
        assert await all_at_once(client) == 250
        assert await all_at_once(client) == 450


async def test_a_relay_that_needs_no_login_is_limited_all_the_same() -> None:
    """Others' sendmail and webmail doors share one key, or none."""
    limits = (limit(Unit.MESSAGES, 1, Scope.CLIENT),)
    async with running(Setup(accounts=[], listeners=("relay",), limits=limits)) as world:
        for expected in (250, 450):
            client = await world.greeted()
            assert await all_at_once(client) == expected
