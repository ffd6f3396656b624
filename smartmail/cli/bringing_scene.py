"""The backup's scene, step by step: each is shown, and compared with what it should be."""

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from smartmail.backup.drill_key import verify
from smartmail.backup.mailbox import Brought, Found, find, restore
from smartmail.backup.night import Done, Night
from smartmail.backup.probe import read_location
from smartmail.backup.upkeep import Upkeep
from smartmail.cli.backing import Backing, now_ms
from smartmail.cli.backup_look import read
from smartmail.cli.backup_show import Display, lasted, size
from smartmail.cli.bringing_mail import ANNA, BEN, CLEO, FOLDERS, Contents, Mail, contents, mark_read
from smartmail.cli.bringing_server import Dovecot, Mailbox
from smartmail.cli.guide import head, near
from smartmail.core.backup_due import RunState
from smartmail.core.backup_record import Activity, End
from smartmail.core.drill_report import DrillReport, ReportError
from smartmail.core.mailbox_restore import Into, Wish
from smartmail.core.scorecard import Mark, medium, scorecard

ONSITE: Final = "onsite"
OFFSITE: Final = "offsite"
MARK_SECONDS: Final = 0.02
"""Between two mails that Ben opens."""
EXPECTED: Final = (Mark.MET, Mark.NOT_MET, Mark.MET, Mark.NOT_MET, Mark.MET)
"""Of the scorecard: one machine is one kind of storage, and nobody keeps its owner from deleting there."""
_MARKS: Final = {
    Mark.MET: ("met", "green"),
    Mark.NOT_MET: ("not met", "yellow"),
    Mark.NOT_PROVED: ("not proved", "yellow"),
}


