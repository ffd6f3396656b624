"""`smartmail maintenance`: scheduled servicing, announced in a log that nobody rewrites."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Annotated, Final

import typer

from smartmail.cli.acting import DryRun, Yes, act, ask, parse_span, say
from smartmail.cli.common import CliError, ExitCode, JsonFlag, load_config, open_store, print_json, print_table
from smartmail.cli.slaterms import all_terms, known_service, terms_of
from smartmail.core.maintenance import (
    EVERY_SERVICE,
    MINUTE_MS,
    Action,
    Announcement,
    Effect,
    Every,
    MaintenanceRefused,
    Recurrence,
    Window,
    about,
    calendar_text,
    check,
    occurrences,
    whole_minutes,
    windows,
)
from smartmail.core.months import EPOCH, local_minute
from smartmail.core.sla import Terms, TermsError
from smartmail.monitor.months import terms_at, zone_of
from smartmail.store import sla
from smartmail.store.database import Database

app = typer.Typer(no_args_is_help=True, help="Scheduled servicing: announced ahead, it costs no uptime.")

Service = Annotated[str | None, typer.Option("--service", help="The service it is about.", show_default=False)]
EveryOne = Annotated[bool, typer.Option("--all", help="It is about every service.")]
TextOption = Annotated[str, typer.Option("--text", help="What customers are told.", show_default=False)]
Until = Annotated[
    str | None,
    typer.Option("--until", metavar="TIME", help="Its end; or say how long with --for.", show_default=False),
]
For = Annotated[
    str | None, typer.Option("--for", metavar="SPAN", help="How long it takes: 90m, 2h.", show_default=False)
]
MINUTE_NS: Final = 60 * 10**9

WindowName = Annotated[str, typer.Argument(metavar="WINDOW", help='Its name: see "maintenance list".')]


@app.command()
def announce(
    ctx: typer.Context,
    start: Annotated[
        str,
        typer.Option("--from", metavar="TIME", help="2026-10-04T02:00, in the contract's zone unless it names one."),
    ],
    until: Until = None,
    for_: For = None,
    service: Service = None,
    every_service: EveryOne = False,
    name: Annotated[str, typer.Option("--name", help="Its name; one is made without.", show_default=False)] = "",
    text: TextOption = "",
    every: Annotated[
        Every | None, typer.Option("--every", help="It comes again, by the wall clock.", show_default=False)
    ] = None,
    times: Annotated[int, typer.Option("--times", help="How many times in all, with --every.")] = 1,
    note: Annotated[
        bool, typer.Option("--note", help="Only write it down: for what is over. It excludes nothing.")
    ] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Announce a window. Only what is announced long enough ahead costs no uptime."""
    target = _target(service, every_service=every_service)
    database = open_store(ctx)
    if service is not None:
        known_service(database, service)
    doing = act()
    known = all_terms(ctx, database)
    zone = zone_of(terms_of(known, doing.at_ns // MINUTE_NS).zone)
    begins = parse_time(start, zone)
    ends = _end(begins, until, for_, zone)
    name = name or f"{'all' if target == EVERY_SERVICE else target[:24].rstrip('-')}-{begins:%Y%m%d-%H%M}"
    action = Action.NOTE if note else Action.ANNOUNCE
    base = Announcement(name, action, target, 0, 0, doing.at_ns // 10**6, doing.who, text)
    if every is None and times != 1:
        raise CliError("how often?", remedy="give --every day, week or month", code=ExitCode.USAGE)
    new = _series(base, (begins, ends), (every, times), zone) if every else [_once(base, begins, ends)]
    _carry_out(database, new, known, dry_run=dry_run, yes=yes)


@app.command()
def extend(
    ctx: typer.Context,
    window: WindowName,
    until: Until = None,
    for_: For = None,
    text: TextOption = "",
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Let a window end later. It counts only with the same notice before the window's start."""
    _move_end(ctx, Action.EXTEND, window, (until, for_, text), dry_run=dry_run, yes=yes)


@app.command()
def shorten(
    ctx: typer.Context,
    window: WindowName,
    until: Until = None,
    for_: For = None,
    text: TextOption = "",
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Let a window end earlier: from there on its minutes count again."""
    _move_end(ctx, Action.SHORTEN, window, (until, for_, text), dry_run=dry_run, yes=yes)


@app.command()
def cancel(
    ctx: typer.Context,
    window: Annotated[list[str], typer.Argument(metavar="WINDOW...", help="One or more names.")],
    text: TextOption = "",
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Call windows off. Of one that runs already, what has passed stays excluded and the rest counts."""
    database = open_store(ctx)
    doing = act()
    known = all_terms(ctx, database)
    there = _windows(database, known)
    new = []
    for name in window:
        first, end = _planned(there, name)
        new.append(
            Announcement(name, Action.CANCEL, there[name].service, first, end, doing.at_ns // 10**6, doing.who, text)
        )
    _carry_out(database, new, known, dry_run=dry_run, yes=yes)


@app.command("list")
def list_(
    ctx: typer.Context,
    service: Service = None,
    past: Annotated[bool, typer.Option("--past", help="Those that are over too.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """List the windows, and which of their minutes are excluded."""
    database = open_store(ctx)
    now = act().at_ns
    known = all_terms(ctx, database)
    found = _shown(database, known, service, since=0 if past else now // MINUTE_NS)
    if as_json:
        print_json([as_dict(one) for one in found])
        return
    zone = zone_of(terms_of(known, now // MINUTE_NS).zone)
    print_table(
        ("window", "service", "from", "until", "excluded minutes", "state", "text"),
        [
            (
                one.name,
                one.service,
                local(one.planned[0], zone),
                local(one.planned[1], zone),
                max(0, one.counted[1] - one.counted[0]),
                _state(one),
                one.text,
            )
            for one in found
        ],
    )


@app.command()
def ical(
    ctx: typer.Context,
    service: Service = None,
    output: Annotated[Path | None, typer.Option("--output", help="Write it to this file.", show_default=False)] = None,
) -> None:
    """The windows as an iCalendar feed (RFC 5545): put it on a web server for customers to subscribe to."""
    database = open_store(ctx)
    feed = calendar_text(
        _shown(database, all_terms(ctx, database), service, since=0),
        load_config(ctx).server.hostname,
        "Scheduled maintenance",
    )
    if output is None:
        typer.echo(feed, nl=False)
    else:
        output.write_text(feed, encoding="utf-8", newline="")
        say(f"written to {output}")


def as_dict(window: Window) -> dict[str, object]:
    """For JSON: minutes are POSIX seconds // 60, half-open."""
    return {
        "window": window.name,
        "service": window.service,
        "from_minute": window.planned[0],
        "until_minute": window.planned[1],
        "excluded_from_minute": window.counted[0] if window.counts else None,
        "excluded_until_minute": window.counted[1] if window.counts else None,
        "state": _state(window),
        "text": window.text,
        "log": [entry.to_json() | {"effect": effect.value} for entry, effect in window.steps],
    }


def parse_time(text: str, zone: tzinfo) -> datetime:
    """A date and time in ISO 8601; in `zone`, where it names none, as that zone's clock shows it first. Raises
    CliError."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise CliError(f"{text!r} is no time", remedy="write 2026-10-04T02:00", code=ExitCode.USAGE) from None
    if len(text) <= 10:
        raise CliError(f"{text!r} names no hour", remedy="write 2026-10-04T02:00", code=ExitCode.USAGE)
    if moment.tzinfo is not None:
        return moment.astimezone(zone)
    whole = moment.replace(second=0, microsecond=0)
    return datetime.fromtimestamp(local_minute(whole, zone) * 60, zone) + (moment - whole)


def local(minute: int, zone: tzinfo) -> str:
    """A minute for people, by the contract's clock."""
    return f"{datetime.fromtimestamp(minute * 60, zone):%Y-%m-%d %H:%M %Z}"


def _target(service: str | None, *, every_service: bool) -> str:
    if (service is None) != every_service:
        raise CliError("which service?", remedy="give either --service NAME or --all", code=ExitCode.USAGE)
    return service or EVERY_SERVICE


def _end(begins: datetime, until: str | None, for_: str | None, zone: tzinfo) -> datetime:
    if (until is None) == (for_ is None):
        raise CliError("until when?", remedy="give either --until TIME or --for SPAN", code=ExitCode.USAGE)
    if until is not None:
        return parse_time(until, zone)
    return (begins.astimezone(UTC) + timedelta(seconds=parse_span(for_ or ""))).astimezone(zone)


def _once(base: Announcement, begins: datetime, ends: datetime) -> Announcement:
    first, end = _whole(begins, ends)
    return replace(base, from_minute=first, until_minute=end)


def _whole(begins: datetime, ends: datetime) -> tuple[int, int]:
    return whole_minutes(-((EPOCH - begins) // timedelta(seconds=1)), (ends - EPOCH) // timedelta(seconds=1))


def _series(
    base: Announcement, bounds: tuple[datetime, datetime], again: tuple[Every, int], zone: tzinfo
) -> list[Announcement]:
    begins, ends = bounds
    if ends - begins > timedelta(days=1):
        raise CliError("a window that comes again lasts a day at most", code=ExitCode.USAGE)
    rule = Recurrence(begins.date(), begins.time(), ends.time(), *again)
    try:
        found = occurrences(rule, zone)
    except MaintenanceRefused as error:
        raise CliError(error.message, remedy=error.hint, code=ExitCode.USAGE) from error
    return [
        replace(base, window=_named(base.window, day), from_minute=first, until_minute=end) for day, first, end in found
    ]


def _named(name: str, day: date) -> str:
    return f"{name[:31].rstrip('-')}-{day:%Y%m%d}"


def _move_end(
    ctx: typer.Context, action: Action, name: str, said: tuple[str | None, str | None, str], *, dry_run: bool, yes: bool
) -> None:
    until, for_, text = said
    database = open_store(ctx)
    doing = act()
    known = all_terms(ctx, database)
    zone = zone_of(terms_of(known, doing.at_ns // MINUTE_NS).zone)
    there = _windows(database, known)
    first, _end_now = _planned(there, name)
    ends = _end(datetime.fromtimestamp(first * 60, zone), until, for_, zone)
    service = there[name].service
    end = _whole(ends, ends)[1]
    new = Announcement(name, action, service, first, end, doing.at_ns // 10**6, doing.who, text)
    _carry_out(database, [new], known, dry_run=dry_run, yes=yes)


def _carry_out(
    database: Database, new: Sequence[Announcement], known: Sequence[Terms], *, dry_run: bool, yes: bool
) -> None:
    """Check, print what each would do, ask, record."""
    with database.read() as connection:
        log = sla.announcements(connection)
    for entry in new:
        try:
            check(log, entry)
        except MaintenanceRefused as error:
            raise CliError(error.message, where=entry.window, remedy=error.hint) from error
        log.append(entry)
    after = {one.name: one for one in _folded(log, known)}
    for entry in new:
        _print_effect(entry, after[entry.window], known)
    if dry_run:
        say("dry run: nothing was done")
        return
    if not yes:
        ask()
    with database.write() as connection:
        sla.record_announcements(connection, new)
    say(f"recorded: {len(new)}")


def _print_effect(entry: Announcement, window: Window, known: Sequence[Terms]) -> None:
    terms = _terms(known, window.planned[0])
    zone = zone_of(terms.zone)
    planned = f"{local(window.planned[0], zone)} to {local(window.planned[1], zone)}"
    excluded = max(0, window.counted[1] - window.counted[0])
    are = "1 minute is" if excluded == 1 else f"{excluded} minutes are"
    cap = "" if terms.cap_minutes is None or not excluded else f"; a month leaves out {terms.cap_minutes} at most"
    say(f"{entry.action.value} {window.name} ({window.service}): {planned}; {are} excluded{cap}")
    effect = window.steps[-1][1]
    if effect is Effect.SHORT_NOTICE:
        notice = window.planned[0] - -(-entry.recorded_ms // MINUTE_MS)
        say(f"  too short a notice: {max(0, notice)} minutes of {terms.notice_minutes}; what it adds costs uptime")


def _windows(database: Database, known: Sequence[Terms]) -> dict[str, Window]:
    with database.read() as connection:
        return {one.name: one for one in _folded(sla.announcements(connection), known)}


def _folded(log: Iterable[Announcement], known: Sequence[Terms]) -> list[Window]:
    """Each window by the notice of the terms that its month is judged by, which need not be those of today."""
    lines: dict[str, list[Announcement]] = {}
    for entry in log:
        lines.setdefault(entry.window, []).append(entry)
    return [
        window
        for about_it in lines.values()
        for window in windows(about_it, _terms(known, about_it[0].from_minute).notice_minutes)
    ]


def _planned(known: dict[str, Window], name: str) -> tuple[int, int]:
    if name not in known:
        raise CliError(f'there is no window "{name}"', remedy='see "smartmail maintenance list"')
    return known[name].planned


def _terms(known: Sequence[Terms], minute: int) -> Terms:
    """Those of the minute's month; for a note of a time before any terms, the first ones."""
    try:
        return terms_at(known, minute)
    except TermsError:
        return min(known, key=lambda one: one.effective)


def _shown(database: Database, known: Sequence[Terms], service: str | None, *, since: int) -> list[Window]:
    with database.read() as connection:
        log: Sequence[Announcement] = sla.announcements(connection)
    if service is not None:
        log = about(log, service)
    found = [one for one in _folded(log, known) if one.planned[1] > since]
    return sorted(found, key=lambda one: (one.planned, one.name))


def _state(window: Window) -> str:
    effect = window.steps[0][1]
    if effect is Effect.NOTE:
        return "note"
    if window.cancelled:
        return "cancelled"
    return "announced" if effect is Effect.COUNTS else effect.value
