"""The round trip: what counts as arrived, when it is decided, and whose mail is touched."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from roundtripworld import LOGIN, PASSWORD, TOKEN_KEY, Message, Service, service

from smartmail.core.outcome import Outcome, Vote, vote_of
from smartmail.core.probe_token import HEADER, make, verify
from smartmail.intake.probemail import IntakeSettings, start
from smartmail.monitor.roundtrip import MOST_AT_ONCE, LateArrival, RoundTrips, round_trip
from smartmail.monitor.roundtrip_send import compose

KEY = TOKEN_KEY.encode()
DAY = 86_400_000
FOREIGN = b"From: <friend@example.org>\r\nSubject: Mail round trip\r\n\r\nhello\r\n"


@pytest.fixture
async def mail(tmp_path: Path) -> AsyncIterator[Service]:
    """A running service."""
    async with service(tmp_path) as made:
        yield made


@pytest.fixture
def late() -> list[LateArrival]:
    """What was told of late arrivals."""
    return []


@pytest.fixture
def trips(late: list[LateArrival]) -> RoundTrips:
    """The trips of one location."""
    return RoundTrips("london", on_late=late.append)


def now_ms() -> int:
    """Epoch ms."""
    return time.time_ns() // 1_000_000


def own(age_ms: int, *, check: str = "trip", location: str = "london", key: bytes = KEY, number: int = 0) -> bytes:
    """A probe's message, sent so long ago."""
    token = make(key, check, location, now_ms() - age_ms, number.to_bytes(16))
    return compose(LOGIN, LOGIN, token, "00", now_ms() - age_ms)


# The usual trip


async def test_a_message_sent_by_submission_and_seen_in_the_mailbox(mail: Service, trips: RoundTrips) -> None:
    before = now_ms()
    seen = await trips.start(mail.check(), mail.context())
    assert (seen.outcome, seen.detail) == (Outcome.OK, "")
    assert before <= int(seen.facts["sent_ms"]) <= now_ms()
    assert (seen.facts["folder"], seen.facts["tries"]) == ("INBOX", 1)
    assert {"dns", "connect", "banner", "tls", "auth", "command"} <= seen.phases.keys()


async def test_the_stages_add_up_to_the_latency(mail: Service, trips: RoundTrips) -> None:
    stamp = time.strftime("%a, %d %b %Y %H:%M:%S +0000", time.gmtime())
    mail.received = (f"from mx by mailbox.example with LMTP; {stamp}", f"from probe by mx.example; {stamp}")
    seen = await trips.start(mail.check(), mail.context())
    assert sum(seen.phases[stage] for stage in ("submitted", "relayed", "delivered", "seen")) == seen.latency_ms
    assert (seen.facts["hops"], seen.facts["skew_ms"]) == (2, 0)


async def test_a_hosts_wrong_clock_is_said_and_changes_no_latency(mail: Service, trips: RoundTrips) -> None:
    mail.received = ("from probe by mx.example with ESMTPSA; Mon, 1 Jan 2024 00:00:00 +0000",)
    seen = await trips.start(mail.check(), mail.context())
    assert seen.outcome is Outcome.OK
    assert str(seen.facts["clocks"]).startswith("the clock of mx.example is off by ")
    assert sum(seen.phases[stage] for stage in ("submitted", "relayed", "delivered", "seen")) == seen.latency_ms


async def test_the_message_is_one_that_nobody_answers(mail: Service, trips: RoundTrips) -> None:
    kept: list[Message] = []
    mail.on_mail = kept.append
    await trips.start(mail.check(), mail.context())
    (message,) = kept
    assert b"\r\nAuto-Submitted: auto-generated\r\n" in message.octets
    token = verify(KEY, message.token)
    assert token is not None
    assert (token.check, token.location) == ("trip", "london")


async def test_the_function_for_the_table_of_probes_does_a_trip(mail: Service) -> None:
    assert (await round_trip(mail.check(), mail.context())).outcome is Outcome.OK


async def test_port_25_as_a_stranger_without_login(mail: Service, trips: RoundTrips) -> None:
    check = mail.check(way="mx", secret="", imap_secret="login", sender="tester@example.org")
    assert (await trips.start(check, mail.context())).outcome is Outcome.OK


# Junk


