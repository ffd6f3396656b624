"""The certificate of a port: chain and name by the handshake itself, and how long it still lasts."""

from typing import Final

from smartmail.core.outcome import Outcome
from smartmail.core.roster import CheckSpec
from smartmail.monitor.probes.context import ProbeContext
from smartmail.monitor.probes.conversation import Conversation, connect, target_of
from smartmail.monitor.probes.imap import ImapSession
from smartmail.monitor.probes.observation import Observation, Visit, observe
from smartmail.monitor.probes.pop3 import Pop3Session
from smartmail.monitor.probes.sieve import SieveSession
from smartmail.monitor.probes.smtp import SmtpSession

WARN_DAYS: Final = 14
_DAY: Final = 86_400
_BY_PORT: Final = {25: "smtp", 587: "smtp", 143: "imap", 110: "pop3", 4190: "sieve"}


async def probe_certificate(check: CheckSpec, context: ProbeContext) -> Observation:
    """Handshake; CERTIFICATE where chain, name or time are wrong, OK_EXPIRES_SOON within the warning time.

    Options: starttls (smtp, imap, pop3, sieve or none; default by the port), warn_days, tls_name, family, resolver.
    """
    return await observe(check, context, _certificate)


async def _certificate(visit: Visit) -> Outcome:
    target = target_of(visit.check)
    warn_days = visit.number("warn_days", WARN_DAYS)
    protocol = visit.check.option("starttls") or _BY_PORT.get(target.port, "none")
    async with await connect(visit, target) as conversation:
        await _start_tls(conversation, protocol, target.tls_name)
    until = visit.facts.get("certificate_expires")
    if not isinstance(until, int):
        raise visit.failure(Outcome.MONITOR_ERROR, "the certificate cannot be read")
    left = until - visit.context.now_ms() // 1000
    if left >= warn_days * _DAY:
        return Outcome.OK
    visit.note = f"the certificate expires in {max(left, 0) // _DAY} days"
    return Outcome.OK_EXPIRES_SOON


async def _start_tls(conversation: Conversation, protocol: str, name: str) -> None:
    """The handshake, and a word of farewell whose answer is not waited for: it says nothing of the certificate."""
    if protocol == "none":
        await conversation.start_tls(name)
    elif protocol == "smtp":
        smtp = SmtpSession(conversation)
        await smtp.greeting()
        await smtp.hello()
        await smtp.upgrade(name)
        conversation.send(b"QUIT\r\n")
    elif protocol == "imap":
        imap = ImapSession(conversation)
        await imap.greeting()
        await imap.start_tls(name)
        conversation.send(b"Z LOGOUT\r\n")
    elif protocol == "pop3":
        pop3 = Pop3Session(conversation)
        await pop3.greeting()
        await pop3.start_tls(name)
        conversation.send(b"QUIT\r\n")
    elif protocol == "sieve":
        sieve = SieveSession(conversation)
        await sieve.greeting()
        await sieve.upgrade(name)
        conversation.send(b"LOGOUT\r\n")
    else:
        raise conversation.visit.failure(
            Outcome.MONITOR_ERROR, "option starttls is none of smtp, imap, pop3, sieve, none"
        )
