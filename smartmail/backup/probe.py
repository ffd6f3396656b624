"""What a repository's own server is asked by HTTP, beside restic: does it refuse deletion, and what time is it there?

Deletion is tried on objects that do not exist, so nothing is lost where it is allowed. Credentials come from the
location file, go to that server alone, and are in no message, exception or log.
"""

import asyncio
import secrets
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final

import httpx2

from smartmail.core.backup_due import RunState
from smartmail.core.backup_plan import RepositoryPlan
from smartmail.core.backup_record import End, Reason
from smartmail.core.restic_location import Backend, Location, LocationError, take_apart

KINDS: Final = ("data", "index", "keys", "snapshots")
"""What an append-only server must not delete. Locks it must."""
SLOWEST_MS: Final = 30_000
"""A clock that takes longer to tell the time does not tell it."""
_LONGEST: Final = 65_536


class Unreadable(Exception):
    """The location file cannot be used: the message says why, and shows nothing of it."""


@dataclass(frozen=True, slots=True)
class Probed:
    """state OK: deletion was refused, and a reading with the same credentials was not. Otherwise reason is
    NOT_APPEND_ONLY (it would have deleted) or PROBE_UNCLEAR. answers: what was asked and the status that came ("no
    answer" and why, if none did)."""

    state: RunState
    reason: Reason
    answers: tuple[tuple[str, str], ...]
    words: str

    @property
    def end(self) -> End:
        """For the catalogue."""
        return End(self.state, self.reason, self.facts, self.words)

    @property
    def facts(self) -> dict[str, object]:
        """For the catalogue: JSON values."""
        return {"answers": [list(one) for one in self.answers]}


@dataclass(frozen=True, slots=True)
class OtherClock:
    """What another clock said: its time (ms), and what ours said at that moment. asked: whom, for a person."""

    reference_ms: int
    now_ms: int
    asked: str


@dataclass(frozen=True, slots=True)
class NoClock:
    """There is no other clock. needed: False if none can be expected, of a repository on this machine. why: words."""

    needed: bool
    why: str