async def test_found_in_the_junk_folder_is_ok_junk(mail: Service, trips: RoundTrips) -> None:
    mail.deliver_to = "Junk"
    seen = await trips.start(mail.check(), mail.context())
    assert (seen.outcome, seen.detail, seen.facts["folder"]) == (Outcome.OK_JUNK, "in the folder Junk", "Junk")
    assert vote_of(seen.outcome) is Vote.UP
    assert mail.folders["Junk"] == []


async def test_a_mailbox_without_that_folder_is_no_failure(mail: Service, trips: RoundTrips) -> None:
    del mail.folders["Junk"]
    assert (await trips.start(mail.check(deadline="2"), mail.context())).outcome is Outcome.OK


# The verdict


async def test_case_15_not_there_at_its_deadline_is_not_arrived_and_of_the_minute_of_sending(
    mail: Service, trips: RoundTrips
) -> None:
    mail.deliver_to = ""
    before = now_ms()
    seen = await trips.start(mail.check(deadline="1"), mail.context())
    assert (seen.outcome, seen.detail) == (Outcome.NOT_ARRIVED, "not there after 1 s")
    assert vote_of(seen.outcome) is Vote.DOWN
    assert 0 <= int(seen.facts["sent_ms"]) - before < 1000


async def test_case_15_a_probe_sent_in_the_months_last_minute_is_of_that_minute(
    mail: Service, trips: RoundTrips
) -> None:
    last = 1_793_491_199_500  # 2026-10-31 23:59:59.5 UTC
    seen = await trips.start(mail.check(), mail.context(now_ms=lambda: last))
    assert seen.facts["sent_ms"] == last


async def test_case_15_a_late_arrival_is_a_latency_told_once_and_no_vote(
    mail: Service, trips: RoundTrips, late: list[LateArrival]
) -> None:
    mail.put(own(300_000), stored=time.time() - 60)
    seen = await trips.start(mail.check(), mail.context())
    assert seen.outcome is Outcome.OK
    (told,) = late
    assert (told.check, told.location) == ("trip", "london")
    assert 239_000 <= told.late_ms <= 241_500
    assert (seen.facts["late_arrivals"], seen.facts["late_ms"]) == (1, told.late_ms)
    again = await trips.start(mail.check(), mail.context())
    assert (len(late), "late_arrivals" in again.facts) == (1, False)


async def test_case_15_a_late_arrival_does_not_make_a_later_trip_arrive(
    mail: Service, trips: RoundTrips, late: list[LateArrival]
) -> None:
    mail.put(own(300_000))
    mail.deliver_to = ""
    assert (await trips.start(mail.check(deadline="1"), mail.context())).outcome is Outcome.NOT_ARRIVED
    assert len(late) == 1


@pytest.mark.parametrize(
    "octets",
    [
        own(0, key=b"forged with another secret"),
        FOREIGN + f"{HEADER}: x\r\n".encode(),
        FOREIGN.replace(b"\r\n\r\n", f"\r\n{HEADER}: sm1.trip.london.1.{'0' * 32}.{'0' * 32}\r\n\r\n".encode()),
        own(1000),
    ],
    ids=["another secret", "in the body", "no MAC", "an older message of ours"],
)
async def test_an_old_or_forged_message_never_satisfies_a_trip(mail: Service, trips: RoundTrips, octets: bytes) -> None:
    mail.put(octets)
    mail.deliver_to = ""
    assert (await trips.start(mail.check(deadline="1"), mail.context())).outcome is Outcome.NOT_ARRIVED


async def test_several_minutes_may_be_under_way_and_each_sees_its_own(mail: Service, trips: RoundTrips) -> None:
    mail.deliver_to = ""
    first = asyncio.create_task(trips.start(mail.check(), mail.context()))
    second = asyncio.create_task(trips.start(mail.check(), mail.context()))
    while len(mail.held) < 2:
        await asyncio.sleep(0)
    assert trips.running("trip") == 2
    mail.put(mail.held[1])
    done, _ = await asyncio.wait({first, second}, return_when=asyncio.FIRST_COMPLETED)
    assert [task.result().outcome for task in done] == [Outcome.OK]
    mail.put(mail.held[0])
    outcomes = {(await first).outcome, (await second).outcome}
    assert outcomes == {Outcome.OK}
    assert trips.running("trip") == 0


