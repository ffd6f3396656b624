"""`smartmail backup`: run, look, prove, bring back."""

import secrets
from pathlib import Path
from typing import Annotated
from zoneinfo import ZoneInfo

import typer

from smartmail.backup.night import Done, Night
from smartmail.backup.vault import Vault, VaultError
from smartmail.cli import backup_care, backup_look, backup_loop, backup_restore
from smartmail.cli.acting import say
from smartmail.cli.backing import Backing, leave, night_of, now_ms, planned, run, working
from smartmail.cli.backup_show import lasted
from smartmail.cli.common import CliError, ExitCode, JsonFlag, print_json, print_table
from smartmail.core.backup_plan import RepositoryPlan
from smartmail.core.points import RestorePoint, restore_points, shown
from smartmail.core.restic_version import Outcome

app = typer.Typer(no_args_is_help=True, help="Backups onsite and offsite, and mailboxes brought back.")

Repositories = Annotated[list[str] | None, typer.Argument(metavar="[REPOSITORY]...", show_default=False)]


@app.command()
def init(ctx: typer.Context, repositories: Repositories = None) -> None:
    """Make the repositories that are not there yet, and the passwords they have none of."""
    _, plan = planned(ctx)
    made = [one for one in plan.repositories if _make_password(one)]
    for one in made:
        say(f"{one.name}: made the password {one.at.password_file}")

    async def main() -> None:
        async with working(ctx) as work:
            wanted = [work.vault(name).plan for name in repositories or work.vaults]
            # Copies are made with the chunker parameters of what they are copied from, so that comes first.
            for one in sorted(wanted, key=lambda one: bool(one.copy_from)):
                like = work.vaults[one.copy_from] if one.copy_from else None
                say(f"{one.name}: {await _make(work.vaults[one.name], like)}")

    run(main())
    if made:
        say("Keep a copy of each password at another place: without it nothing can be restored.")


async def _make(vault: Vault, like: Vault | None) -> str:
    try:
        return f"made, {(await vault.init(like)).id[:10]}"
    except VaultError as error:
        if error.outcome is not Outcome.EXISTS:
            raise
    found = await vault.config()
    if like is not None and (await like.config()).chunker_polynomial != found.chunker_polynomial:
        what = f"{vault.name} was not made with the chunker parameters of {like.name}"
        raise CliError(what, remedy="copies would share nothing: name an empty place for it")
    return f"is there, {found.id[:10]}"


def _make_password(plan: RepositoryPlan) -> bool:
    file = Path(plan.at.password_file)
    if file.exists():
        return False
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    file.touch(mode=0o600)
    file.write_text(f"{secrets.token_urlsafe(32)}\n")
    return True


@app.command("run")
def run_(
    ctx: typer.Context,
    jobs: Annotated[
        list[str] | None, typer.Argument(metavar="[JOB]...", help="These, due or not.", show_default=False)
    ] = None,
    due: Annotated[bool, typer.Option("--due", help="What is due: for a timer that ticks every few minutes.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Back up and copy: the jobs named, with --due those that are due, else all."""
    _, plan = planned(ctx)
    unknown = sorted(set(jobs or ()) - {one.name for one in plan.jobs})
    if unknown:
        what, remedy = f"there is no job {', '.join(unknown)}", f"there are: {', '.join(one.name for one in plan.jobs)}"
        raise CliError(what, remedy=remedy)
    wanted = None if due else tuple(jobs or (one.name for one in plan.jobs))

    async def main() -> list[Done]:
        async with working(ctx) as work:
            with night_of(work, as_json=as_json) as night:
                done = await night.run(wanted)
                return done + (await _upkeep(night) if due else [])

    done = run(main())
    if not done and not as_json:
        say("nothing is due")
    leave(done, as_json=as_json)


async def _upkeep(night: Night) -> list[Done]:
    # Imported when it is wanted: a third of what a command takes to begin.
    from smartmail.backup.upkeep import Upkeep

    return await Upkeep(night).run()


@app.command()
def due(ctx: typer.Context, as_json: JsonFlag = False) -> None:
    """Show what is due, and why."""

    async def main() -> None:
        async with working(ctx) as work:
            with night_of(work) as night:
                verdicts = await night.due()
            zone = ZoneInfo(work.plan.zone)
            if as_json:
                print_json(
                    [
                        {
                            "job": one.job,
                            "due": one.due,
                            "cause": one.cause,
                            "next_ms": one.next_ms,
                            "missed": one.missed,
                        }
                        for one in verdicts
                    ]
                )
                return
            rows = [(one.job, "now" if one.due else shown(one.next_ms, zone), one.cause.value) for one in verdicts]
            print_table(("job", "due", "why"), rows)

    run(main())


@app.command()
def points(ctx: typer.Context, as_json: JsonFlag = False) -> None:
    """List the restore points, from what the repositories hold."""

    async def main() -> None:
        async with working(ctx) as work:
            found = await work.listings()
            listed = restore_points(found.snapshots)
            if as_json:
                print_json([_point(one) for one in listed])
            else:
                print_table(("time", "run", "jobs", *work.vaults), [_point_row(work, one) for one in listed])
            for name, why in found.unread.items():
                raise CliError(why, where=name, code=ExitCode.UNREACHABLE)

    run(main())


def _point(point: RestorePoint) -> dict[str, object]:
    return {
        "run": point.run,
        "time_ms": point.time_ms,
        "snapshots": [
            {"job": one.job, "time_ms": one.time_ms, "tree": one.tree, "in": dict(one.copies)} for one in point.members
        ],
    }


def _point_row(work: Backing, point: RestorePoint) -> tuple[str, ...]:
    zone = ZoneInfo(work.plan.zone)
    jobs = sorted({one.job for one in point.members})
    places = []
    for name in work.vaults:
        here = {one.name for one in work.plan.jobs_in(name)} & set(jobs)
        lacking = point.lacks(here, name)
        places.append(
            "-" if not here or len(lacking) == len(here) else f"lacks {', '.join(lacking)}" if lacking else "yes"
        )
    age = lasted(max(now_ms() - point.time_ms, 0))
    return f"{shown(point.time_ms, zone)} ({age})", point.run, ", ".join(jobs), *places


app.command()(backup_care.prune)
app.command()(backup_care.check)
app.command()(backup_care.probe)
app.command()(backup_care.drill)
app.command("verify-drill")(backup_care.verify_drill)
app.command("status")(backup_look.status_)
app.command("scorecard")(backup_look.scorecard_)
app.command("restore")(backup_restore.restore_)
app.command()(backup_restore.erase)
app.command()(backup_restore.erased)
app.command()(backup_restore.destroy)
app.command()(backup_loop.loop)
