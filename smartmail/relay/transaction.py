"""One mail on its way: MAIL to the reply to the dot, between a client's session and an upstream connection.

The rules of what may happen are in core (policy, transfer); this file carries them out and writes the record.
250 to the dot is only ever the upstream's. Nothing is sent twice but an unanswered MAIL on a reused connection.
"""

import asyncio
import re
from collections.abc import Callable
from functools import partial
from time import perf_counter_ns
from typing import Final

from smartmail.core.policy import (
    Decision,
    Reason,
    Verdict,
    at_mail,
    at_rcpt,
)
from smartmail.core.queue_id import read_queue_id
from smartmail.core.reply import Reply, reply
from smartmail.core.smtp_events import ChunkAsked, Content, MailFrom, RcptTo
from smartmail.core.transfer import FATES, Fate, Loss, Phase
from smartmail.core.transfer import UPSTREAM_UNREACHABLE as UNREACHABLE
from smartmail.core.transfer import Charge as Settle
from smartmail.relay.charges import Charges, Recipient
from smartmail.relay.client import Client
from smartmail.relay.connection import Connection, UpstreamError
from smartmail.store.events import EventRow

# Looking a member up in its Enum takes Python 3.11 a tenth of a microsecond, each time.
_ACCEPTED, _OK, _OK_WORD = Verdict.ACCEPTED, Reason.OK, Reason.OK.value
_ENVELOPE, _ASKED, _STREAMING, _DOT_SENT = Phase
SENDER_OK: Final = reply(250, "2.1.0", "Ok")
_NO_STAGE: Final = ""
"""What comes to its end here is not counted: the client was waited for."""
_SIZE: Final = re.compile(rb" SIZE=[0-9]+")
UPSTREAM_CLOSING: Final = reply(451, "4.3.2", "The mail server behind this one is shutting down; try again later")
NO_CHUNKS: Final = reply(451, "4.3.3", "The mail server behind this one takes no BDAT for now; say EHLO and try again")


