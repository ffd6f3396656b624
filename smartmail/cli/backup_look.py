"""`smartmail backup status | scorecard`: how it stands, read from the repositories."""

import asyncio
from datetime import tzinfo
from pathlib import Path
from typing import Annotated
from zoneinfo import ZoneInfo

import typer

from smartmail.backup.locks import lock_age
from smartmail.backup.restic import ResticError
from smartmail.backup.vault import BRIEF, Vault, VaultError
from smartmail.cli.acting import say
from smartmail.cli.backing import Backing, now_ms, run, working
from smartmail.cli.backup_show import lasted, size
from smartmail.cli.common import ExitCode, JsonFlag, print_json, print_table
from smartmail.core import restic as ask
from smartmail.core.backup_status import Ending, Reading, RepositoryStatus, Status, status
from smartmail.core.points import Freshness, shown
from smartmail.core.restic_output import Stats, parse_stats
from smartmail.core.scorecard import Mark, Scorecard, medium, scorecard
from smartmail.store import backups

Sizes = Annotated[bool, typer.Option("--sizes", help="Ask each repository how much it stores, which takes longer.")]


async def read(work: Backing, *, sizes: bool = False) -> Status:
    """Read every repository, and judge."""
    vaults = list(work.vaults.values())
    readings = await asyncio.gather(*(_reading(one, sizes=sizes) for one in vaults))

    def recent() -> Status:
        with work.database.read() as connection:
            records = backups.recent(connection)
        named = {vault.name: reading for vault, reading in zip(vaults, readings, strict=True)}
        return status(work.plan, named, records, ZoneInfo(work.plan.zone), now_ms())

    return await asyncio.to_thread(recent)


async def _reading(vault: Vault, *, sizes: bool) -> Reading:
    try:
        snapshots = await vault.snapshots()
        locks = await lock_age(vault, now_ms())
        octets = await _stored(vault) if sizes else None
    except (VaultError, ResticError) as error:
        return Reading(None, str(error))
    known = [one.lock for one in locks.locks if one.lock is not None]
    holder = f"process {known[0].pid} of {known[0].host}" if known else ""
    return Reading(snapshots, "", octets, None if locks.age_ms is None else now_ms() - locks.age_ms, holder)


async def _stored(vault: Vault) -> int | None:
    found = parse_stats((await vault.must(ask.stats(vault.known, vault.at, mode="raw-data"), BRIEF)).stdout)
    return found.octets if isinstance(found, Stats) else None


def status_(
    ctx: typer.Context,
    sizes: Sizes = False,
    textfile: Annotated[
        Path | None,
        typer.Option("--textfile", help="Write the metrics here, for the node exporter.", show_default=False),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Show how each job and repository stands, read from the repositories."""

    async def main() -> tuple[Status, tzinfo]:
        async with working(ctx) as work:
            found = await read(work, sizes=sizes)
            if textfile is not None:
                _write(work, found, textfile)
            return found, ZoneInfo(work.plan.zone)

    found, zone = run(main())
    if as_json:
        print_json(found.to_json())
    else:
        _show(found, zone)
    if any(not one.readable for one in found.repositories):
        raise typer.Exit(ExitCode.UNREACHABLE)
    if any(one.state is not Freshness.OK for one in found.jobs):
        raise typer.Exit(ExitCode.FOUND_BAD)


def _write(work: Backing, found: Status, file: Path) -> None:
    from prometheus_client import CollectorRegistry, write_to_textfile

    from smartmail.metrics import BackupMetrics

    with work.database.read() as connection:
        counts = backups.counts(connection)
    metrics = BackupMetrics(registry := CollectorRegistry())
    metrics.show(found, counts)
    write_to_textfile(str(file), registry)


def _show(found: Status, zone: tzinfo) -> None:
    jobs = [
        (
            one.job,
            one.repository,
            "unread" if one.state is None else one.state.value,
            _ago(found, one.whole_ms),
            lasted(one.rpo_ms),
            one.snapshots,
            _ended(one.ended),
            "" if one.next_ms is None else shown(one.next_ms, zone)[:16],
        )
        for one in found.jobs
    ]
    print_table(("job", "repository", "", "whole copy", "promised", "snapshots", "last run", "next"), jobs)
    print_table(
        ("repository", "checked", "all read", "copied", "retention", "probe", "stored", "lock"),
        [_row(found, one) for one in found.repositories],
    )
    for job in found.jobs:
        for strange in job.anomalies:
            say(f"{job.job}: {strange}: retention is frozen until somebody has looked")
    for repository in found.repositories:
        if not repository.readable:
            say(f"{repository.name} could not be read: {repository.fault}")
        for one in repository.differing:
            say(f"{repository.name}: the copy of {one.origin[:8]} is not the tree that it was made of")
    if found.drill.repository:
        proved = _ago(found, found.drill.proved_ms)
        say(f"restore last proved: {proved}{f', {found.drill.files} files' if found.drill.files else ''}")


def _row(found: Status, one: RepositoryStatus) -> tuple[str, ...]:
    check = one.check
    return (
        one.name,
        _ago(found, check.ok_ms),
        _ago(found, check.covered_ms) if check.covered_ms is not None else f"{check.parts_read} of {check.parts} parts",
        _ago(found, one.copied_ms) if one.copy_from else "-",
        "refused"
        if one.retention_ended and one.retained_ms != one.retention_ended.ended_ms
        else _ago(found, one.retained_ms),
        _ago(found, one.probed_ms) if one.append_only else "-",
        "" if one.octets is None else size(one.octets),
        "" if one.lock_ms is None else f"{one.lock_holder}, {lasted(found.at_ms - one.lock_ms)}",
    )


def _ago(found: Status, at_ms: int | None) -> str:
    return "never" if at_ms is None else f"{lasted(max(found.at_ms - at_ms, 0))} ago"


def _ended(ending: Ending | None) -> str:
    if ending is None:
        return ""
    why = ending.reason.value.replace("_", " ")
    return f"{ending.state.value}{f': {why}' if why else ''}, {lasted(ending.took_ms)}"


def scorecard_(
    ctx: typer.Context,
    html: Annotated[Path | None, typer.Option("--html", help="Write a page.", show_default=False)] = None,
    as_json: JsonFlag = False,
) -> None:
    """Show 3-2-1-1-0: copies, media, offsite, undeletable, errors; met only by what was verified in time."""
    from smartmail.backup.probe import Unreadable, read_location
    from smartmail.report.backup import scorecard_headline, scorecard_html

    async def main() -> tuple[Scorecard, tzinfo]:
        async with working(ctx) as work:
            found, media = await read(work), {}
            for one in work.plan.repositories:
                try:
                    media[one.name] = medium(await read_location(one))
                except Unreadable as error:
                    say(str(error))
            return scorecard(found, work.plan, media), ZoneInfo(work.plan.zone)

    card, zone = run(main())
    if as_json:
        print_json(card.to_json())
    else:
        print_table(("", "", "", ""), [(one.digit, one.title, _mark(one.mark), one.text) for one in card.digits])
        for fact in (fact for one in card.digits for fact in one.facts if fact.mark is not Mark.MET):
            say(f"{_mark(fact.mark)}: {fact.text} ({fact.command})")
        say(scorecard_headline(card))
    if html is not None:
        html.write_text(scorecard_html(card, zone))
    if not card.met:
        raise typer.Exit(ExitCode.FOUND_BAD)


def _mark(mark: Mark) -> str:
    return mark.value.replace("_", " ")
