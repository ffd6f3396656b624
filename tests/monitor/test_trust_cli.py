"""`smartmail trust check`: what it prints, and its exit codes. Another process asks the servers of this one."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator

import dns.rcode
import pytest
from trustworld import Nameserver, nameserver

COMMAND = (sys.executable, "-c", "from smartmail.cli.trust import app; app()", "check")


@pytest.fixture
async def zone() -> AsyncIterator[Nameserver]:
    """A name server with a domain that takes no mail, but for a block list well."""
    async with nameserver() as server:
        server.add("example.com", "MX", "0 .")
        server.text("example.com", "v=spf1 -all")
        server.text("_dmarc.example.com", "v=DMARC1; p=reject; rua=mailto:reports@example.com")
        server.add("2.0.0.127.zen.example", "A", "127.0.0.2")
        server.add("point.example.dbl.example", "A", "127.0.1.2")
        yield server


async def run(zone: Nameserver, *arguments: str) -> tuple[int, str]:
    """Run the command; its exit code and what it wrote."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        *("example.com", "--resolver", f"127.0.0.1:{zone.port}", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


async def test_the_report_as_a_table_and_as_json(zone: Nameserver) -> None:
    lists = ("--block-list", "zen.example", "--domain-list", "dbl.example=point.example", "--sender", "192.0.2.25")
    zone.add("25.2.0.192.in-addr.arpa", "PTR", "mail.example.com.")
    zone.add("mail.example.com", "A", "192.0.2.25")
    code, output = await run(zone, *lists)
    assert (code, "example.com: warning" in output) == (0, True), output
    assert "takes no mail, and says so" in output
    code, output = await run(zone, *lists, "--json")
    found = {(one["check"], one["subject"]): one["severity"] for one in json.loads(output)["findings"]}
    assert code == 0
    assert found["dnsbl", "zen.example"] == found["dnsbl", "dbl.example"] == found["ptr", "192.0.2.25"] == "ok"
    assert found["dkim", "example.com"] == "warning"


async def test_a_problem_is_exit_code_1_and_what_cannot_be_asked_3(zone: Nameserver) -> None:
    assert (await run(zone, "--selector", "s1"))[0] == 1
    zone.broken["s1._domainkey.example.com"] = dns.rcode.REFUSED
    code, output = await run(zone, "--selector", "s1")
    assert (code, "the resolver refused" in output) == (3, True)


async def test_nobody_but_the_resolver_is_asked_for_a_domain_without_hosts(zone: Nameserver) -> None:
    await run(zone)
    assert {name for name, _ in zone.asked} <= {
        "example.com",
        "_dmarc.example.com",
        "_smtp._tls.example.com",
        "_mta-sts.example.com",
    }


async def test_threads_that_first_import_the_reader_of_records_at_once_all_get_it_whole() -> None:
    code = (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from smartmail.monitor.trust.spf_dkim_dmarc import checkdmarc\n"
        "names = ['mta_sts', 'spf', 'dmarc', 'smtp_tls_reporting'] * 2\n"
        "with ThreadPoolExecutor(8) as threads:\n"
        "    loaded = [one.__name__ for one in threads.map(checkdmarc, names)]\n"
        "assert loaded == ['checkdmarc.' + name for name in names]\n"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
    assert await process.wait() == 0
