"""What a repository's own server says to a probe of deletion and to the question of the time; and that credentials are
shown nowhere, whatever a server does."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from plans import make_repository
from served import QUOTED, SECRET, at, rclone

from smartmail.backup.probe import KINDS, NoClock, OtherClock, Probed, Unreadable, other_clock, probe, read_location
from smartmail.core.backup_due import RunState
from smartmail.core.backup_record import Reason

HEAD = "HTTP/1.1 {} X\r\nContent-Length: 0\r\nDate: Tue, 24 Nov 2026 02:00:00 GMT\r\nConnection: close\r\n{}\r\n"
AT_TWO_MS = 1_795_485_600_000


Answer = Callable[[str, str], str | None]
"""(method, path) -> what to send; "" to drop the connection, None never to answer."""


@asynccontextmanager
async def server(answer: Answer) -> AsyncIterator[tuple[int, list[str]]]:
    """A server by hand: its port, and the heads of the requests that came."""
    seen: list[str] = []
    over = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            seen.append(head)
            method, path, _ = head.split(" ", 2)
            text = answer(method, path)
            if text is None:
                await over.wait()
            else:
                writer.write(text.encode())
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield listening.sockets[0].getsockname()[1], seen
    finally:
        over.set()
        listening.close()
        await listening.wait_closed()


def deleting(status: str, more: str = "") -> Answer:
    """HEAD of the config is answered with 200, DELETE with `status`."""
    return lambda method, path: HEAD.format("200" if method == "HEAD" else status, more if method != "HEAD" else "")


def shown(found: Probed | NoClock | OtherClock) -> str:
    facts = found.facts if isinstance(found, Probed) else ""
    return f"{found!r} {facts}"


@pytest.fixture(autouse=True)
def everything_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No test may have logged the password, in any form, at any level."""
    caplog.set_level(logging.DEBUG)
    yield
    for form in (SECRET, QUOTED, "heim", "bXgxOmdlOmhlaW1Ad29ydA"):
        assert form not in caplog.text


# the real server


@pytest.mark.servers
async def test_rclone_append_only_is_proved(tmp_path: Path) -> None:
    with rclone(tmp_path / "served", "--append-only") as port:
        (tmp_path / "served/mx1/mail").mkdir(parents=True)
        (tmp_path / "served/mx1/mail/config").write_bytes(b"config")
        found = await probe(at(tmp_path, port))
        assert (found.state, found.reason) == (RunState.OK, Reason.NONE)
        assert [answer for _, answer in found.answers] == ["200", "403", "403", "403", "403"]
        # Another user's repository refuses everything, reading too: that proves nothing.
        other = await probe(at(tmp_path, port, "somebody/mail/"))
        assert (other.state, other.reason) == (RunState.FAILED, Reason.PROBE_UNCLEAR)
        anybody = await probe(at(tmp_path, port, user=""))
        assert (anybody.reason, anybody.answers) == (Reason.PROBE_UNCLEAR, (("HEAD config", "401"),))
        gone = await probe(at(tmp_path, port, "mx1/another/"))
        assert (gone.reason, gone.answers) == (Reason.PROBE_UNCLEAR, (("HEAD config", "404"),))


@pytest.mark.servers
async def test_rclone_that_allows_deletion_is_found_out_and_nothing_is_lost(tmp_path: Path) -> None:
    with rclone(tmp_path / "served") as port:
        folder = tmp_path / "served/mx1/mail"
        for kind in KINDS:
            (folder / kind).mkdir(parents=True)
            (folder / kind / ("ab" * 32)).write_bytes(b"there")
        (folder / "config").write_bytes(b"config")
        before = sorted(folder.rglob("*"))
        found = await probe(at(tmp_path, port))
        assert (found.state, found.reason) == (RunState.FAILED, Reason.NOT_APPEND_ONLY)
        assert "it would have deleted" in found.words
        assert sorted(folder.rglob("*")) == before


