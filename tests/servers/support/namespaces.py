"""Hosts in network namespaces of their own, each with one address and one link that can be cut.

The links meet in a bridge in a namespace of its own, "the net", where a name server and a control target are. Nothing
is made in the machine's own namespace, so any number of these networks may exist at once, with the same addresses.
Needs root.
"""

import ctypes
import itertools
import os
import signal
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
from support.processes import eventually, need, run

NET: Final = "10.7.0.1"
"""The net's own address: of the name server and of the control target, which no cut link takes away."""
DNS_PORT: Final = 53
CONTROL_PORT: Final = 7
_CLONE_NEWNET: Final = 0x40000000
_NUMBERS: Final = itertools.count()
_libc: Final = ctypes.CDLL(None, use_errno=True)


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """This thread, and every process and thread that it starts meanwhile, is in the namespace. Not across an await."""
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        other = os.open(f"/run/netns/{namespace}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _enter(other)
        finally:
            os.close(other)
        try:
            yield
        finally:
            _enter(own)
    finally:
        os.close(own)


def _enter(namespace: int) -> None:
    if _libc.setns(namespace, _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@dataclass(frozen=True)
class Host:
    """A host of the network. `cut` and `mend`: the far end of its link, it sees no more than silence; `unplug` and
    `plug`: its own end, it knows at once that there is no net."""

    name: str
    namespace: str
    address: str
    net: str
    """The namespace of the net."""

    def inside(self) -> AbstractContextManager[None]:
        """See `inside`."""
        return inside(self.namespace)

    def cut(self) -> None:
        """Pull the cable at the other end."""
        run(["ip", "-n", self.net, "link", "set", self.name, "down"])

    def mend(self) -> None:
        """Put it back, and wait until the net can be reached."""
        run(["ip", "-n", self.net, "link", "set", self.name, "up"])
        self.wait_for_the_net()

    def unplug(self) -> None:
        """Switch the interface off."""
        run(["ip", "-n", self.namespace, "link", "set", "eth0", "down"])

    def plug(self) -> None:
        """Switch it on, and wait until the net can be reached."""
        run(["ip", "-n", self.namespace, "link", "set", "eth0", "up"])
        self.wait_for_the_net()

    def wait_for_the_net(self) -> None:
        """Until the control target answers."""
        with self.inside():
            eventually(connects(NET, CONTROL_PORT), f"{self.name} to reach the net")


def connects(address: str, port: int) -> Callable[[], bool]:
    """A probe: something accepts connections there. It has little patience, and is asked again."""

    def probe() -> bool:
        with socket.socket() as attempt:
            attempt.settimeout(0.2)
            try:
                attempt.connect((address, port))
            except OSError:
                return False
            return True

    return probe


@dataclass(frozen=True)
class Network:
    """A running network."""

    namespace: str
    hosts: Mapping[str, Host]
    names: "NameServer"

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]


@contextmanager
def network(*names: str) -> Iterator[Network]:
    """Hosts with these names (15 letters at most), and the net with its name server, which knows no name yet. All of
    it is gone afterwards, with every process in it."""
    need("ip")
    assert os.geteuid() == 0, "network namespaces need root"
    prefix = f"sm{os.getpid()}-{next(_NUMBERS)}"
    with ExitStack() as stack:
        net = stack.enter_context(_namespace(f"{prefix}-net"))
        run(["ip", "-n", net, "link", "add", "bridge", "type", "bridge"])
        run(["ip", "-n", net, "address", "add", f"{NET}/24", "dev", "bridge"])
        run(["ip", "-n", net, "link", "set", "bridge", "up"])
        hosts = {}
        for number, name in enumerate(names, 10):
            own = stack.enter_context(_namespace(f"{prefix}-{name}"))
            host = hosts[name] = Host(name, own, f"10.7.0.{number}", net)
            run(["ip", "-n", net, "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", own])
            run(["ip", "-n", net, "link", "set", name, "master", "bridge", "up"])
            run(["ip", "-n", own, "address", "add", f"{host.address}/24", "dev", "eth0"])
            run(["ip", "-n", own, "link", "set", "eth0", "up"])
        with inside(net):
            server = stack.enter_context(NameServer())
            stack.enter_context(_serving(_Control((NET, CONTROL_PORT), _Nothing)))
        for host in hosts.values():
            host.wait_for_the_net()
        yield Network(net, hosts, server)


@contextmanager
def _namespace(name: str) -> Iterator[str]:
    run(["ip", "netns", "add", name])
    try:
        run(["ip", "-n", name, "link", "set", "lo", "up"])
        yield name
    finally:
        # A process that is left would keep the namespace for ever. Whoever is in it was started by this test.
        for number in run(["ip", "netns", "pids", name]).stdout.split():
            if Path(f"/proc/{number}/exe").exists():
                with suppress(ProcessLookupError):
                    os.kill(int(number), signal.SIGKILL)
        run(["ip", "netns", "delete", name])


class _Control(socketserver.TCPServer):
    allow_reuse_address = True
    request_queue_size = 256


class _Nothing(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        """The connection is all that is wanted."""


@contextmanager
def _serving(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class NameServer:
    """Authoritative for a few names, over UDP at NET."""

    def __init__(self) -> None:
        self.zone: Mapping[str, Mapping[str, str]] = {}
        """Name (with its dot) -> type of record -> its text; one of them has the SOA."""
        self.silent = False
        """It hears questions, and says nothing."""
        self._stack = ExitStack()

    def __enter__(self) -> "NameServer":
        names = self

        class Answer(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                octets, to = self.request
                if not names.silent and (answer := names.answer(octets)):
                    to.sendto(answer, self.client_address)

        self._stack.enter_context(_serving(socketserver.UDPServer((NET, DNS_PORT), Answer)))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def answer(self, octets: bytes) -> bytes:
        """To a question, as octets; b"" to what is none."""
        try:
            query = dns.message.from_wire(octets)
        except dns.exception.DNSException:
            return b""
        reply = dns.message.make_response(query)
        reply.flags |= dns.flags.AA | dns.flags.RA
        question = query.question[0]
        kind = dns.rdatatype.to_text(question.rdtype)
        records = self.zone.get(question.name.to_text().lower())
        if records is None:
            reply.set_rcode(dns.rcode.NXDOMAIN)
        elif kind in records:
            reply.answer.append(dns.rrset.from_text(question.name, 0, "IN", kind, records[kind]))
        else:
            apex, soa = next((name, found["SOA"]) for name, found in self.zone.items() if "SOA" in found)
            reply.authority.append(dns.rrset.from_text(apex, 0, "IN", "SOA", soa))
        return reply.to_wire()
