"""The round trip through a real Postfix and a real Dovecot."""

import asyncio
import os
import smtplib
import ssl
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "servers"))

from support.mailservers import (
    DOVECOT_CONF,
    MAIL_UID,
    USERS,
    Dovecot,
    Postfix,
    messages,
    messages_with,
    password,
    run_postfix,
)
from support.processes import Process, answers, eventually, free_port, need, run, short_directory
from support.relayserver import Certificate, make_certificate

from smartmail.core.outcome import Outcome
from smartmail.core.probe_token import HEADER, make
from smartmail.core.roster import CheckKind, CheckSpec
from smartmail.monitor.probes.context import ProbeContext, SecretSource, make_context
from smartmail.monitor.roundtrip import LateArrival, RoundTrips
from smartmail.monitor.roundtrip_send import compose

pytestmark = pytest.mark.servers

PROBE, OTHER = "carol@example.com", "bob@example.com"
KEY = "the key of the tokens, long enough"


@dataclass(frozen=True)
class Mail:
    """Postfix with STARTTLS and AUTH, Dovecot with IMAPS, and the secrets of a probe."""

    postfix: Postfix
    dovecot: Dovecot
    imaps_port: int
    certificate: Certificate
    secrets: Path

    def check(self, **options: str) -> CheckSpec:
        """A round trip through them."""
        usual = {
            "recipient": PROBE,
            "secret": "login",
            "token_secret": "tokens",
            "imap_port": str(self.imaps_port),
            "deadline": "60",
        }
        kept = MappingProxyType({**usual, **options})
        return CheckSpec(
            "trip", "mail", CheckKind.ROUND_TRIP, "localhost", self.postfix.port, ("london",), options=kept
        )

    def context(self, ahead_ms: int = 0) -> ProbeContext:
        """Trusts their certificate. ahead_ms: of the clock."""
        return make_context(SecretSource(self.secrets), ca_file=self.certificate.file, now_ms=lambda: _now() + ahead_ms)

    def submit(self, sender: str, recipient: str, content: bytes) -> None:
        """Mail of somebody, at the end in a mailbox."""
        trusted = ssl.create_default_context(cafile=self.certificate.file)
        with smtplib.SMTP("localhost", self.postfix.port) as client:
            client.starttls(context=trusted)
            client.login(sender, password(sender))
            client.sendmail(sender, [recipient], content)
        self.postfix.wait_empty()

    @property
    def mailbox(self) -> Path:
        """The probe's Maildir."""
        return self.dovecot.maildir(PROBE)


def _now() -> int:
    return time.time_ns() // 1_000_000


@contextmanager
def _dovecot(certificate: Certificate) -> Iterator[tuple[Dovecot, int]]:
    need("dovecot")
    with short_directory("tripdovecot") as directory:
        server, imaps_port = Dovecot(directory, free_port()), free_port()
        for name in ("run", "mail"):
            (directory / name).mkdir(mode=0o755)
        os.chown(directory / "mail", MAIL_UID, MAIL_UID)
        (directory / "users").write_text("".join(f"{user}:{{PLAIN}}{password(user)}::::::\n" for user in USERS))
        text = DOVECOT_CONF.format(directory=directory, uid=MAIL_UID, imap_port=server.imap_port).lstrip()
        changes = {
            "ssl = no\n": f"ssl = yes\nssl_cert = <{certificate.file}\nssl_key = <{certificate.key}\n",
            "recipient_delimiter =\n": (
                "recipient_delimiter = +\nlmtp_save_to_detail_mailbox = yes\nlda_mailbox_autocreate = yes\n"
            ),
            "inet_listener imaps {\n    port = 0\n": f"inet_listener imaps {{\n    port = {imaps_port}\n",
        }
        for old, new in changes.items():
            assert old in text
            text = text.replace(old, new)
        (directory / "dovecot.conf").write_text(text)
        process = Process(["/usr/sbin/dovecot", "-F", "-c", str(directory / "dovecot.conf")], directory / "output")
        try:
            eventually(answers(imaps_port, process.popen), "Dovecot's IMAPS")
            eventually(server.lmtp_socket.exists, "Dovecot's LMTP socket")
            yield server, imaps_port
        finally:
            process.stop()


