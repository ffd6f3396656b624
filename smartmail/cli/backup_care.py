"""`smartmail backup prune | check | probe | drill | verify-drill`: what keeps a backup trustworthy."""

from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from zoneinfo import ZoneInfo

import typer

from smartmail.backup.night import Done, Night
from smartmail.cli.acting import Yes, ask, say
from smartmail.cli.backing import Backing, leave, night_of, run, working
from smartmail.cli.backup_show import lasted, size
from smartmail.cli.common import CliError, ExitCode, JsonFlag, print_json, print_table
from smartmail.core.backup_plan import RepositoryPlan
from smartmail.core.drill_report import DrillReport, ReportError
from smartmail.core.retention import Approval

if TYPE_CHECKING:
    from smartmail.backup.retaining import Planned
    from smartmail.backup.upkeep import Upkeep

Some = Annotated[list[str] | None, typer.Argument(metavar="[REPOSITORY]...", show_default=False)]


def prune(
    ctx: typer.Context,
    repositories: Some = None,
    plan: Annotated[bool, typer.Option("--plan", help="Print what would go and why, and do nothing.")] = False,
    looked: Annotated[
        bool, typer.Option("--looked", help="A person has looked at the numbers of snapshots: take them as they are.")
    ] = False,
    yes: Yes = False,
    as_json: JsonFlag = False,
) -> None:
    """Forget by the keep rules, and free what nothing uses; only what the guards approve of."""

    async def main() -> list[Done]:
        async with working(ctx) as work:
            done: list[Done] = []
            for one in _named(work, repositories):
                done += await _retain(work, one, plan=plan, looked=looked, yes=yes, as_json=as_json)
            return done

    leave(run(main()))


async def _retain(
    work: Backing, one: RepositoryPlan, *, plan: bool, looked: bool, yes: bool, as_json: bool
) -> list[Done]:
    if one.keep is None:
        say(f"{one.name}: everything is kept")
        return []
    with night_of(work, as_json=as_json) as night:
        upkeep = upkeep_of(night)
        planned = await upkeep.plan_retention(one, anew=looked)
    if as_json:
        print_json({"repository": one.name, **planned.facts})
    else:
        _show(planned, work.plan.zone)
    if not isinstance(planned.verdict, Approval):
        raise typer.Exit(ExitCode.FOUND_BAD)
    if plan or not planned.plan.removed:
        return []
    if not yes:
        ask()
    with night_of(work, as_json=as_json) as night:
        return await upkeep_of(night).retain(one, anew=looked)


def _show(planned: "Planned", zone: str) -> None:
    from smartmail.backup import retaining

    print_table(
        ("snapshot", "time", "job", "", "why"),
        [
            (one.id, one.when, one.job, "keep" if one.kept else "FORGET", one.why)
            for one in retaining.rows(planned.plan, ZoneInfo(zone))
        ],
        title=f"{planned.repository}: keep {', '.join(map(str, planned.plan.rules))}",
    )
    for note in planned.notes:
        say(note)
    for objection in planned.objections:
        say(f"refused: {objection.ground.value.replace('_', ' ')}: {objection.text}")


def check(
    ctx: typer.Context,
    repositories: Some = None,
    part: Annotated[int | None, typer.Option("--part", help="This part of the data.", show_default=False)] = None,
    whole: Annotated[bool, typer.Option("--whole", help="All of the data.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Check the structure, and read the part of the data that is longest unread."""

    async def main() -> list[Done]:
        async with working(ctx) as work:
            with night_of(work, as_json=as_json) as night:
                upkeep = upkeep_of(night)
                named = _named(work, repositories)
                return [done for one in named for done in await upkeep.check(one, part, whole=whole)]

    leave(run(main()), as_json=as_json)


def probe(ctx: typer.Context, repositories: Some = None, as_json: JsonFlag = False) -> None:
    """Ask append-only repositories to delete what does not exist: they must refuse."""

    async def main() -> list[Done]:
        async with working(ctx) as work:
            wanted = [one for one in _named(work, repositories) if one.append_only]
            if not wanted:
                raise CliError(
                    "no repository is append-only", remedy="set append_only where its server refuses to delete"
                )
            with night_of(work, as_json=as_json) as night:
                return [await upkeep_of(night).probe(one) for one in wanted]

    leave(run(main()), as_json=as_json)


def drill(
    ctx: typer.Context,
    html: Annotated[Path | None, typer.Option("--html", help="Write the report here, too.", show_default=False)] = None,
    as_json: JsonFlag = False,
) -> None:
    """Restore a sample from offsite, and prove it by the hashes that were written down when it was backed up."""

    async def main() -> tuple[Done, DrillReport | None, Path]:
        async with working(ctx) as work:
            if not work.plan.drill.repository:
                raise CliError("no drill is configured", remedy="name backup.drill.repository", code=ExitCode.USAGE)
            with night_of(work, as_json=as_json) as night:
                done, report = await upkeep_of(night).drill()
            return done, report, work.folder

    done, report, folder = run(main())
    if html is not None and report is not None:
        _write_page(folder / "reports" / str(done.end.facts["file"]), html)
    if as_json:
        print_json(report.to_json() if report is not None else {"state": done.end.state, "words": done.end.words})
    elif report is not None:
        took, file = lasted(report.restore_ms), done.end.facts["file"]
        say(f"{report.files} files with {size(report.octets)} proved, restored in {took}; report {file}")
    leave([done])


def verify_drill(
    file: Annotated[Path, typer.Argument(help="A report as `backup drill` wrote it.")],
    key: Annotated[str, typer.Option("--key", help="The public key that it must be signed by: see drill.pub.")] = "",
    html: Annotated[Path | None, typer.Option("--html", help="Write it as a page.", show_default=False)] = None,
) -> None:
    """Is a drill's report as it was signed?"""
    from smartmail.backup.drill_key import verify

    try:
        found = verify(file.read_bytes(), key)
    except ReportError as error:
        raise CliError(str(error), where=str(file)) from None
    for problem in found.problems:
        say(problem)
    if html is not None and not found.problems:
        _write_page(file, html)
    proved = "proved" if found.report.proved else "NOT proved"
    say(f"{proved}: {found.report.files} files of run {found.report.run}; signed by {found.key}")
    if found.problems or not found.report.proved:
        raise typer.Exit(ExitCode.FOUND_BAD)


def _write_page(published: Path, html: Path) -> None:
    """The page of a published report, with who signed it."""
    from smartmail.backup.drill_key import verify
    from smartmail.report.backup import Seal, drill_html

    found = verify(published.read_bytes())
    html.write_text(drill_html(found.report, UTC, Seal(found.key, found.signature)))


def upkeep_of(night: Night) -> "Upkeep":
    """Imported when it is wanted: it is a third of what a command takes to begin."""
    from smartmail.backup.upkeep import Upkeep

    return Upkeep(night)


def _named(work: Backing, names: list[str] | None) -> list[RepositoryPlan]:
    return [work.vault(name).plan for name in names or work.vaults]
