"""`smartmail backup restore | erase | erased`: a mailbox brought back, or never again."""

from dataclasses import replace
from datetime import UTC, datetime, tzinfo
from typing import Annotated
from zoneinfo import ZoneInfo

import typer

from smartmail.backup.mailbox import Brought, Counts, Found, find, restore
from smartmail.backup.night import Done
from smartmail.backup.telling import Teller
from smartmail.cli.acting import DryRun, Reason, Yes, ask, say, who
from smartmail.cli.backing import Backing, leave, night_of, now_ms, run, working
from smartmail.cli.backup_show import size
from smartmail.cli.common import CliError, ExitCode, JsonFlag, print_json, print_table
from smartmail.core.backup_due import RunState
from smartmail.core.backup_plan import JobKind, RepositoryPlan
from smartmail.core.backup_record import Activity, End
from smartmail.core.backup_record import Reason as Why
from smartmail.core.erasure import ErasureError, Tombstone, subject_of
from smartmail.core.expiry import expires_ms
from smartmail.core.mailbox_restore import Into, RestoreError, Wish
from smartmail.core.points import shown
from smartmail.store import backups

Time = Annotated[str | None, typer.Option(metavar="TIME", show_default=False)]


def restore_(
    ctx: typer.Context,
    address: Annotated[str, typer.Argument(help="Whose mailbox.")],
    at: Annotated[
        str, typer.Option("--at", metavar="TIME", help="As it was then: 2026-10-03T08:00; by default now.")
    ] = "",
    folder: Annotated[str, typer.Option("--folder", help="Only this folder, as users know it: Archive/2026.")] = "",
    sender: Annotated[str, typer.Option("--from", help="Only messages with this in their From.")] = "",
    since: Annotated[str, typer.Option("--since", metavar="TIME", help="Only messages received from then on.")] = "",
    until: Annotated[str, typer.Option("--until", metavar="TIME", help="Only messages received before.")] = "",
    message_id: Annotated[str, typer.Option("--message-id", help="Only this message.")] = "",
    into: Annotated[
        Into, typer.Option("--into", help="The live mailbox, a Maildir, or a zip of .eml files.")
    ] = Into.LIVE,
    target: Annotated[str, typer.Option("--target", help="Path of the Maildir or zip; of live, another address.")] = "",
    repository: Annotated[str, typer.Option("--repository", help="From this one; by default the first onsite.")] = "",
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: JsonFlag = False,
) -> None:
    """Bring a mailbox back: shows what was found and what it would add, asks, and adds it below `Restored <date>`.
    Done again, it adds nothing."""

    async def main() -> tuple[Found, Brought]:
        async with working(ctx) as work:
            zone = ZoneInfo(work.plan.zone)
            wish = Wish(
                address,
                moment(at, zone) if at else now_ms(),
                folder,
                sender,
                moment(since, zone) if since else None,
                moment(until, zone) if until else None,
                message_id,
                into,
                target,
            )
            vault = work.vault(repository) if repository else next(iter(work.vaults.values()))
            with work.database.read() as connection:
                stones = backups.tombstones(connection)
            found = await find(vault, work.plan, wish, tombstones=stones)

            def told(counts: Counts) -> None:
                if not as_json:
                    _show(found, counts, zone)
                if not dry_run and counts.adding and not yes:
                    ask()

            if dry_run:
                return found, await restore(vault, work.plan, found, dry_run=True, told=told)
            brought: list[Brought] = []
            stopped: list[CliError | RestoreError] = []

            async def work_() -> End:
                try:
                    brought.append(await restore(vault, work.plan, found, told=told))
                except (CliError, RestoreError) as error:
                    stopped.append(error)
                    return End(RunState.FAILED, Why.NOT_RESTORED, {"by": who()}, str(error))
                return _end(brought[0])

            with night_of(work, as_json=as_json) as night:
                done = await night.one(Activity.RESTORE, work_, job=found.job, repository=vault.name, run=found.run)
            if stopped:
                raise stopped[0]
            if not brought:
                raise CliError(done.end.words)
            return found, brought[0]

    found, brought = run(main())
    if as_json:
        print_json(_as_dict(found, brought))
    elif brought.dry:
        say("nothing was written")
    else:
        say(f"{brought.added} added to {brought.where}, {brought.counts.already} were there already")
        if brought.lost:
            say(f"{brought.lost} could not be brought back whole: {brought.words}")
    if brought.lost:
        raise typer.Exit(ExitCode.FOUND_BAD)


def _end(brought: Brought) -> End:
    """For the catalogue: counts, and who did it."""
    facts = {
        "found": brought.counts.found,
        "already": brought.counts.already,
        "added": brought.added,
        "lost": brought.lost,
        "where": brought.where,
        "by": who(),
    }
    if brought.lost:
        return End(RunState.PARTIAL, Why.ITEMS_UNREADABLE, facts, f"{brought.lost} messages could not be brought back")
    return End(RunState.OK, facts=facts)