@dataclass(slots=True)
class Board:
    """What is on the screen, and what was not as it should be."""

    console: Console
    wrong: list[str] = field(default_factory=list)

    def line(self, what: str, text: str, style: str = "") -> None:
        """Something that was done, and what came of it."""
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(width=18, overflow="fold")
        grid.add_column(overflow="fold")
        grid.add_row(Text(what, "bold"), Text(text, style))
        self.console.print(Padding(grid, (0, 0, 0, 2)))

    def table(self, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
        """A table of plain values; numbers to the right, a `Text` as it is."""
        listed = [tuple(row) for row in rows]
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for index, column in enumerate(columns):
            numeric = all(isinstance(row[index], int) for row in listed)
            table.add_column(column, justify="right" if numeric else "left", overflow="fold")
        for row in listed:
            table.add_row(*(one if isinstance(one, Text) else Text(str(one)) for one in row))
        self.console.print(Padding(table, (0, 0, 0, 2)))

    def expect(self, what: str, found: object, wanted: object) -> None:
        """Take down what is not as it should be."""
        if found != wanted:
            self.wrong.append(f"{what}: {found}, expected {wanted}")

    def ended(self, done: Iterable[Done]) -> None:
        """All of it must have gone well."""
        for one in done:
            self.expect(f"{one.activity.value} {one.job or one.repository}", one.end.state.value, RunState.OK.value)


class Screen(Display):
    """Also knows when a backup is under way."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self.begun = asyncio.Event()
        self.over = False

    def began(self, activity: Activity, job: str, repository: str, run: str) -> None:
        """Show it, and let others know."""
        if activity is Activity.BACKUP:
            self.begun.set()
        super().began(activity, job, repository, run)

    def ended(self, activity: Activity, job: str, repository: str, run: str, end: End) -> None:
        """The same for its end."""
        self.over = self.over or activity is Activity.BACKUP
        super().ended(activity, job, repository, run, end)


@dataclass(slots=True)
class Scene:
    """folder: everything is in it, but for what `server` needs. server: None where the live part is left out."""

    folder: Path
    board: Board
    mail: Mail
    server: Dovecot | None
    work: Backing

    async def play(self) -> None:
        """All of it. Raises what the backup raises."""
        await self._repositories()
        await self._night()
        whole = self.mail.contents(ANNA)
        others = {one: self.mail.contents(one) for one in (BEN, CLEO)}
        seen = await asyncio.to_thread(self._lose)
        found = await self._look_for()
        await self._into_folder(found, whole)
        await self._into_live(found, seen)
        for one, was in others.items():
            self.board.expect(f"{one} is as it was", self.mail.contents(one) == was, True)
        await self._drill()
        await self._scorecard()

    async def _repositories(self) -> None:
        board, vaults = self.board, self.work.vaults
        head(board.console, "Where it is kept", "two repositories, each with a password of its own; all is encrypted")
        for name, what in ((ONSITE, "beside the mail server"), (OFFSITE, "stands for another place")):
            with board.console.status(f"making {name}"):
                await vaults[name].init(vaults[ONSITE] if name == OFFSITE else None)
            board.line(name, f"{near(self.folder / name)}/  ({what})")

    async def _night(self) -> None:
        board = self.board
        head(board.console, "A night", "backed up onsite, copied offsite and compared; meanwhile Ben opens his mails")
        files = self.mail.unread(BEN)
        with Screen(board.console) as screen:
            opening = asyncio.create_task(self._open(files, screen))
            done = await self._of(screen).run(["mail"])
            opened = await opening
        board.ended(done)
        board.expect("steps of the night", [one.activity for one in done], [Activity.BACKUP, Activity.COPY])
        listings = await self.work.listings()
        here, there = ({s.origin: s.tree for s in listings.snapshots[name]} for name in (ONSITE, OFFSITE))
        rows = [
            (origin[:8], tree[:16], there.get(origin, "none")[:16], _same(there.get(origin) == tree))
            for origin, tree in here.items()
        ]
        board.table(("snapshot", "tree id onsite", "tree id offsite", ""), rows)
        board.line("tree id", "a hash of all that is in a snapshot: equal ones mean that the copy is whole")
        board.expect("trees offsite", there, here)
        facts = done[0].end.facts
        board.expect("messages that the backup missed", facts.get("missed"), 0)
        board.expect("mails that Ben opened", opened > 0, True)
        text = f"{opened} were opened while the backup ran, which gives each file another name; "
        text += "what the first walk had missed was backed up after it; " if facts.get("rounds") else ""
        board.line("Ben's mails", f"{text}{facts.get('missed')} are missing from the backup")

    async def _open(self, files: Iterable[Path], screen: Screen) -> int:
        """Mark messages read, as long as the backup runs. Returns how many."""
        await screen.begun.wait()
        opened = 0
        for file in files:
            if screen.over:
                break
            mark_read(file)
            opened += 1
            await asyncio.sleep(MARK_SECONDS)
        return opened

    def _of(self, display: Display) -> Night:
        work = self.work
        return Night(work.plan, work.vaults, work.catalogue, work.leases, display)

    def _lose(self) -> Mailbox:
        """Anna deletes everything. Returns what her mail program saw before, nothing without one."""
        board, messages = self.board, sum(FOLDERS[ANNA].values())
        head(board.console, "A mailbox is deleted", f"{ANNA}: {messages} messages in {len(FOLDERS[ANNA])} folders")
        if self.server is None:
            self.mail.lose(ANNA)
            board.line("Anna", "deletes all of it: no message, no folder is left", "red")
            board.expect("messages left", len(self.mail.contents(ANNA)), 0)
            return {}
        program = self.server.program(ANNA)
        seen = program.look(FOLDERS[ANNA])
        program.delete_all(FOLDERS[ANNA])
        left = program.look(FOLDERS[ANNA])
        program.leave()
        text = f"her mail program (IMAP, Dovecot {self.server.version}) shows {len(seen)} messages"
        board.line("Anna", text)
        board.line("Anna", f"deletes all of it; her mail program shows {len(left)} messages now", "red")
        board.expect("messages that Anna saw", len(seen), messages)
        board.expect("messages left", len(left) + len(self.mail.contents(ANNA)), 0)
        return seen

    async def _look_for(self) -> Found:
        """What the backup has of it, and what it would bring."""
        board, vault, plan = self.board, self.work.vaults[ONSITE], self.work.plan
        into = Into.LIVE if self.server is not None else Into.FOLDER
        head(board.console, "What the backup has of it", "nothing is written yet")
        with board.console.status("looking for her mailbox"):
            found = await find(vault, plan, self._wish(into))
            counted = await restore(vault, plan, found, dry_run=True)
        counts = counted.counts
        board.table(
            ("folder", "messages", "size"), [(one.folder, one.messages, size(one.octets)) for one in counts.folders]
        )
        live = "" if counts.live is None else f"; {counts.live} of them are in the live mailbox now"
        board.line("would bring", f"{counts.adding} of {counts.found} messages, {size(counts.adding_octets)}{live}")
        board.expect("folders", {one.folder: one.messages for one in counts.folders}, FOLDERS[ANNA])
        board.expect("messages in the live mailbox", counts.live or 0, 0)
        return found

    def _wish(self, into: Into) -> Wish:
        target = str(self.folder / "brought-back" / ANNA) if into is Into.FOLDER else ""
        return Wish(ANNA, now_ms(), into=into, target=target)

    async def _into_folder(self, found: Found, whole: Contents) -> None:
        board = self.board
        head(board.console, "Brought back", "each restore is done twice: the second one must add nothing")
        brought = await self._bring(replace(found, wish=self._wish(Into.FOLDER)))
        same = contents(Path(brought.where)) == whole
        proof = "each file as it was, by SHA-256" if same else "but NOT as it was"
        board.line("into a Maildir", f"{near(Path(brought.where))}/  ({proof})", "" if same else "bold red")
        board.expect("the Maildir is as it was", same, True)

    async def _into_live(self, found: Found, seen: Mailbox) -> None:
        board, server = self.board, self.server
        if server is None:
            return
        brought = await self._bring(replace(found, wish=self._wish(Into.LIVE)))

        def look() -> Mailbox:
            program = server.program(ANNA)
            try:
                return program.look(FOLDERS[ANNA], brought.where)
            finally:
                program.leave()

        now = await asyncio.to_thread(look)
        proof = "flags and dates as they were" if now == seen else "but NOT as they were"
        text = f"her mail program shows {len(now)} messages below “{brought.where}”: {proof}"
        board.line("Anna", text, "green" if now == seen else "bold red")
        board.expect("messages that Anna sees again", len(now), len(seen))
        board.expect("they are as they were", now == seen, True)

    async def _bring(self, found: Found) -> Brought:
        """Restore, and once more."""
        board, vault, plan = self.board, self.work.vaults[ONSITE], self.work.plan
        what = "into live Dovecot" if found.wish.into is Into.LIVE else "into a Maildir"
        began = time.monotonic()
        with board.console.status(what):
            brought = await restore(vault, plan, found)
            took = lasted(int((time.monotonic() - began) * 1000))
            again = await restore(vault, plan, found)
        board.line(what, f"{brought.added} messages added in {took}; the same once more: {again.added} added", "green")
        messages = sum(FOLDERS[ANNA].values())
        board.expect(f"{what}, added", (brought.added, brought.lost), (messages, 0))
        board.expect(f"{what}, added by a second restore", (again.added, again.counts.already), (0, messages))
        return brought

    async def _drill(self) -> None:
        board = self.board
        head(board.console, "The drill", "as if this machine were gone: restored from offsite alone")
        with Display(board.console) as display:
            done, report = await Upkeep(self._of(display)).drill()
        board.ended([done])
        if report is None:
            return
        file = self.work.folder / "reports" / str(done.end.facts["file"])
        board.expect("the drill's report", _verdict(file), "")
        self._show_drill(report, file)

    def _show_drill(self, report: DrillReport, file: Path) -> None:
        board = self.board
        proved = (
            f"{report.files} messages picked at random, {size(report.octets)}, restored in {lasted(report.restore_ms)}"
        )
        board.line("compared", f"{proved}: each has the SHA-256 that was written down that night")
        for box_ in report.mailboxes:
            board.line("opened", f"{box_.address}: {box_.messages} messages, {box_.expected} were backed up")
            board.expect(f"messages of {box_.address}", box_.messages, box_.expected)
        board.expect("mailboxes opened", len(report.mailboxes), 1)
        verdict = "PROVED: it restores" if report.proved else f"NOT proved: {len(report.findings)} findings"
        board.line("verdict", verdict, "bold green" if report.proved else "bold red")
        board.line("signed report", near(file), "yellow")

    async def _scorecard(self) -> None:
        board, work = self.board, self.work
        head(
            board.console,
            "3-2-1-1-0",
            "the rule for backups; met only by what was looked at, not by what is configured",
        )
        with Display(board.console) as display:
            upkeep = Upkeep(self._of(display))
            for one in work.plan.repositories:
                board.ended(await upkeep.check(one, whole=True))
        with board.console.status("reading both repositories"):
            found = await read(work)
            media = {one.name: medium(await read_location(one)) for one in work.plan.repositories}
        card = scorecard(found, work.plan, media)
        rows = [(one.digit, one.title, Text(*_MARKS[one.mark]), one.text) for one in card.digits]
        board.table(("", "asked for", "", "found"), rows)
        board.line("not met", "is right here: both repositories are on this machine, and who owns it can delete both")
        board.expect("the scorecard", tuple(one.mark for one in card.digits), EXPECTED)


def _same(same: bool) -> Text:
    return Text("the same", "green") if same else Text("differs", "bold red")


def _verdict(file: Path) -> str:
    """What is wrong with a report's signature; "" for nothing."""
    try:
        return "; ".join(verify(file.read_bytes()).problems)
    except (ReportError, OSError) as error:
        return str(error)
