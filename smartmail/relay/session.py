"""One client connection: octets to and from core/smtp.py, timers, TLS. A mail is a Transaction's, AUTH a Login's."""

import asyncio
import ssl
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, cast

from smartmail.core.budget import Budget
from smartmail.core.policy import SESSION_ENDED, Decision, Door, Reason, Verdict, at_login
from smartmail.core.reply import Reply, reply
from smartmail.core.smtp import Session
from smartmail.core.smtp_events import (
    AuthResponse,
    AuthStart,
    ChunkAsked,
    Content,
    ContentRefused,
    DataAsked,
    Hello,
    MailFrom,
    Quit,
    RcptTo,
    Refused,
    StartTls,
    TransactionReset,
)
from smartmail.core.smtp_replies import EARLY_TALK
from smartmail.core.smtp_states import CHUNK, CONTENT
from smartmail.core.standing import Account
from smartmail.core.transfer import CLIENT_TOO_SLOW, UPSTREAM_UNREACHABLE, Loss
from smartmail.core.xclient import Identity
from smartmail.relay.auth import AuthResult
from smartmail.relay.login import Login
from smartmail.relay.transaction import Transaction

if TYPE_CHECKING:
    from smartmail.relay.listener import Listener, Peer
    from smartmail.relay.server import Relay

READ_HIGH: Final = 65536
"""Octets kept while an answer is due, beyond which the client is not read."""
GRACE_SECONDS: Final = 30
"""How long content may come slower than the rate floor before the rate counts."""
HANDSHAKE_SECONDS: Final = 30
FAREWELL_SECONDS: Final = 30
"""How long a client may take to read our last words."""

TIMED_OUT: Final = reply(421, "4.4.2", "Nothing heard for too long; closing the connection")
DRAINING: Final = reply(421, "4.3.2", "The server is shutting down; try again later")
TOO_MANY_SESSIONS: Final = reply(421, "4.7.0", "Too many connections from your network; try again later")
TOO_MANY_LOGINS: Final = reply(421, "4.7.0", "Too many connections of this account; close some")
SERVER_FULL: Final = reply(421, "4.3.2", "Too many connections; try again later")
TOO_MANY_REFUSED: Final = reply(421, "4.7.0", "Too many refused recipients; closing the connection")
MAX_REFUSED_RECIPIENTS: Final = 100
"""Refused recipients in one session: a mailing list has a few, a harvester has only these."""