async def test_the_trips_of_a_check_are_bounded(mail: Service, trips: RoundTrips) -> None:
    mail.deliver_to = ""
    running = [asyncio.create_task(trips.start(mail.check(), mail.context())) for _ in range(MOST_AT_ONCE)]
    await asyncio.sleep(0)
    seen = await trips.start(mail.check(), mail.context())
    assert seen.outcome is Outcome.MONITOR_ERROR
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    assert trips.running("trip") == 0


async def test_a_trip_that_is_cancelled_says_no_goodbye(mail: Service, trips: RoundTrips) -> None:
    mail.deliver_to = ""
    running = asyncio.create_task(trips.start(mail.check(), mail.context()))
    while not mail.commands["SELECT"]:
        await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert mail.commands["LOGOUT"] == 0


# A sending that fails


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        ("550 5.7.1 not you", Outcome.PERMANENT),
        ("452 4.3.1 no space", Outcome.TRANSIENT),
        ("450 4.2.0 Greylisted, come again", Outcome.TRANSIENT),
    ],
)
async def test_a_sending_that_fails_is_a_failed_trip_with_the_sendings_class(
    mail: Service, trips: RoundTrips, reply: str, outcome: Outcome
) -> None:
    mail.rcpt_replies = [reply]
    seen = await trips.start(mail.check(), mail.context())
    assert (seen.outcome, vote_of(seen.outcome)) == (outcome, Vote.DOWN)
    assert reply in seen.detail
    assert mail.imap_sessions == 0


async def test_a_content_that_is_refused_is_a_failed_trip(mail: Service, trips: RoundTrips) -> None:
    mail.data_replies = ["554 5.7.1 looks like spam"]
    seen = await trips.start(mail.check(), mail.context())
    assert (seen.outcome, seen.detail) == (Outcome.PERMANENT, "554 5.7.1 looks like spam at end of DATA")


async def test_a_login_that_is_refused_is_a_failed_trip_and_the_password_is_nowhere(
    mail: Service, trips: RoundTrips
) -> None:
    seen = await trips.start(mail.check(secret="wrong"), mail.context())
    assert seen.outcome is Outcome.LOGIN
    assert "another password" not in repr(seen)
    assert PASSWORD not in repr(await trips.start(mail.check(), mail.context()))


# Greylisting


async def test_case_15_a_strangers_mail_that_needs_one_more_try_is_ok_greylisted(
    mail: Service, trips: RoundTrips
) -> None:
    mail.rcpt_replies = ["450 4.2.0 Greylisted, come again"]
    seen = await trips.start(
        mail.check(way="mx", imap_secret="login", sender="t@example.org", retry="1"), mail.context()
    )
    assert (seen.outcome, seen.facts["tries"]) == (Outcome.OK_GREYLISTED, 2)
    assert seen.detail == "450 4.2.0 Greylisted, come again"
    assert vote_of(seen.outcome) is Vote.UP


async def test_case_15_greylisting_at_the_content_is_greylisting_too(mail: Service, trips: RoundTrips) -> None:
    mail.data_replies = ["451 4.7.1 Greylisted, please try again later"]
    seen = await trips.start(
        mail.check(way="mx", imap_secret="login", sender="t@example.org", retry="1"), mail.context()
    )
    assert (seen.outcome, seen.facts["tries"]) == (Outcome.OK_GREYLISTED, 2)


async def test_case_15_still_greylisted_at_the_deadline_is_not_down(mail: Service, trips: RoundTrips) -> None:
    mail.rcpt_replies = ["450 4.2.0 Greylisted"] * 9
    check = mail.check(way="mx", imap_secret="login", sender="t@example.org", deadline="2", retry="1")
    seen = await trips.start(check, mail.context())
    assert seen.outcome is Outcome.OK_GREYLISTED
    assert mail.imap_sessions == 0


async def test_a_server_in_trouble_is_not_greylisting(mail: Service, trips: RoundTrips) -> None:
    mail.rcpt_replies = ["451 4.3.0 Temporary lookup failure"]
    seen = await trips.start(mail.check(way="mx", imap_secret="login", sender="t@example.org"), mail.context())
    assert seen.outcome is Outcome.TRANSIENT


# Others' faults


