"""`smartmail trust`: what other mail servers think of a domain."""

import asyncio
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from smartmail.cli.common import CliError, ExitCode, JsonFlag, print_json, print_table

if TYPE_CHECKING:
    from smartmail.monitor.trust.dnsbl import BlockList
    from smartmail.monitor.trust.lookup import Address, Lookup
    from smartmail.monitor.trust.report import TrustContext, TrustReport

app = typer.Typer(no_args_is_help=True, help="What other mail servers think of a domain.")


@app.callback()
def _noun() -> None:
    """With one verb alone Typer would leave the verb out."""


@app.command()
def check(
    domain: Annotated[str, typer.Argument(help="The domain to look at.")],
    selector: Annotated[
        list[str] | None, typer.Option(help="A DKIM selector that is signed with. Repeatable.", show_default=False)
    ] = None,
    sender: Annotated[
        list[str] | None,
        typer.Option(help="An address that mail leaves from, besides the MX hosts'. Repeatable.", show_default=False),
    ] = None,
    block_list: Annotated[
        list[str] | None,
        typer.Option(help="A DNS block list to ask for the addresses, by its zone. Repeatable.", show_default=False),
    ] = None,
    domain_list: Annotated[
        list[str] | None,
        typer.Option(
            help="A DNS block list to ask for the domain: zone, or zone=entry where its test entry is not 'test'."
            " Repeatable.",
            show_default=False,
        ),
    ] = None,
    resolver: Annotated[
        str, typer.Option(help="Ask this resolver: address or address:port. Default: the system's.", show_default=False)
    ] = "",
    ca_file: Annotated[
        Path | None, typer.Option(help="Trust these roots instead of the system's.", show_default=False)
    ] = None,
    smtp_port: Annotated[int, typer.Option(min=1, max=65535, help="The MX hosts' port.")] = 25,
    https_port: Annotated[int, typer.Option(min=1, max=65535, help="The MTA-STS policy host's port.")] = 443,
    connect: Annotated[bool, typer.Option(help="Speak to the MX hosts, for the certificates they serve.")] = True,
    as_json: JsonFlag = False,
) -> None:
    """Look at SPF, DKIM, DMARC, MTA-STS, TLS-RPT, TLSA, PTR and block lists.

    Advisory: no part of any SLA. Asks the resolver, the MX hosts and the policy host of the domain; of block lists
    only those named. Exit code 1: a problem; 3: something could not be asked.
    """
    from smartmail.monitor.trust.finding import Severity
    from smartmail.monitor.trust.report import TrustRequest, check_trust

    request = TrustRequest(
        domain,
        tuple(selector or ()),
        tuple(_address(text) for text in sender or ()),
        tuple(_lists(block_list or (), domain_list or ())),
        connect,
    )
    report = asyncio.run(check_trust(request, _context(resolver, ca_file, smtp_port, https_port)))
    if as_json:
        print_json(report.to_json())
    else:
        _print(report)
    codes = {Severity.PROBLEM: ExitCode.FOUND_BAD, Severity.ERROR: ExitCode.UNREACHABLE}
    raise typer.Exit(codes.get(report.worst, ExitCode.OK))


def _context(resolver: str, ca_file: Path | None, smtp_port: int, https_port: int) -> "TrustContext":
    import socket
    import ssl

    from smartmail.monitor.trust.mta_sts import HttpsSettings
    from smartmail.monitor.trust.report import TrustContext
    from smartmail.monitor.trust.served import SmtpSettings

    try:
        roots = ssl.create_default_context(cafile=ca_file) if ca_file else None
    except ssl.SSLError as error:
        raise CliError("no certificates in it", where=str(ca_file), code=ExitCode.USAGE) from error
    smtp = SmtpSettings(smtp_port, socket.gethostname(), roots=roots)
    return TrustContext(_lookup(resolver), smtp, HttpsSettings(https_port, roots=roots))


def _lookup(resolver: str) -> "Lookup":
    from smartmail.monitor.probes.resolver import NoNameserverError, split_nameserver
    from smartmail.monitor.trust.lookup import Lookup

    if not resolver:
        return Lookup()
    try:
        host, port = split_nameserver(resolver)
    except NoNameserverError as error:
        raise CliError(str(error), where="--resolver", code=ExitCode.USAGE) from error
    return Lookup([host], port=port)


def _address(text: str) -> "Address":
    try:
        return ip_address(text)
    except ValueError as error:
        raise CliError(f"{text!r} is no IP address", where="--sender", code=ExitCode.USAGE) from error


def _lists(addresses: list[str] | tuple[()], domains: list[str] | tuple[()]) -> "list[BlockList]":
    from smartmail.monitor.trust.dnsbl import BlockList, ListKind

    lists = [BlockList(zone) for zone in addresses]
    for text in domains:
        zone, found, entry = text.partition("=")
        lists.append(BlockList(zone, ListKind.DOMAINS, entry) if found else BlockList(zone, ListKind.DOMAINS))
    return lists


def _print(report: "TrustReport") -> None:
    rows = [(one.severity.value, one.check.value, one.subject, one.text, one.remedy) for one in report.findings]
    print_table(("", "check", "of", "found", "do"), rows, title=f"{report.domain}: {report.worst.value}")