class ClientSession(asyncio.Protocol):
    """The protocol of one client. The owner (`Relay`) sweeps its deadline and ends it when told to."""

    __slots__ = (
        "_client",
        "_content_octets",
        "_ends_after_mail",
        "_exposed",
        "_half_closed",
        "_identity",
        "_last_chunk",
        "_login",
        "_paused",
        "_peer",
        "_pumping",
        "_reading_seconds",
        "_refused_recipients",
        "_relay",
        "_smtp",
        "_tls_task",
        "_transport",
        "account",
        "budget",
        "door",
        "ending",
        "heard",
        "helo",
        "listener",
        "network",
        "rules",
        "services",
        "session_id",
        "tls_name",
        "transaction",
    )

    def __init__(self, relay: "Relay", listener: "Listener", peer: "Peer | None" = None) -> None:
        """peer: the client as a PROXY header named it; None: ask the socket."""
        self._relay = relay
        self._peer = peer
        self._client = ("", 0)
        self.listener = listener
        self.services = relay.services
        self.rules = relay.services.rules
        self._smtp = Session(listener.terms, listener.no_offer)
        self._transport: asyncio.Transport | None = None
        self._login: Login | None = None
        self._tls_task: asyncio.Task[None] | None = None
        self._pumping = False
        self._paused = 0
        self._last_chunk = True
        self._content_octets = 0
        self._reading_seconds = 0
        self._refused_recipients = 0
        self._exposed = False
        self._half_closed = False
        self._ends_after_mail = False
        self.account: Account | None = None
        self.transaction: Transaction | None = None
        self.ending: Reply | None = None
        """Said at the next command boundary, when the session ends."""
        self.heard = 0.0
        """Loop time, to the second, at which the client last got on with something."""
        self.tls_name = ""
        self.session_id = ""
        self.network = ""
        self.door: Door = listener.closed_door
        self.budget: Budget = relay.no_budget
        self.helo = ""
        self._identity: Identity | None = None

    @property
    def listener_name(self) -> str:
        """For event rows."""
        return self.listener.name

    @property
    def identity(self) -> Identity:
        """The client as the upstream is to know it."""
        identity = self._identity
        if identity is None:
            address, port = self._client
            here = self._peer.here if self._peer is not None else self.listener.local_address(self._transport)
            proto = "ESMTP" if self._smtp.extended else "SMTP"
            login = "" if self.account is None else self.account.address
            identity = self._identity = Identity("", address, port, proto, self.helo, login, *here)
        return identity

    def speak_for(self, account: Account | None) -> None:
        """Whose mails this session's are from now on; None: nobody's that logged in."""
        self.account = account
        self._identity = None
        self.budget = self._relay.budget_of(account, self.network)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        relay = self._relay
        peer = self._peer.client if self._peer is not None else transport.get_extra_info("peername")
        if peer is None:  # reset before it was accepted: the system has forgotten who it was
            self._transport.abort()
            return
        self._client = (peer[0], peer[1])
        self.network, self.door = self.listener.know(peer[0], self.rules)
        self.session_id = relay.next_session_id()
        if self.listener.tls_first and (tls := transport.get_extra_info("ssl_object")):
            self._note_tls(tls)
        self.budget = relay.budget_of(None, self.network)
        self._exposed = True
        refusal = relay.admit(self)
        self.heard = relay.tick.now
        if refusal is not None:
            self._refuse_session(refusal)
        elif delay := self.listener.greeting_delay:
            asyncio.get_running_loop().call_later(delay, self._greet)
        elif not (self.tls_name or self.door.trusted) and relay.talks_already(
            transport.get_extra_info("socket").fileno()
        ):
            self._refuse_session(Decision(Verdict.REJECTED, Reason.EARLY_TALK, EARLY_TALK))
        else:
            self._greet()

    def data_received(self, data: bytes) -> None:
        smtp = self._smtp
        if smtp.state is CONTENT or smtp.state is CHUNK:
            self._content_octets += len(data)
        smtp.receive(data)
        if not smtp.waiting:
            self._pump()
        elif smtp.backlog > READ_HIGH:
            self._pause(_FOR_BACKLOG)

    def eof_received(self) -> bool:
        # A client that only closes its sending side may still read the replies to what it has sent.
        self._half_closed = self._smtp.waiting and not self.tls_name
        return self._half_closed

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._exposed:
            return
        self._exposed = False
        self._relay.forget(self)
        if self._login is not None:
            self._login.cancel()
        if self._tls_task is not None:
            self._tls_task.cancel()
        transaction, self.transaction = self.transaction, None  # and no cycle for the collector to find
        if transaction is not None:
            transaction.client_lost(Loss.CLIENT_LOST)
        self._transport = None
        self._smtp.close(DRAINING)

    def pause_writing(self) -> None:
        self._pause(_FOR_WRITING)

    def resume_writing(self) -> None:
        self._resume(_FOR_WRITING)

    # what the relay tells

    def end_at_boundary(self, farewell: Reply, *, after_mail: bool = False) -> None:
        """Say `farewell` (421) as soon as no command is under way; now, if none is. after_mail: let an open
        transaction come to its end first."""
        self.ending = farewell
        self._ends_after_mail = after_mail
        self._end_if_due()
        self._flush()

    def _end_if_due(self) -> None:
        if self.ending is None or not self._smtp.at_boundary or (self._ends_after_mail and self.busy):
            return
        self._finish(self.ending, _reason_of(self.ending))

    def account_changed(self, account: Account | None) -> None:
        """The directory has news of this session's account; None: it is gone."""
        if account is None:
            self.end_at_boundary(SESSION_ENDED[Reason.ACCOUNT_CLOSED])
            return
        decision = at_login(account)
        if not decision.accepted:
            self.end_at_boundary(SESSION_ENDED[decision.reason])
            return
        self.speak_for(account)

    def sweep(self, now: float) -> None:
        """Once a second: has the client been silent, or too slow, for too long?"""
        if self._smtp.closed:
            if now - self.heard > FAREWELL_SECONDS:
                self.abort()
            return
        if self._smtp.waiting or self._paused & _FOR_UPSTREAM:
            return
        if self._smtp.in_content:
            self._reading_seconds += 1
            late = self._reading_seconds - GRACE_SECONDS
            if late > 0 and self._content_octets < late * self.rules.min_data_rate:
                self._cut(Loss.CLIENT_SLOW, CLIENT_TOO_SLOW, Reason.TOO_SLOW)
                return
        patience = self.rules.block_seconds if self._smtp.in_content else self.rules.command_seconds
        if now - self.heard > patience:
            self._cut(Loss.CLIENT_SLOW, TIMED_OUT, Reason.TIMEOUT)

    @property
    def busy(self) -> bool:
        """A transaction is open: a drain waits for it."""
        return self.transaction is not None and not self.transaction.done

    def abort(self) -> None:
        """Cut the connection without a word."""
        if self._transport is not None:
            self._transport.abort()

    # what a transaction asks

    @property
    def waits_for_answer(self) -> bool:
        """A command, or the end of the content, has not been answered yet."""
        return self._smtp.waiting

    def answer(self, answer: Reply) -> None:
        """Answer the command that waits."""
        smtp = self._smtp
        smtp.answer(answer)
        self.heard = self._relay.tick.now
        if answer.code >= 400:
            self._note_refusal()
        if smtp.kept or self.ending is not None or self._paused:
            self._pump()
        elif not self._pumping:
            self._flush()

    def go_ahead(self, answer: Reply) -> bool:
        """Pass a 354 on; False: the client had talked early and is gone."""
        accepted = self._smtp.accept_data(answer)
        self._content_octets = self._reading_seconds = 0
        self._pump()
        return accepted

    def swallow(self, answer: Reply) -> None:
        """Read the content to its end, then say this."""
        self._smtp.discard(answer)

    def hold(self, *, reading: bool) -> None:
        """Stop or go on reading content: the upstream is slow."""
        if reading:
            self._resume(_FOR_UPSTREAM)
        else:
            self._pause(_FOR_UPSTREAM)

    def fault(self, error: BaseException) -> Reply:
        """A fault of ours: log it, return 451 with its reference."""
        return self._relay.internal_error(error, self.session_id)

    # what a login asks

    def logged_in(self, result: AuthResult) -> Reply:
        """AUTH has ended so; returns the answer."""
        return self._relay.logged_in(self, result)

    def resume_with(self, step: Callable[[], None]) -> None:
        """Carry out what has been waited for, then go on with what the client has sent meanwhile."""
        try:
            step()
        except Exception as error:  # as in _pump: the client must hear of it, and the loop must not
            self._break(error)
        self._pump()

    # inside

    def _greet(self) -> None:
        if self._transport is None or self._smtp.closed:
            return
        self._smtp.open(self.listener.banner)
        if self._smtp.closed:
            self._relay.count_refused(self, Reason.EARLY_TALK)
        self._pump()

    def _pump(self) -> None:
        """Carry out what the session says until it waits. Never entered twice."""
        if self._pumping:
            return
        self._pumping = True
        smtp = self._smtp
        moved = False
        try:
            while True:
                if self.ending is not None:  # also between commands that came in one go
                    self._end_if_due()
                event = smtp.next_event()
                if event is None:
                    break
                moved = True
                _HANDLERS[type(event)](self, event)
                if self.ending is None and (smtp.waiting or not smtp.kept):
                    break
        except Exception as error:  # our fault is never the client's 5xx, nor the end of the process
            self._break(error)
        finally:
            self._pumping = False
        if moved or not smtp.kept:  # a part of a line is no progress: it would make the time for a command endless
            self.heard = self._relay.tick.now
        if self._paused & _FOR_BACKLOG and not smtp.waiting:
            self._resume(_FOR_BACKLOG)
        if smtp.said or smtp.closed or self._half_closed:
            self._flush()

    def _flush(self) -> None:
        transport, smtp = self._transport, self._smtp
        if transport is None:
            return
        if smtp.said:
            self.services.outbox.write(transport, smtp.output())
        if smtp.closed or (self._half_closed and not smtp.waiting):
            self.services.outbox.close(transport)

    def _break(self, error: BaseException) -> None:
        answer = self.fault(error)
        if self.transaction is not None:
            self.transaction.end_by_us(Reason.INTERNAL_ERROR)
        self._smtp.close(answer)

    def _cut(self, loss: Loss, farewell: Reply, reason: Reason) -> None:
        if self.transaction is not None:
            fate = self.transaction.client_lost(loss)
            if fate is not None and fate.finish:
                return
        self._relay.count_refused(self, reason)
        self._smtp.close(farewell)
        self._flush()

    def _finish(self, farewell: Reply, reason: Reason) -> None:
        if self.transaction is not None:
            self.transaction.end_by_us(reason)
        self._smtp.close(farewell)

    def _refuse_session(self, decision: Decision) -> None:
        self._relay.count_refused(self, decision.reason)
        self._smtp.close(decision.reply or SERVER_FULL)
        self._flush()

    def _pause(self, why: int) -> None:
        if not self._paused and self._transport is not None:
            self._transport.pause_reading()
        self._paused |= why

    def _resume(self, why: int) -> None:
        if not self._paused & why:
            return
        self._paused &= ~why
        if not self._paused and self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
            self.heard = self._relay.tick.now

    def _note_refusal(self) -> None:
        self._refused_recipients += 1
        if self._refused_recipients > MAX_REFUSED_RECIPIENTS:
            self.ending = self.ending or TOO_MANY_REFUSED

    def _note_tls(self, tls: ssl.SSLObject | ssl.SSLSocket) -> None:
        cipher = tls.cipher()
        self.tls_name = f"{tls.version()} {cipher[0] if cipher else ''}".strip()
        self._smtp.tls = True

    # events

    def _on_hello(self, event: Hello) -> None:
        if event.ends_transaction:
            self._reset()
        if self.rules is not self.services.rules:
            self._renew_rules()
        self.helo = event.name
        self._identity = None
        self._smtp.greet(self.listener.offer(self._smtp, self.services), extended=event.extended)

    def _on_starttls(self, event: StartTls) -> None:
        transport = self._transport
        if transport is None:
            return
        self._flush()
        self.services.outbox.flush()
        transport.pause_reading()
        self._tls_task = asyncio.get_running_loop().create_task(self._start_tls(transport))

    async def _start_tls(self, transport: asyncio.Transport) -> None:
        context = self.listener.tls
        try:
            if context is None:
                raise ssl.SSLError("no certificate")
            secured = await asyncio.get_running_loop().start_tls(
                transport, self, context, server_side=True, ssl_handshake_timeout=HANDSHAKE_SECONDS
            )
        except (OSError, ssl.SSLError, TimeoutError):
            self._relay.count_refused(self, Reason.TLS_REQUIRED)
            transport.abort()
            self.connection_lost(None)
            return
        finally:
            self._tls_task = None
        if secured is None or not self._exposed:
            self.connection_lost(None)
            return
        self._transport = secured
        self._paused = 0
        self._note_tls(secured.get_extra_info("ssl_object"))
        self.helo = ""
        # What was said before TLS may have been said by anybody (RFC 3207 section 4.2).
        self._relay.log_out(self)
        self.speak_for(None)
        self._smtp.offer = self.listener.no_offer
        self._smtp.tls_started()
        self.heard = self._relay.tick.now
        self._pump()

    def _on_auth(self, event: AuthStart) -> None:
        if self._login is None:
            self._login = Login(self, self._smtp)
        self._login.begin(event)

    def _on_auth_response(self, event: AuthResponse) -> None:
        if self._login is None:
            raise AssertionError("a response without AUTH")
        if event.octets is None:
            self._login.cancel()
        else:
            self._login.go_on(event.octets)

    def _on_mail(self, event: MailFrom) -> None:
        if self.rules is not self.services.rules:
            self._renew_rules()
        self._content_octets = 0
        self.transaction = Transaction(self, event)
        self.transaction.begin()

    def _renew_rules(self) -> None:
        self.rules = self.services.rules
        _, self.door = self.listener.know(self._client[0], self.rules)

    def _last_words(self) -> Reply:
        """Of a transaction that has ended before the client could know: each further command hears the same."""
        return UPSTREAM_UNREACHABLE if self.transaction is None else self.transaction.last_words

    def _on_rcpt(self, event: RcptTo) -> None:
        transaction = self.transaction
        if transaction is None or transaction.done:
            self._smtp.answer(self._last_words())
        else:
            transaction.add(event)

    def _on_data(self, event: DataAsked) -> None:
        self._last_chunk = True
        transaction = self.transaction
        if transaction is None or transaction.done:
            self._smtp.answer(self._last_words())
        else:
            transaction.ask_data()

    def _on_chunk(self, event: ChunkAsked) -> None:
        self._last_chunk = event.last
        self._reading_seconds = 0
        self._content_octets = self._smtp.backlog
        transaction = self.transaction
        if transaction is not None and not transaction.done:
            transaction.chunk(event)
        elif event.size:
            self._smtp.discard(self._last_words())
        else:
            self._smtp.answer(self._last_words())

    def _on_content(self, event: Content) -> None:
        if self.transaction is not None:
            self.transaction.content(event, last=self._last_chunk)

    def _on_content_refused(self, event: ContentRefused) -> None:
        if self.transaction is not None:
            too_large = event.reply.code == 552
            self.transaction.refuse_content(event.reply, Reason.MESSAGE_TOO_LARGE if too_large else Reason.BAD_CONTENT)

    def _on_reset(self, event: TransactionReset) -> None:
        self._reset()

    def _on_refused(self, event: Refused) -> None:
        self.services.metrics.offences[str(event.reply.code)] += 1
        if event.closing and self.transaction is not None:
            self.transaction.end_by_us(Reason.BAD_SYNTAX)

    def _on_quit(self, event: Quit) -> None:
        self._reset()

    def _reset(self) -> None:
        transaction, self.transaction = self.transaction, None
        if transaction is not None:
            transaction.reset()


_FOR_BACKLOG: Final = 1  # an answer is due, and much has come meanwhile
_FOR_WRITING: Final = 2  # the client doesn't read what it is told
_FOR_UPSTREAM: Final = 4  # the upstream doesn't read content


def _reason_of(farewell: Reply) -> Reason:
    for reason, said in SESSION_ENDED.items():
        if said is farewell:
            return reason
    return Reason.DRAINING if farewell is DRAINING else Reason.TIMEOUT


_HANDLERS: Final[Mapping[type[Any], Callable[[ClientSession, Any], None]]] = {
    Hello: ClientSession._on_hello,
    StartTls: ClientSession._on_starttls,
    AuthStart: ClientSession._on_auth,
    AuthResponse: ClientSession._on_auth_response,
    MailFrom: ClientSession._on_mail,
    RcptTo: ClientSession._on_rcpt,
    DataAsked: ClientSession._on_data,
    ChunkAsked: ClientSession._on_chunk,
    Content: ClientSession._on_content,
    ContentRefused: ClientSession._on_content_refused,
    TransactionReset: ClientSession._on_reset,
    Refused: ClientSession._on_refused,
    Quit: ClientSession._on_quit,
}