def _show(found: Found, counts: Counts, zone: tzinfo) -> None:
    say(f"{found.wish.address} as of {shown(found.time_ms, zone)}, run {found.run}, from job {found.job}")
    if found.partial:
        say("this restore point is known to be incomplete")
    print_table(
        ("folder", "messages", "size"), [(one.folder, one.messages, size(one.octets)) for one in counts.folders]
    )
    live = "" if counts.live is None else f"; {counts.live} of them are in the live mailbox now"
    say(
        f"{counts.found} messages with {size(counts.octets)}; {counts.already} restored before, {counts.adding} to add"
        f"{live}"
    )


def _as_dict(found: Found, brought: Brought) -> dict[str, object]:
    counts = brought.counts
    return {
        "address": found.wish.address,
        "run": found.run,
        "time_ms": found.time_ms,
        "found": counts.found,
        "octets": counts.octets,
        "already": counts.already,
        "adding": counts.adding,
        "live": counts.live,
        "unreadable": counts.unreadable,
        "added": brought.added,
        "lost": brought.lost,
        "where": brought.where,
        "dry_run": brought.dry,
    }


def moment(text: str, zone: tzinfo) -> int:
    """A time as people write it, of the plan's zone where it names none -> epoch ms. Raises CliError."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise CliError(f"{text!r} is no time", remedy="as 2026-10-03T08:00", code=ExitCode.USAGE) from None
    aware = found if found.tzinfo else found.replace(tzinfo=zone)
    return int(aware.astimezone(UTC).timestamp() * 1000)


def erase(
    ctx: typer.Context,
    subject: Annotated[str, typer.Argument(help="An address, or @domain.")],
    reason: Reason = "",
    yes: Yes = False,
) -> None:
    """Never bring an address or a domain back: what was backed up of it up to now is refused by every later restore,
    and expires by the keep rules."""
    if not reason.strip():
        raise CliError("an erasure needs a reason", remedy="give --reason TEXT", code=ExitCode.USAGE)
    try:
        named = subject_of(subject)
    except ErasureError as error:
        raise CliError(str(error), code=ExitCode.USAGE) from None

    async def main() -> None:
        async with working(ctx) as work:
            expires = {
                one.name: expires_ms(one.keep, now_ms()) for one in work.plan.repositories if _holds_mail(work, one)
            }
            if not yes:
                say(f"{named} will never be restored from what was backed up until now")
                ask()
            dates = [one for one in expires.values() if one is not None]
            last = max(dates) if len(dates) == len(expires) else None
            with work.database.write() as connection:
                number = backups.add_tombstone(connection, named, reason, who(), now_ms(), last)
            Teller().tombstone(Tombstone(number, named, reason, who(), now_ms(), last))
            say(f"tombstone {number} for {named}")
            zone = ZoneInfo(work.plan.zone)
            for name, at_ms in expires.items():
                gone = (
                    "keeps it: no rule lets go of it"
                    if at_ms is None
                    else f"lets go of it by {shown(at_ms, zone)[:10]}"
                )
                say(f"{name} {gone}")

    run(main())


def _holds_mail(work: Backing, repository: RepositoryPlan) -> bool:
    kinds = {one.kind for one in work.plan.jobs_in(repository.name)}
    return bool(kinds & {JobKind.MAILDIR, JobKind.DOVECOT})


def destroy(
    ctx: typer.Context,
    repository: Annotated[str, typer.Argument(help="Its name.")],
    reason: Reason = "",
    confirm: Annotated[str, typer.Option("--confirm", help="Its name once more, to do without asking.")] = "",
) -> None:
    """Crypto-erase: delete all keys of a repository. Nobody can ever read again what is in it."""
    if not reason.strip():
        raise CliError("an erasure needs a reason", remedy="give --reason TEXT", code=ExitCode.USAGE)

    async def main() -> list[Done]:
        from smartmail.backup.erasing import destroy_keys

        async with working(ctx) as work:
            vault = work.vault(repository)
            jobs = ", ".join(one.name for one in work.plan.jobs_in(repository))
            say(f"{repository}, with all that jobs {jobs} ever put into it, will be lost for good")
            again = confirm or typer.prompt("Its name once more")
            if again != repository:
                raise CliError("that is not its name: nothing was done", code=ExitCode.USAGE)

            async def work_() -> End:
                end = await destroy_keys(vault)
                return replace(end, facts={**end.facts, "why": reason, "by": who()})

            with night_of(work) as night:
                async with night.hold(repository):
                    return [await night.one(Activity.ERASE, work_, repository=repository)]

    leave(run(main()))


def erased(ctx: typer.Context, as_json: JsonFlag = False) -> None:
    """List who is never to be brought back."""

    async def main() -> None:
        async with working(ctx) as work:
            with work.database.read() as connection:
                found = backups.tombstones(connection)
            if as_json:
                print_json([{name: getattr(one, name) for name in one.__slots__} for one in found])
                return
            zone = ZoneInfo(work.plan.zone)
            print_table(
                ("number", "who", "since", "why", "by"),
                [(one.id, one.subject, shown(one.at_ms, zone), one.why, one.by) for one in found],
            )

    run(main())
