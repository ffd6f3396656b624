"""The demo's scene: clients that behave and clients that don't, and what the relay says to each.

`python -m smartmail.cli.scene`: a `Stage` as JSON on standard input. Exit code 0 when every reply is as it should be.
"""

import base64
import signal
import smtplib
import ssl
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.table import Table
from rich.text import Text

from smartmail.cli.acting import act
from smartmail.cli.common import ExitCode
from smartmail.cli.demo import Stage, Target
from smartmail.cli.guide import head, make_console
from smartmail.cli.sample import DEMO_DOMAIN, SMALL_QUOTA
from smartmail.core.standing import Conduct
from smartmail.store import accounts, moves
from smartmail.store.database import Database
from smartmail.store.errors import StoreError

BURST = SMALL_QUOTA + 3
PATIENCE = 10
"""Seconds to wait for any reply."""
PACE = 0.25
"""Seconds between two lines on a terminal, so that they can be read as they come."""
OUTSIDE = "friend@elsewhere.example"
_WIDTHS = (8, 10, 18, 8)
_LEAST_REPLY = 20


@dataclass(frozen=True, slots=True)
class Said:
    """A reply: its code and its text, which begins with the enhanced code."""

    code: int
    text: str

    @property
    def verdict(self) -> str:
        """In one word."""
        if self.code == 421:
            return "ended"
        return {2: "accepted", 3: "accepted", 4: "deferred"}.get(self.code // 100, "rejected")

    def __str__(self) -> str:
        return f"{self.code} {self.text}"


@dataclass(slots=True)
class Board:
    """The table on the screen, a line at a time, and what is counted for the end."""

    console: Console
    verdicts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def act(self, title: str, note: str) -> None:
        """Begin a part."""
        head(self.console, title, note)

    def line(self, who: str, what: str, said: Said, expected: str, note: str = "") -> None:
        """Show a reply. expected: how it should begin, as "450 4.7.1"."""
        self.verdicts[said.verdict] += 1
        reply = Text(str(said))
        if note:
            reply.append(f"  ({note})", "dim")
        if not str(said).startswith(expected):
            self.wrong.append(f"{who}, {what}: {said}, expected {expected}")
            reply.append(f"  expected {expected}", "bold red")
        self._show(who, what, Text(said.verdict, _STYLES[said.verdict]), reply)

    def deed(self, who: str, what: str, note: str) -> None:
        """Show what somebody did, to which there is no reply."""
        self._show(who, what, Text(""), Text(note, "dim"))

    def titles(self) -> None:
        """The table's head."""
        self._row(*(Text(title, "bold") for title in ("time", "who", "what", "verdict", "reply")))
        self.console.print(Text("─" * (self.console.width - 2), "dim"))

    def _show(self, who: str, what: str, verdict: Text, reply: Text) -> None:
        if self.console.is_terminal:
            time.sleep(PACE)
        now = datetime.now().astimezone().strftime("%H:%M:%S")
        self._row(Text(now, "dim"), Text(who), Text(what), verdict, reply)

    def _row(self, *cells: Text) -> None:
        # A table of one line each: a live one would be cut at the height of the terminal.
        table = Table.grid(padding=(0, 2, 0, 0))
        for width in _WIDTHS:
            table.add_column(width=width, overflow="fold")
        rest = self.console.width - sum(_WIDTHS) - 2 * len(_WIDTHS)
        table.add_column(width=max(_LEAST_REPLY, rest - 2), overflow="fold")
        table.add_row(*cells)
        self.console.print(table)


_STYLES = {"accepted": "green", "deferred": "yellow", "rejected": "red", "ended": "magenta"}


class Client:
    """One connection of one sender, as a mail program has it."""

    def __init__(self, target: Target, name: str) -> None:
        """Connect, and have TLS where the listener wants it. Raises OSError, SMTPException."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # The certificate is self-made, the connection does not leave the machine.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self._smtp = (
            smtplib.SMTP_SSL(target.host, target.port, name, timeout=PATIENCE, context=context)
            if target.tls == "implicit"
            else smtplib.SMTP(target.host, target.port, name, timeout=PATIENCE)
        )
        self._smtp.ehlo()
        if target.tls == "starttls":
            self._smtp.starttls(context=context)
            self._smtp.ehlo()

    def log_in(self, login: str, password: str) -> Said:
        """AUTH PLAIN, once: smtplib's own `login` tries other mechanisms after a refusal."""
        token = base64.b64encode(f"\0{login}\0{password}".encode()).decode()
        return _said(self._smtp.docmd("AUTH", f"PLAIN {token}"))

    def mail(self, sender: str, recipients: Sequence[str], subject: str) -> tuple[list[Said], Said]:
        """One mail. Returns the reply to each recipient, and the last reply of all."""
        last = _said(self._smtp.mail(sender))
        if last.code != 250:
            return [], last
        answers = [_said(self._smtp.rcpt(recipient)) for recipient in recipients]
        if not any(answer.code == 250 for answer in answers):
            self._smtp.rset()
            return answers, answers[-1]
        text = f"From: <{sender}>\nTo: {', '.join(recipients)}\nSubject: {subject}\n\nA mail of the demo.\n"
        return answers, _said(self._smtp.data(text))

    def listen(self) -> Said:
        """What the server says without having been asked. Raises OSError after PATIENCE seconds."""
        return _said(self._smtp.getreply())

    def leave(self) -> None:
        """QUIT, if there is still somebody to say it to."""
        try:
            self._smtp.quit()
        except (smtplib.SMTPException, OSError):
            self._smtp.close()


def _said(answer: tuple[int, bytes]) -> Said:
    return Said(answer[0], answer[1].decode("utf-8", "replace").replace("\n", " "))


def address(name: str) -> str:
    """Of one of the demo's people."""
    return f"{name}@{DEMO_DOMAIN}"


class Scene:
    """The parts, in their order."""

    def __init__(self, stage: Stage, board: Board) -> None:
        self._stage = stage
        self._board = board
        self.accepted = 0
        """Copies that the relay took: one for each recipient."""
        self.landed = 0
        """Of these, how many lie in their Maildir."""

    def play(self) -> None:
        """All of it. Raises OSError, SMTPException, StoreError."""
        head(self._board.console, "The demo", f"accounts in {DEMO_DOMAIN}, clients in a process of their own")
        self._board.titles()
        for part in (self._normal, self._burst, self._standing, self._closed_midway, self._incoming):
            part()

    def _enter(self, name: str) -> Client | None:
        """A connection with a login; None if that failed, which is then on the board."""
        client = Client(self._stage.submission, "client.demo.example")
        said = client.log_in(address(name), self._stage.password)
        if said.code == 235:
            return client
        self._board.line(name, "logs in", said, "235")
        client.leave()
        return None

    def _normal(self) -> None:
        self._board.act("Normal senders", "each with STARTTLS and AUTH")
        for name, recipients in (
            ("ben", [address("cleo")]),
            ("cleo", [address("dora"), OUTSIDE]),
            ("dora", [address("ben")]),
        ):
            client = self._enter(name)
            if client is not None:
                self._send(client, name, recipients, f"from {name}")
                client.leave()

    def _send(self, client: Client, name: str, recipients: Sequence[str], subject: str) -> None:
        answers, last = client.mail(address(name), recipients, subject)
        what = f"mails {', '.join(one.partition('@')[0] for one in recipients)}"
        self._board.line(name, what, last, "250 2.0.0", self._look(recipients, answers, last))

    def _look(self, recipients: Iterable[str], answers: Sequence[Said], last: Said) -> str:
        """Is the mail where its 250 says it is? Returns a word on it where it is not."""
        if last.code != 250:
            return ""
        taken = [one for one, answer in zip(recipients, answers, strict=False) if answer.code == 250]
        self.accepted += len(taken)
        if not self._stage.maildrop:
            return ""
        identifier = last.text.rpartition(" ")[2]
        found = [one for one in taken if any(Path(self._stage.maildrop, one, "new").glob(f"*.{identifier}.*"))]
        self.landed += len(found)
        return "" if found == taken else "but it is NOT in the Maildir"

    def _burst(self) -> None:
        self._board.act("A burst", f"newsletter's plan allows {SMALL_QUOTA} messages in a minute, it tries {BURST}")
        client = self._enter("newsletter")
        if client is None:
            return
        for number in range(1, BURST + 1):
            answers, last = client.mail(address("newsletter"), [address("ben")], f"news {number}")
            note = self._look([address("ben")], answers, last)
            expected = "250 2.0.0" if number <= SMALL_QUOTA else "450 4.7.1"
            self._board.line("newsletter", f"mail {number} of {BURST}", last, expected, note)
        client.leave()

    def _standing(self) -> None:
        self._board.act("Unpaid, and closed", "the password is right, and the reply says that it is not the reason")
        for name in ("unpaid", "closed"):
            self._refused_login(name)

    def _refused_login(self, name: str) -> None:
        client = Client(self._stage.submission, "client.demo.example")
        said = client.log_in(address(name), self._stage.password)
        self._board.line(name, "logs in", said, "525 5.7.13")
        client.leave()

    def _closed_midway(self) -> None:
        self._board.act("Closed in the middle of a session", "by another process, as `smartmail account close` does")
        client = self._enter("leaver")
        if client is None:
            return
        self._send(client, "leaver", [address("ben")], "while it may")
        self._board.deed("operator", "closes leaver", "leaver's connection is still open")
        self._close("leaver")
        closed = time.monotonic()
        said = client.listen()
        waited = time.monotonic() - closed
        self._board.line("leaver", "is connected", said, "421 4.7.0", f"after {waited:.2f} s")
        client.leave()
        self._refused_login("leaver")

    def _close(self, name: str) -> None:
        with Database(self._stage.url) as database, database.write() as connection:
            found = accounts.get_account(connection, address(name))
            planned = moves.account_moves(found, conduct=Conduct.CLOSED)
            moves.apply_moves(connection, planned, act("the demo's scene asks for it"))

    def _incoming(self) -> None:
        """From elsewhere; by an account where no listener takes such mail."""
        relay = self._stage.relay
        self._board.act("Mail to them", "one mail, three recipients, each with its own reply")
        if relay is None:
            client, name, sender = self._enter("ben"), "ben", address("ben")
        else:
            client, name, sender = (
                Client(relay._replace(tls=_opportune(relay.tls)), "elsewhere.example"),
                "outside",
                OUTSIDE,
            )
        if client is None:
            return
        people = (("cleo", "250"), ("unpaid", "450 4.2.1"), ("closed", "550 5.2.1"))
        recipients = [address(one) for one, _ in people]
        answers, last = client.mail(sender, recipients, "to three")
        for (one, expected), said in zip(people, answers, strict=False):
            self._board.line(name, f"names {one}", said, expected)
        self._board.line(name, "sends the mail", last, "250 2.0.0", self._look(recipients, answers, last))
        client.leave()


def _opportune(tls: str) -> str:
    """Another mail server needs no STARTTLS."""
    return "implicit" if tls == "implicit" else "none"


def print_summary(board: Board, scene: Scene, stage: Stage, seconds: float) -> None:
    """How it went, and what to look at now."""
    console = board.console
    counted = ", ".join(f"{count} {verdict}" for verdict, count in board.verdicts.items())
    head(console, "The end", f"{counted}; {seconds:.1f} s")
    if board.wrong:
        console.print(Text("not as it should be:", "bold red"))
        for one in board.wrong:
            console.print(Text(f"  {one}", "red"), soft_wrap=True)
    else:
        console.print(Text(f"All {sum(board.verdicts.values())} replies were as they should be.", "green"))
    if stage.maildrop:
        text = f"Copies accepted: {scene.accepted}; in their Maildirs: {scene.landed}."
        console.print(Text(text, "green" if scene.accepted == scene.landed else "bold red"))
    head(console, "Look closer")
    for words in (
        f"account why {address('newsletter')}",
        f"account show {address('leaver')}",
        f"events --recipient @{DEMO_DOMAIN}",
    ):
        console.print(Text(f"{stage.command} {words}", "yellow"), soft_wrap=True)


def main() -> int:
    """Play it. Returns the exit code."""
    stage = Stage.from_json(sys.stdin.read())
    board = Board(make_console())
    scene = Scene(stage, board)
    begun = time.monotonic()
    try:
        scene.play()
    except (OSError, smtplib.SMTPException, StoreError) as error:
        board.wrong.append(f"the scene broke off: {error}")
    print_summary(board, scene, stage, time.monotonic() - begun)
    return ExitCode.FOUND_BAD if board.wrong or (stage.maildrop and scene.accepted != scene.landed) else ExitCode.OK


def _end(_signal: int, _frame: FrameType | None) -> None:
    """The relay stops, or Ctrl-C: no word, the terminal is the relay's now."""
    raise SystemExit(ExitCode.INTERRUPTED)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, _end)
    signal.signal(signal.SIGTERM, _end)
    sys.exit(main())