@pytest.mark.servers
async def test_the_time_of_a_real_server(tmp_path: Path) -> None:
    with rclone(tmp_path / "served", "--append-only") as port:
        found = await other_clock(at(tmp_path, port), lambda: time.time_ns() // 1_000_000)
        assert isinstance(found, OtherClock)
        assert abs(found.reference_ms - found.now_ms) < 5_000
        assert found.asked == "the server of repository offsite"


# what else may answer


@pytest.mark.parametrize("status", ["200", "204", "404"])
async def test_whoever_would_delete_is_not_append_only(tmp_path: Path, status: str) -> None:
    async with server(deleting(status)) as (port, _):
        found = await probe(at(tmp_path, port))
    assert (found.state, found.reason) == (RunState.FAILED, Reason.NOT_APPEND_ONLY)


@pytest.mark.parametrize("status", ["301", "307", "400", "401", "405", "407", "429", "500", "502", "503"])
async def test_neither_yes_nor_no_is_unclear(tmp_path: Path, status: str) -> None:
    async with server(deleting(status, "Location: http://127.0.0.1:1/\r\n")) as (port, seen):
        found = await probe(at(tmp_path, port))
    assert (found.state, found.reason) == (RunState.FAILED, Reason.PROBE_UNCLEAR)
    assert status in found.words
    assert len(seen) == 1 + len(KINDS), "no redirection may be followed"


@pytest.mark.parametrize("status", ["401", "403", "404", "500"])
async def test_a_server_that_refuses_everything_proves_nothing(tmp_path: Path, status: str) -> None:
    async with server(lambda method, path: HEAD.format(status, "")) as (port, seen):
        found = await probe(at(tmp_path, port))
    assert found.reason is Reason.PROBE_UNCLEAR
    assert len(seen) == 1, "nothing is to be deleted where nothing can be seen"


@pytest.mark.parametrize("kind", KINDS)
async def test_one_kind_that_would_be_deleted_is_enough(tmp_path: Path, kind: str) -> None:
    async with server(
        lambda method, path: HEAD.format("200" if method == "HEAD" else "404" if f"/{kind}/" in path else "403", "")
    ) as (port, _):
        found = await probe(at(tmp_path, port))
    assert found.reason is Reason.NOT_APPEND_ONLY
    assert f"DELETE {kind}: 404" in found.words


@pytest.mark.parametrize(
    "answer", ["", "nonsense\r\n\r\n", "HTTP/1.1 ", f"HTTP/1.1 403 {'x' * 200_000}\r\n\r\n"], ids=lambda one: one[:12]
)
@pytest.mark.parametrize("method", ["HEAD", "DELETE"])
async def test_a_server_that_drops_or_talks_nonsense(tmp_path: Path, answer: str, method: str) -> None:
    async with server(lambda asked, path: answer if asked == method else HEAD.format("200", "")) as (port, _):
        found = await probe(at(tmp_path, port))
    assert found.reason is Reason.PROBE_UNCLEAR
    assert SECRET not in shown(found)


@pytest.mark.parametrize("method", ["HEAD", "DELETE"])
async def test_a_server_that_hangs_is_left_in_time(tmp_path: Path, method: str) -> None:
    async with server(lambda asked, path: None if asked == method else HEAD.format("200", "")) as (port, _):
        began = time.monotonic()
        found = await probe(at(tmp_path, port), limit_s=0.5)
        assert time.monotonic() - began < 5
    assert found.reason is Reason.PROBE_UNCLEAR
    assert "no answer in time" in f"{found.answers}"


async def test_nobody_listens(tmp_path: Path) -> None:
    async with server(deleting("403")) as (port, _):
        pass
    found = await probe(at(tmp_path, port))
    assert found.reason is Reason.PROBE_UNCLEAR
    assert "heim" not in shown(found)


async def test_a_body_without_end_is_not_read(tmp_path: Path) -> None:
    endless = "HTTP/1.1 403 X\r\nContent-Length: 1000000000\r\n\r\n" + "x" * 1000
    async with server(lambda method, path: endless if method == "DELETE" else HEAD.format("200", "")) as (port, _):
        found = await probe(at(tmp_path, port), limit_s=10)
    assert found.reason is Reason.NONE


async def test_only_names_that_nothing_has_are_deleted_and_with_the_credentials(tmp_path: Path) -> None:
    async with server(deleting("403")) as (port, seen):
        await probe(at(tmp_path, port), name=iter(["ab" * 32, "cd" * 32, "ef" * 32, "01" * 32]).__next__)
        await probe(at(tmp_path, port))
    lines = [head.split("\r\n")[0] for head in seen]
    assert lines[:3] == [
        "HEAD /mx1/mail/config HTTP/1.1",
        f"DELETE /mx1/mail/data/{'ab' * 32} HTTP/1.1",
        f"DELETE /mx1/mail/index/{'cd' * 32} HTTP/1.1",
    ]
    names = [line.split("/")[4].split(" ")[0] for line in lines if line.startswith("DELETE")]
    assert len(set(names)) == 8
    assert {len(name) for name in names} == {64}
    assert all("Authorization: Basic bXgxOmdlOmhlaW1Ad29ydA==" in head for head in seen)


@pytest.mark.parametrize(
    "address", ["/srv/backup", "sftp:host:/x", "s3:https://host/b", "rest:http+unix:///run/x:/mail", "rest:nonsense"]
)
async def test_what_cannot_be_asked_is_unclear(tmp_path: Path, address: str) -> None:
    plan = make_repository(tmp_path, "offsite")
    Path(plan.at.repository_file).write_text(f"{address}\n")
    found = await probe(plan)
    assert (found.state, found.reason, found.answers) == (RunState.FAILED, Reason.PROBE_UNCLEAR, ())


@pytest.mark.parametrize("content", [None, b"", b"rest:http://u:geheim@h:port/", b"\xff\xfe", b"rest:https://geheim@/"])
async def test_a_location_file_that_is_wrong(tmp_path: Path, content: bytes | None) -> None:
    plan = make_repository(tmp_path, "offsite")
    file = Path(plan.at.repository_file)
    file.unlink() if content is None else file.write_bytes(content)
    assert (await probe(plan)).reason is Reason.PROBE_UNCLEAR
    assert isinstance(await other_clock(plan, lambda: 0), NoClock)
    with pytest.raises(Unreadable) as raised:
        await read_location(plan)
    assert "heim" not in f"{raised.value} {raised.value.__cause__}"


async def test_a_certificate_file_that_is_missing(tmp_path: Path) -> None:
    plan = at(tmp_path, 1)
    plan = replace(plan, at=replace(plan.at, certificate_file=str(tmp_path / "none.pem")))
    assert "none.pem" in (await probe(plan)).words
    assert isinstance(await other_clock(plan, lambda: 0), NoClock)


# the time


async def test_the_date_of_the_plans_clock(tmp_path: Path) -> None:
    async with server(lambda method, path: HEAD.format("404", "")) as (port, seen):
        onsite = make_repository(tmp_path, "onsite")
        # Of the repository's server alone, so it is not looked at here.
        place = replace(onsite.at, certificate_file=str(tmp_path / "none.pem"))
        plan = replace(onsite, at=place, clock=f"http://127.0.0.1:{port}/time")
        found = await other_clock(plan, iter([AT_TWO_MS, AT_TWO_MS + 2000]).__next__)
    assert found == OtherClock(AT_TWO_MS + 500, AT_TWO_MS + 1000, "its clock")
    assert "Authorization" not in seen[0]


async def test_the_credentials_are_not_shown_to_whom_only_the_time_is_asked_of(tmp_path: Path) -> None:
    async with server(lambda method, path: HEAD.format("401", "")) as (port, seen):
        assert isinstance(await other_clock(at(tmp_path, port), lambda: AT_TWO_MS), OtherClock)
    assert "uthorization" not in seen[0]


async def test_a_repository_on_this_machine_has_no_other_clock_and_needs_none(tmp_path: Path) -> None:
    found = await other_clock(make_repository(tmp_path, "onsite"), lambda: 0)
    assert isinstance(found, NoClock)
    assert not found.needed


async def test_a_server_without_http_tells_no_time(tmp_path: Path) -> None:
    plan = make_repository(tmp_path, "offsite")
    Path(plan.at.repository_file).write_text("sftp:host:/srv/backup\n")
    found = await other_clock(plan, lambda: 0)
    assert isinstance(found, NoClock)
    assert found.needed
    assert "set clock" in found.why


@pytest.mark.parametrize(
    ("answer", "times"),
    [
        (HEAD.format("200", "Age: 3600\r\n"), (0, 10)),
        (HEAD.format("200", "").replace("Date", "Data"), (0, 10)),
        (HEAD.format("200", "").replace("24 Nov", "24 Nev"), (0, 10)),
        (HEAD.format("200", ""), (0, 60_000)),
        (HEAD.format("200", ""), (60_000, 0)),
        ("", (0, 10)),
        (None, (0, 10)),
    ],
    ids=["old", "without", "no date", "slow", "set back", "dropped", "hangs"],
)
async def test_a_clock_that_tells_nothing(tmp_path: Path, answer: str | None, times: tuple[int, int]) -> None:
    async with server(lambda method, path: answer) as (port, _):
        found = await other_clock(at(tmp_path, port), iter(times).__next__, limit_s=1)
    assert isinstance(found, NoClock)
    assert found.needed
    assert "heim" not in found.why