async def test_case_15_a_failing_outside_sender_is_not_our_downtime(mail: Service, trips: RoundTrips) -> None:
    mail.rcpt_replies = ["550 5.7.1 not you"]
    seen = await trips.start(mail.check(outside="sender"), mail.context())
    assert (seen.outcome, vote_of(seen.outcome)) == (Outcome.MONITOR_ERROR, Vote.ERROR)
    assert seen.detail == "the outside sender: 550 5.7.1 not you at RCPT"


async def test_case_15_an_outside_sender_that_greylists_is_tried_again(mail: Service, trips: RoundTrips) -> None:
    mail.rcpt_replies = ["450 4.2.0 Greylisted"]
    seen = await trips.start(mail.check(outside="sender", retry="1"), mail.context())
    assert seen.outcome is Outcome.OK_GREYLISTED


async def test_case_15_a_failing_outside_mailbox_is_not_our_downtime(mail: Service, trips: RoundTrips) -> None:
    mail.deliver_to = ""
    seen = await trips.start(mail.check(outside="mailbox", deadline="1"), mail.context())
    assert (seen.outcome, seen.detail) == (Outcome.MONITOR_ERROR, "the outside mailbox: not there after 1 s")
    mail.imap_closed = 99
    seen = await trips.start(mail.check(outside="mailbox", deadline="1"), mail.context())
    assert seen.outcome is Outcome.MONITOR_ERROR


# A mailbox that fails


async def test_a_mailbox_that_comes_back_before_the_deadline_is_no_failure(mail: Service, trips: RoundTrips) -> None:
    mail.imap_closed = 2
    seen = await trips.start(mail.check(), mail.context())
    assert seen.outcome is Outcome.OK
    assert mail.imap_sessions == 3


async def test_where_nobody_could_look_the_trip_ends_by_what_kept_us_from_looking(
    mail: Service, trips: RoundTrips
) -> None:
    seen = await trips.start(mail.check(imap_secret="wrong", deadline="1"), mail.context())
    assert seen.outcome is Outcome.LOGIN
    mail.imap_closed = 99
    seen = await trips.start(mail.check(deadline="1"), mail.context())
    assert vote_of(seen.outcome) is Vote.DOWN
    assert seen.outcome is not Outcome.NOT_ARRIVED


# Cleaning up


async def test_a_trip_leaves_nothing_behind(mail: Service, trips: RoundTrips) -> None:
    await trips.start(mail.check(), mail.context())
    assert mail.folders == {"INBOX": [], "Junk": []}


async def test_a_mailbox_with_others_mail_stays_untouched(
    mail: Service, trips: RoundTrips, late: list[LateArrival]
) -> None:
    others = [
        FOREIGN,
        own(2 * DAY, key=b"the key of somebody else"),
        own(3_600_000, check="another-check"),
        own(3_600_000, location="paris"),
        own(5_000),
        FOREIGN.replace(b"\r\n\r\n", b"\r\nIn-Reply-To: <x>\r\n\r\n" + own(2 * DAY)),
    ]
    messages = [*(mail.put(octets) for octets in others), *(mail.put(octets, "Junk") for octets in others)]
    messages[0].flags.add("\\Deleted")  # its owner has marked it, and not expunged it
    await trips.start(mail.check(), mail.context())
    assert [*mail.folders["INBOX"], *mail.folders["Junk"]] == messages
    assert [message.flags for message in messages] == [{"\\Deleted"}, *[set[str]()] * 11]
    assert late == []


async def test_old_messages_of_ours_go_whatever_their_check_and_location(
    mail: Service, trips: RoundTrips, late: list[LateArrival]
) -> None:
    mail.put(own(DAY + 60_000, check="another-check"))
    mail.put(own(DAY + 60_000, location="paris"), "Junk")
    await trips.start(mail.check(), mail.context())
    assert mail.folders == {"INBOX": [], "Junk": []}
    assert late == []


async def test_without_uidplus_nothing_is_expunged_and_nothing_told_twice(
    mail: Service, trips: RoundTrips, late: list[LateArrival]
) -> None:
    mail.uidplus = False
    theirs, ours = mail.put(FOREIGN), mail.put(own(300_000))
    theirs.flags.add("\\Deleted")
    await trips.start(mail.check(), mail.context())
    await trips.start(mail.check(), mail.context())
    assert theirs in mail.folders["INBOX"]
    assert ours.flags == {"\\Deleted"}
    assert mail.commands["EXPUNGE"] == 0
    assert len(late) == 1