async def read_location(plan: RepositoryPlan) -> Location:
    """The repository's address, taken apart. Raises Unreadable."""
    try:
        text = await asyncio.to_thread(_read, Path(plan.at.repository_file))
        return take_apart(text)
    except LocationError as error:
        raise Unreadable(f"repository {plan.name}: its location file: {error}") from None
    except OSError as error:
        raise Unreadable(f"repository {plan.name}: its location file cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Unreadable(f"repository {plan.name}: its location file is no text") from None


async def probe(
    plan: RepositoryPlan, *, name: Callable[[], str] = lambda: secrets.token_hex(32), limit_s: float = 60.0
) -> Probed:
    """Does the server refuse deletion? name: makes a name that no object has, 64 hexadecimal digits. limit_s: for all
    of it. Never raises for what a server does or a file lacks."""
    try:
        location = await read_location(plan)
        if location.backend is not Backend.REST or not location.url:
            return _unclear((), "only a REST server can be asked; a probe proves nothing of this kind of repository")
        async with client_of(plan, limit_s, location) as client:
            return await _probed(client, location.url, name, limit_s)
    except Unreadable as error:
        return _unclear((), str(error))


async def other_clock(plan: RepositoryPlan, clock: Callable[[], int], *, limit_s: float = 20.0) -> OtherClock | NoClock:
    """What time it is by the Date header of the plan's clock; without one, of the repository's own server, where it has
    one that speaks HTTP. clock: ours, ms. Never raises for what a server does or a file lacks."""
    location: Location | None = None
    try:
        if plan.clock:
            url, asked = plan.clock, "its clock"
        else:
            location = await read_location(plan)
            url, asked = location.url, f"the server of repository {plan.name}"
            if not location.remote:
                return NoClock(False, "the repository is on this machine, and has no other clock")
            if not url:
                return NoClock(True, f"repository {plan.name}: its server tells no time; set clock to a URL that does")
        # The certificate file is of the repository's server, not of whatever else tells the time.
        trusting = replace(plan, at=replace(plan.at, certificate_file="")) if plan.clock else plan
        async with client_of(trusting, limit_s, None) as client:
            return await _told(client, url, asked, clock, limit_s)
    except Unreadable as error:
        return NoClock(True, str(error))


def _read(file: Path) -> str:
    with file.open("rb") as stream:
        return stream.read(_LONGEST).decode()


@asynccontextmanager
async def client_of(
    plan: RepositoryPlan, limit_s: float, location: Location | None
) -> AsyncIterator[httpx2.AsyncClient]:
    """With the credentials of `location`. Raises Unreadable."""
    # restic too trusts nothing but this file, if one is given.
    file = plan.at.certificate_file or None
    try:
        tls = await asyncio.to_thread(ssl.create_default_context, cafile=file)
    except (OSError, ssl.SSLError) as error:
        raise Unreadable(f"repository {plan.name}: {file} cannot be used: {error.strerror}") from None
    auth = httpx2.BasicAuth(location.user, location.password) if location and location.user else None
    timeout = httpx2.Timeout(limit_s, connect=min(limit_s, 10.0))
    async with httpx2.AsyncClient(verify=tls, auth=auth, trust_env=False, timeout=timeout) as client:
        yield client


async def _probed(client: httpx2.AsyncClient, url: str, name: Callable[[], str], limit_s: float) -> Probed:
    answers: list[tuple[str, str]] = []
    loop = asyncio.get_running_loop()
    deadline = loop.time() + limit_s
    seen, text = await _ask(client, "HEAD", f"{url}config", deadline - loop.time())
    answers.append(("HEAD config", text))
    if seen != 200:
        # A server that refuses everything, or other credentials than restic's, would look append-only.
        return _unclear(answers, f"the repository was not to be seen: {text}")
    for kind in KINDS:
        status, text = await _ask(client, "DELETE", f"{url}{kind}/{name()}", deadline - loop.time())
        answers.append((f"DELETE {kind}", text))
        if status is None:
            break
    refused = [text == "403" for _, text in answers[1:]]
    allowed = [what for what, text in answers[1:] if text == "404" or text.startswith("2")]
    if allowed:
        words = f"it would have deleted: {', '.join(f'{what}: {text}' for what, text in answers if what in allowed)}"
        return Probed(RunState.FAILED, Reason.NOT_APPEND_ONLY, tuple(answers), words)
    if len(refused) == len(KINDS) and all(refused):
        return Probed(RunState.OK, Reason.NONE, tuple(answers), "deletion was refused (403) where reading was not")
    other = next(f"{what}: {text}" for what, text in answers[1:] if text != "403")
    return _unclear(answers, f"neither yes nor no came: {other}")


async def _ask(client: httpx2.AsyncClient, method: str, url: str, limit_s: float) -> tuple[int | None, str]:
    """The status, and it as text; None and why not. What comes after the head is not read."""
    try:
        async with asyncio.timeout(max(limit_s, 0)), client.stream(method, url) as response:
            return response.status_code, str(response.status_code)
    except TimeoutError:
        return None, "no answer in time"
    except httpx2.TimeoutException:
        return None, "no answer in time"
    except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError, OSError) as error:
        # Its words may show the address; its kind does not.
        return None, f"no answer ({_kind(error)})"


async def _told(
    client: httpx2.AsyncClient, url: str, asked: str, clock: Callable[[], int], limit_s: float
) -> OtherClock | NoClock:
    before_ms = clock()
    try:
        async with (
            asyncio.timeout(limit_s),
            client.stream("HEAD", url, headers={"Cache-Control": "no-cache"}) as response,
        ):
            after_ms = clock()
            date, age = response.headers.get("date", ""), response.headers.get("age", "0")
    except (TimeoutError, httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError, OSError) as error:
        return NoClock(True, f"{asked} gave no answer ({_kind(error)})")
    if not 0 <= after_ms - before_ms <= SLOWEST_MS:
        return NoClock(True, f"{asked} took too long to tell the time, or ours was set meanwhile")
    if age.strip() not in ("", "0"):
        return NoClock(True, f"{asked} answers from a cache, so its time is old")
    try:
        moment = parsedate_to_datetime(date)
    except ValueError:
        return NoClock(True, f"{asked} tells no time (no Date header that can be read)")
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    # The header has whole seconds: half of one more is the least wrong.
    return OtherClock(round(moment.timestamp()) * 1000 + 500, (before_ms + after_ms) // 2, asked)


def _kind(error: BaseException) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return "its certificate is not to be trusted"
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__


def _unclear(answers: list[tuple[str, str]] | tuple[()], words: str) -> Probed:
    return Probed(RunState.FAILED, Reason.PROBE_UNCLEAR, tuple(answers), words)