@pytest.fixture(scope="module")
def mail(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mail]:
    """Both servers."""
    secrets = tmp_path_factory.mktemp("secrets")
    certificate = make_certificate(tmp_path_factory.mktemp("certificate"))
    for name, text in {"login": f"{PROBE}\n{password(PROBE)}\n", "tokens": f"tokens\n{KEY}\n"}.items():
        (secrets / name).write_text(text)
        (secrets / name).chmod(0o600)
    with _dovecot(certificate) as (dovecot, imaps_port):
        settings = {
            "myhostname": "mx.example.com",
            "mynetworks": "192.0.2.0/24",
            "virtual_mailbox_domains": "example.com",
            "virtual_mailbox_maps": "texthash:{directory}/conf/users",
            "virtual_transport": f"lmtp:unix:{dovecot.lmtp_socket}",
            "recipient_delimiter": "+",
            "smtpd_tls_security_level": "may",
            "smtpd_tls_cert_file": str(certificate.file),
            "smtpd_tls_key_file": str(certificate.key),
            "smtpd_tls_auth_only": "yes",
            "smtpd_sasl_auth_enable": "yes",
            "smtpd_sasl_type": "dovecot",
            "smtpd_sasl_path": str(dovecot.auth_socket),
            "smtpd_relay_restrictions": "permit_sasl_authenticated, reject_unauth_destination",
        }
        users = "".join(f"{user} ok\n" for user in USERS)
        with run_postfix(settings, {"users": users}) as postfix:
            yield Mail(postfix, dovecot, imaps_port, certificate, secrets)


async def test_sent_by_submission_and_seen_by_imap_with_its_stages(mail: Mail) -> None:
    seen = await RoundTrips("madrid").start(mail.check(), mail.context())
    assert (seen.outcome, seen.detail) == (Outcome.OK, "")
    # Postfix stamps it, Dovecot's LMTP does after it.
    assert (seen.facts["hops"], seen.facts["folder"], seen.facts["skew_ms"]) == (2, "INBOX", 0)
    assert sum(seen.phases[stage] for stage in ("submitted", "relayed", "delivered", "seen")) == seen.latency_ms
    assert messages_with(mail.mailbox, f"{HEADER}: sm1.trip.madrid") == []


async def test_a_message_in_the_junk_folder(mail: Mail) -> None:
    check = mail.check(recipient=PROBE.replace("@", "+Junk@"))
    seen = await RoundTrips("london").start(check, mail.context())
    assert (seen.outcome, seen.facts["folder"]) == (Outcome.OK_JUNK, "Junk")
    assert messages_with(mail.mailbox / ".Junk", HEADER) == []


async def test_others_mail_stays_as_it_was(mail: Mail) -> None:
    await asyncio.to_thread(mail.submit, OTHER, PROBE, b"Subject: lunch\r\n\r\nat noon?\r\n")
    forged = make(b"a key of somebody else", "trip", "london", _now() - 10**9, bytes(16))
    await asyncio.to_thread(mail.submit, OTHER, PROBE, compose(OTHER, PROBE, forged, "00", _now()))
    before = messages(mail.mailbox)
    assert len(before) >= 2
    seen = await RoundTrips("london").start(mail.check(), mail.context())
    assert seen.outcome is Outcome.OK
    assert messages(mail.mailbox) == before
    flags = {path.name.rpartition(":2,")[2] for path in (mail.mailbox / "cur").iterdir()}
    assert flags <= {""}, "marked as seen, or worse"


async def test_case_15_held_back_is_not_arrived_and_told_as_late_once_it_comes(mail: Mail) -> None:
    late: list[LateArrival] = []
    trips = RoundTrips("paris", on_late=late.append)
    configure = ["/usr/sbin/postconf", "-c", str(mail.postfix.config), "-e"]
    reload = ["/usr/sbin/postfix", "-c", str(mail.postfix.config), "reload"]
    await asyncio.to_thread(run, [*configure, "defer_transports = lmtp"])
    await asyncio.to_thread(run, reload)
    held = await trips.start(mail.check(deadline="2"), mail.context())
    assert held.outcome is Outcome.NOT_ARRIVED
    await asyncio.to_thread(run, [*configure, "defer_transports ="])
    await asyncio.to_thread(run, reload)
    await asyncio.to_thread(run, ["/usr/sbin/postqueue", "-c", str(mail.postfix.config), "-f"])
    await asyncio.to_thread(mail.postfix.wait_empty)
    seen = await trips.start(mail.check(), mail.context(ahead_ms=200_000))
    assert (seen.outcome, seen.facts["late_arrivals"]) == (Outcome.OK, 1)
    assert [one.sent_ms for one in late] == [held.facts["sent_ms"]]
    assert messages_with(mail.mailbox, f"{HEADER}: sm1.trip.paris") == []


async def test_a_recipient_that_is_not_there_is_a_failed_trip(mail: Mail) -> None:
    seen = await RoundTrips("london").start(mail.check(recipient="nobody@example.com"), mail.context())
    assert seen.outcome is Outcome.PERMANENT
    assert seen.detail.startswith("550 5.1.1 ")