async def test_a_full_mailbox_is_cleaned_in_pieces(mail: Service, trips: RoundTrips, late: list[LateArrival]) -> None:
    for number in range(700):
        mail.put(own(300_000 + number, number=number))
    for _ in range(3):
        assert (await trips.start(mail.check(), mail.context())).outcome is Outcome.OK
    assert (mail.folders["INBOX"], len(late)) == ([], 700)


async def test_a_cleaning_that_fails_is_said_and_costs_no_trip(
    mail: Service, trips: RoundTrips, monkeypatch: pytest.MonkeyPatch
) -> None:
    from roundtripworld import _Imap

    monkeypatch.setattr(_Imap, "_store", lambda self, arguments: "NO [NOPERM] read only")
    seen = await trips.start(mail.check(), mail.context())
    assert seen.outcome is Outcome.OK
    assert "read only" in str(seen.facts["clean_failed"])


# The own sink


async def test_a_message_that_comes_to_the_own_sink(mail: Service, late: list[LateArrival]) -> None:
    sink = await start(IntakeSettings(KEY, frozenset({LOGIN})), "127.0.0.1", 0)
    trips = RoundTrips("london", sink=sink, on_late=late.append)
    mail.on_mail = lambda message: sink.take(message.octets) and None
    seen = await trips.start(mail.check(receive="intake"), mail.context())
    assert seen.outcome is Outcome.OK
    assert sum(seen.phases[stage] for stage in ("submitted", "relayed", "delivered", "seen")) == seen.latency_ms
    assert sink.arrivals() == ()
    assert mail.imap_sessions == 0
    await sink.close()


async def test_a_sink_where_nothing_comes_and_one_that_has_a_late_message(
    mail: Service, late: list[LateArrival]
) -> None:
    sink = await start(IntakeSettings(KEY, frozenset({LOGIN})), "127.0.0.1", 0)
    trips = RoundTrips("london", sink=sink, on_late=late.append)
    for octets in (own(300_000), own(300_000, location="paris"), own(2 * DAY, check="another-check")):
        sink.take(octets)
    seen = await trips.start(mail.check(receive="intake", deadline="1"), mail.context())
    assert (seen.outcome, seen.facts["late_arrivals"]) == (Outcome.NOT_ARRIVED, 1)
    assert [one.location for one in late] == ["london"]
    assert [one.token.location for one in sink.arrivals()] == ["paris"]
    await sink.close()


async def test_a_sink_that_is_closed_is_our_own_fault(mail: Service) -> None:
    sink = await start(IntakeSettings(KEY, frozenset({LOGIN})), "127.0.0.1", 0)
    running = asyncio.create_task(RoundTrips("london", sink=sink).start(mail.check(receive="intake"), mail.context()))
    while not vars(sink)["_waiting"]:
        await asyncio.sleep(0)
    await sink.close()
    assert (await running).outcome is Outcome.MONITOR_ERROR


# What cannot be done


@pytest.mark.parametrize(
    ("options", "detail"),
    [
        ({"token_secret": ""}, "option token_secret"),
        ({"token_secret": "short"}, "16 octets"),
        ({"token_secret": "missing"}, "secret missing"),
        ({"imap_secret": "missing"}, "secret missing"),
        ({"recipient": ""}, "option recipient"),
        ({"recipient": "a@b> NOTIFY=x"}, "option recipient"),
        ({"way": "pigeon"}, "option way"),
        ({"receive": "intake"}, "option receive"),
        ({"deadline": "0"}, "option deadline"),
        ({"deadline": "781"}, "option deadline"),
        ({"imap_port": "x"}, "option imap_port"),
        ({"retry": "soon"}, "option retry"),
    ],
)
async def test_a_check_that_cannot_be_done_sends_nothing(
    mail: Service, trips: RoundTrips, options: dict[str, str], detail: str
) -> None:
    seen = await trips.start(mail.check(**options), mail.context())
    assert seen.outcome is Outcome.MONITOR_ERROR
    assert detail in seen.detail
    assert mail.smtp_sessions == 0