class Transaction:
    """From MAIL to the end. Ends exactly once: `done` turns True and the row is written."""

    __slots__ = (
        "_account",
        "_charges",
        "_client",
        "_connection",
        "_held",
        "_mail_is_open",
        "_marks",
        "_phase",
        "_pool",
        "_rcpt",
        "_refusal",
        "_results",
        "_services",
        "_size",
        "_started_ns",
        "_task",
        "_upstream_reply",
        "accepted",
        "done",
        "mail",
        "sender",
    )

    def __init__(self, client: Client, mail: MailFrom) -> None:
        self._client = client
        self._services = client.services
        # A reload may replace the pool: a connection goes back where it came from.
        self._pool = client.services.pool
        self._account = client.account
        self.mail = mail
        self.sender = "" if mail.sender is None else mail.sender.key
        self.accepted = 0
        self.done = False
        self._phase = _ENVELOPE
        self._mail_is_open = False
        """The upstream has answered MAIL with 2xx: its replies to RCPT mean something."""
        self._connection: Connection | None = None
        self._task: asyncio.Task[None] | None = None
        self._rcpt: Recipient | None = None
        """The recipient that the upstream is being asked about."""
        self._refusal: Decision | None = None
        self._results: list[tuple[str, int, str]] = []
        self._charges = Charges(client.services, client.account, mail.parameters.size)
        self._size = 0
        self._upstream_reply: Reply | None = None
        self._started_ns = self._services.clock.now_ns()
        self._marks: list[tuple[str, int]] = [(_NO_STAGE, perf_counter_ns())]
        """When each stage came to its end."""
        self._held = False
        """The client is not read: the upstream is slow."""

    # MAIL and RCPT

    def begin(self) -> None:
        """Decide on MAIL. The upstream hears of a mail with its first recipient that may pass, so that what we refuse
        never reaches it; what it thinks of the sender is then the answer to that RCPT (as Postfix's own
        smtpd_delay_reject has it)."""
        client = self._client
        decision = at_mail(client.door, client.account, self.sender)
        if decision.accepted:
            client.answer(SENDER_OK)
        else:
            self._refuse(decision)

    def add(self, rcpt: RcptTo) -> None:
        """Decide on a recipient, reserve, and take it to the upstream."""
        client, services = self._client, self._services
        recipient = Recipient(rcpt)
        destination = services.destination(recipient.key, recipient.domain)
        decision = at_rcpt(client.door, client.account, destination, self.accepted, self._most())
        if decision.accepted:
            decision = self._charges.reserve(recipient, client.budget)
        if not decision.accepted:
            self._recipient_refused(recipient, decision)
            return
        self._rcpt = recipient
        connection = self._connection
        if connection is not None:
            connection.send(recipient.command, self._rcpt_answered, self._pool.route.timeouts.rcpt)
            return
        self._stage(_NO_STAGE)
        self._pool = self._services.pool  # a reload may have replaced it
        connection = self._pool.take_idle()
        if connection is None or self._pool.wants_xclient(connection, client.identity):
            self._task = asyncio.get_running_loop().create_task(self._prepare(connection))
        else:
            self._introduce_mail(connection, recipient, fresh=False)

    async def _prepare(self, pooled: Connection | None) -> None:
        """Open a connection, or tell a pooled one who the client is, then go on with MAIL."""
        pool = self._pool
        try:
            connection = await pool.introduce(pooled, self._client.identity)
            if self.done or self._rcpt is None:
                pool.reset_and_give_back(connection)
            else:
                self._introduce_mail(connection, self._rcpt, fresh=connection.uses == 1)
        except UpstreamError as error:
            self._upstream_reply = error.reply
            self._lost(Loss.UPSTREAM_UNREACHABLE)
        except Exception as error:  # whatever it is, the client gets 451 and the log gets the reference
            self._broken(error)
        finally:
            self._task = None

    def _introduce_mail(self, connection: Connection, recipient: Recipient, *, fresh: bool) -> None:
        """XFORWARD, MAIL and the first RCPT: in one go where the upstream takes it (RFC 2920)."""
        self._stage("connect")
        self._connection = connection
        connection.on_blocked = self._blocked
        connection.on_fault = self._broken
        self._mail_is_open = False
        sender, parameters = self.mail.sender, self.mail.parameters.wire
        if parameters and "SIZE" not in connection.capabilities:
            parameters = _SIZE.sub(b"", parameters)
        path = b"" if sender is None else sender.wire.encode()
        mail = b"MAIL FROM:<%b>%b\r\n" % (path, parameters)
        forward = self._pool.forward_command(connection, self._client.identity)
        timeouts = self._pool.route.timeouts
        on_mail = self._mail_answered if fresh else self._mail_answered_on_reused
        if "PIPELINING" in connection.capabilities:
            for _ in range(forward.count(b"\n")):
                connection.expect(_ignore, timeouts.mail)
            connection.expect(on_mail, timeouts.mail)
            connection.send(forward + mail + recipient.command, self._rcpt_answered, timeouts.rcpt)
        elif forward:
            for _ in range(forward.count(b"\n") - 1):
                connection.expect(_ignore, timeouts.mail)
            connection.send(forward, partial(self._after_forward, connection, mail, on_mail), timeouts.mail)
        else:
            connection.send(mail, on_mail, timeouts.mail)

    def _after_forward(
        self, connection: Connection, mail: bytes, on_mail: Callable[[Reply | Loss], None], result: Reply | Loss
    ) -> None:
        if isinstance(result, Loss):
            on_mail(result)
        elif not self.done:
            connection.send(mail, on_mail, self._pool.route.timeouts.mail)

    def _mail_answered_on_reused(self, result: Reply | Loss) -> None:
        """An idle connection may have been closed in the same moment: MAIL has no effect yet, so it may be sent again
        on a new one."""
        if self.done:
            return
        if result is Loss.UPSTREAM_LOST or (isinstance(result, Reply) and result.code == 421):
            self._return_connection(reusable=False)
            self._task = asyncio.get_running_loop().create_task(self._prepare(None))
            return
        self._mail_answered(result)

    def _mail_answered(self, result: Reply | Loss) -> None:
        if self.done:
            return
        if isinstance(result, Loss):
            self._lost(result)
            return
        self._stage("mail")
        connection, recipient = self._connection, self._rcpt
        if not result.positive:
            if recipient is not None:
                self._note_recipient(recipient, _by_upstream(result))
            self._release_pending()
            self._upstream_refuses(result)
            return
        self._mail_is_open = True
        if connection is not None and recipient is not None and "PIPELINING" not in connection.capabilities:
            connection.send(recipient.command, self._rcpt_answered, self._pool.route.timeouts.rcpt)

    def _most(self) -> int:
        # An LMTP server answers the dot once for each recipient (RFC 2033 section 4.2) and SMTP has one reply only:
        # with one recipient there is nothing to lose between the two.
        return 1 if self._pool.route.lmtp else self._client.rules.max_recipients

    def _rcpt_answered(self, result: Reply | Loss) -> None:
        recipient = self._rcpt
        if self.done or recipient is None or not self._mail_is_open:
            return
        if isinstance(result, Loss):
            self._lost(result)
            return
        self._stage("rcpt")
        if result.positive:
            self._rcpt = None
            self.accepted += 1
            self._charges.keep(recipient)
            self._results.append((recipient.key, result.code, _OK_WORD))
            self._services.metrics.recipients[_ACCEPTED, _OK] += 1
            self._client.answer(result)
            return
        self._upstream_reply = result
        if result.code == 421:
            self._lost(Loss.UPSTREAM_LOST)
            return
        self._release_pending()
        self._recipient_refused(recipient, _by_upstream(result))

    def _recipient_refused(self, recipient: Recipient, decision: Decision) -> None:
        self._note_recipient(recipient, decision)
        self._client.answer(decision.reply or UNREACHABLE)

    @property
    def last_words(self) -> Reply:
        """What refused the mail, for commands that come when it has ended already."""
        refusal = self._refusal
        return UNREACHABLE if refusal is None or refusal.reply is None else refusal.reply

    def _note_recipient(self, recipient: Recipient, decision: Decision) -> None:
        answer = decision.reply or UNREACHABLE
        self._refusal = decision
        self._results.append((recipient.key, answer.code, decision.reason.value))
        self._services.metrics.recipients[decision.verdict, decision.reason] += 1

    # content

    def ask_data(self) -> None:
        """DATA: 354 only after the upstream's 354."""
        if self._forbidden_by_now():
            return
        connection = self._connection
        if connection is None:
            self._lost(Loss.UPSTREAM_LOST)
            return
        self._phase = _ASKED
        connection.send(b"DATA\r\n", self._data_answered, self._pool.route.timeouts.data)

    def _forbidden_by_now(self) -> bool:
        """Policy speaks once more before content where the account is not what it was at MAIL. True: it said no."""
        client = self._client
        if client.account is self._account:
            return False
        decision = at_mail(client.door, client.account, self.sender)
        taken = [key for key, _, reason in self._results if reason == _OK_WORD]
        while taken and decision.accepted:
            key = taken.pop()
            destination = self._services.destination(key, key.rpartition("@")[2])
            decision = at_rcpt(client.door, client.account, destination, 0, 1)
        if decision.accepted:
            return False
        self._refusal = decision
        self._abandon(decision.verdict, decision.reason)
        self._end_with(decision.reply or UNREACHABLE)
        return True

    def _data_answered(self, result: Reply | Loss) -> None:
        if self.done:
            return
        if isinstance(result, Loss):
            self._lost(result)
            return
        self._stage("data")
        if result.code != 354:
            self._phase = _ENVELOPE
            self._upstream_refuses(result)
            return
        connection = self._connection
        if connection is None:
            return
        self._phase = _STREAMING
        connection.expect(self._content_answered, 0)
        if not self._client.go_ahead(result):
            self._abandon(Verdict.ABORTED, Reason.EARLY_TALK)

    def chunk(self, asked: ChunkAsked) -> None:
        """BDAT: its header goes up at once, its octets follow."""
        connection = self._connection
        if connection is None or connection.lost:
            self._lost(Loss.UPSTREAM_LOST)
            return
        if "CHUNKING" not in connection.capabilities:
            # EHLO promised it for another connection. This one would take the octets for commands.
            self._refusal = Decision(Verdict.DEFERRED, Reason.UPSTREAM_DEFERRED, NO_CHUNKS)
            self._abandon(Verdict.DEFERRED, Reason.UPSTREAM_DEFERRED)
            self._end_with(NO_CHUNKS)
            return
        if not self._size and self._forbidden_by_now():
            return
        last = b" LAST" if asked.last else b""
        self._phase = _STREAMING
        connection.expect(self._content_answered, 0)
        connection.write(b"BDAT %d%b\r\n" % (asked.size, last))
        if not asked.size:
            self._end_of_octets(last=asked.last)

    def content(self, content: Content, *, last: bool) -> None:
        """Octets as they came. last: with `content.end`, the whole message has been sent."""
        connection = self._connection
        if connection is None or self.done:
            return
        self._size += len(content.octets)
        connection.write(content.octets)
        if content.end:
            self._end_of_octets(last=last)

    def _end_of_octets(self, *, last: bool) -> None:
        self._stage("content")
        if last:
            self._phase = _DOT_SENT
        if self._connection is not None:
            timeouts = self._pool.route.timeouts
            self._connection.due_in(timeouts.dot)

    def refuse_content(self, answer: Reply, reason: Reason) -> None:
        """The content broke a rule; the session swallows the rest and says `answer`."""
        self._refusal = Decision(Verdict.REJECTED, reason, answer)
        self._abandon(Verdict.REJECTED, reason)

    def _content_answered(self, result: Reply | Loss) -> None:
        """The reply to the dot, or to a chunk; or one that came before it was due."""
        if self.done:
            return
        if isinstance(result, Loss):
            self._lost(result)
            return
        self._upstream_reply = result
        if self._phase is _STREAMING:
            self._reply_while_streaming(result)
            return
        self._stage("dot")
        if result.positive:
            self._charges.commit(self._size)
            connection, self._connection = self._connection, None
            if connection is not None:
                self._stop_listening(connection)
                self._pool.give_back(connection)
            self._finish(_ACCEPTED, _OK, result)
            self._client.answer(result)
            return
        self._upstream_refuses(result)

    def _reply_while_streaming(self, result: Reply) -> None:
        """A chunk was answered; or the upstream spoke before it had the whole of the content."""
        if result.positive and self._client.waits_for_answer:
            self._phase = _ENVELOPE
            self._client.answer(result)
        elif result.positive:
            self._lost(Loss.UPSTREAM_LOST)
        else:
            decision = _by_upstream(result)
            self._abandon(decision.verdict, decision.reason)
            self._end_with(decision.reply or result)

    # endings

    def reset(self) -> None:
        """The client gave the transaction up at a command boundary (RSET, EHLO, QUIT)."""
        refusal = self._refusal if self.accepted == 0 else None
        if refusal is not None:
            self._abandon(refusal.verdict, refusal.reason)
        else:
            self._abandon(Verdict.ABORTED, Reason.CLIENT_RESET)

    def end_by_us(self, reason: Reason) -> None:
        """We end the session (standing, drain, timeout) before the dot."""
        self._abandon(Verdict.ABORTED, reason)

    def client_lost(self, loss: Loss) -> Fate | None:
        """The client is gone or too slow. Returns what to do about it; None if the transaction had ended."""
        if self.done:
            return None
        fate = FATES[self._phase][loss]
        if not fate.finish:
            self._abandon(fate.verdict, fate.reason)
        return fate

    def _blocked(self, blocked: bool) -> None:
        self._held = blocked
        self._client.hold(reading=not blocked)
        if self._connection is not None and self._phase is _STREAMING:
            self._connection.due_in(self._pool.route.timeouts.block if blocked else 0)

    def _lost(self, loss: Loss) -> None:
        """The upstream is gone or silent."""
        fate = FATES[self._phase][loss]
        answer = fate.reply or UNREACHABLE
        if self._rcpt is not None and not self.done:
            self._note_recipient(self._rcpt, Decision(fate.verdict, fate.reason, answer))
        self._release_pending()
        if fate.charge is Settle.COMMIT:
            self._charges.commit(self._size)
        else:
            self._charges.release_all()
        self._finish(fate.verdict, fate.reason, answer)
        self._return_connection(reusable=False)
        self._end_with(answer)

    def _upstream_refuses(self, result: Reply) -> None:
        """MAIL, DATA or the dot was answered 4xx or 5xx."""
        decision = _by_upstream(result)
        self._upstream_reply = result
        self._charges.release_all()
        answer = decision.reply or result
        self._finish(decision.verdict, decision.reason, answer)
        # A positive reply where none can be: the two of us no longer speak of the same thing.
        self._return_connection(reusable=result.code >= 400 and result.code != 421)
        self._client.answer(answer)

    def _refuse(self, decision: Decision) -> None:
        """MAIL is refused by us."""
        answer = decision.reply or UNREACHABLE
        self._refusal = decision
        self._finish(decision.verdict, decision.reason, answer)
        self._client.answer(answer)

    def _broken(self, error: BaseException) -> None:
        answer = self._client.fault(error)
        self._abandon(Verdict.DEFERRED, Reason.INTERNAL_ERROR)
        self._return_connection(reusable=False)
        self._end_with(answer)

    def _abandon(self, verdict: Verdict, reason: Reason) -> None:
        """End without the upstream's say: nothing of this mail may stay there."""
        if self.done:
            return
        self._release_pending()
        self._charges.release_all()
        answer = self._refusal.reply if self._refusal is not None else None
        # First of all: a connection that is cut says so to whoever waits on it, and this mail has ended already.
        self._finish(verdict, reason, answer)
        self._return_connection(reusable=self._phase is _ENVELOPE)

    def _end_with(self, answer: Reply) -> None:
        """Tell the client, at once if it waits for a reply, else when its content has been swallowed."""
        if self._client.waits_for_answer:
            self._client.answer(answer)
        else:
            self._client.swallow(answer)

    def _return_connection(self, *, reusable: bool) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        self._stop_listening(connection)
        if reusable and (connection.clean or "PIPELINING" in connection.capabilities):
            self._pool.reset_and_give_back(connection)
        else:
            connection.abort()

    def _stop_listening(self, connection: Connection) -> None:
        """This mail has no more to do with it. A client that was held for its slowness is read again."""
        connection.on_blocked = connection.on_fault = None
        if self._held:
            self._held = False
            self._client.hold(reading=True)

    def _release_pending(self) -> None:
        """A recipient whose reply never came."""
        if self._rcpt is not None:
            self._charges.release(self._rcpt)
            self._rcpt = None

    def _stage(self, stage: str) -> None:
        """A stage has come to its end."""
        self._marks.append((stage, perf_counter_ns()))

    def _count_stages(self) -> dict[str, int]:
        """Into the metrics, each; and their sums for the record, in microseconds."""
        timings: dict[str, int] = {}
        histograms = self._services.metrics.stages
        began = 0
        for stage, ended in self._marks:
            if stage:
                spent = (ended - began) // 1000
                timings[stage] = timings.get(stage, 0) + spent
                histograms[stage].observe(spent)
            began = ended
        return timings

    def _finish(self, verdict: Verdict, reason: Reason, answer: Reply | None) -> None:
        """Write the record, once."""
        if self.done:
            return
        self.done = True
        client, services = self._client, self._services
        services.metrics.transactions[verdict, reason] += 1
        if self._size and verdict is _ACCEPTED:
            services.metrics.content_bytes += self._size
        identity, account = client.identity, client.account
        upstream, refusal = self._upstream_reply, self._refusal
        said = str(answer or "")
        timings = self._count_stages()
        # By place, not by name, which takes twice as long with that many.
        row = EventRow(
            self._started_ns,
            client.session_id,
            client.listener_name,
            identity.address,
            "" if client.network == identity.address else client.network,
            identity.helo,
            client.tls_name,
            identity.login,
            None if account is None else account.id,
            self.sender,
            self._results,
            str(verdict),
            str(reason),
            refusal.limit if refusal is not None and reason is Reason.LIMIT_REACHED else "",
            said,
            self._pool.name if timings else "",
            said if upstream is answer else str(upstream or ""),
            read_queue_id(upstream.text) if verdict is _ACCEPTED and upstream is not None else "",
            self._size,
            self.accepted,
            timings,
        )
        services.put_row(row)


def _ignore(result: Reply | Loss) -> None:
    """XFORWARD informs; whether it is taken decides nothing."""


def _by_upstream(result: Reply) -> Decision:
    """The upstream said no: its own words, but for a 421, which speaks of its connection and not of ours."""
    if result.code == 421:
        return Decision(Verdict.DEFERRED, Reason.UPSTREAM_DEFERRED, UPSTREAM_CLOSING)
    if result.code < 400:
        return Decision(Verdict.DEFERRED, Reason.UPSTREAM_LOST, UNREACHABLE)
    if result.transient:
        return Decision(Verdict.DEFERRED, Reason.UPSTREAM_DEFERRED, result)
    return Decision(Verdict.REJECTED, Reason.UPSTREAM_REFUSED, result)
