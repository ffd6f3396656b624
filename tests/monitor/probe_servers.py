"""A mail host as customers see it: Postfix and Dovecot with TLS on every port, and a web server."""

import os
import shutil
import signal
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from probe_peers import Pair
from support.mailservers import DOVECOT_CONF, MAIL_UID, USERS, Dovecot, Postfix, password, run_postfix
from support.processes import Process, answers, eventually, free_port, need, run, short_directory

DOVECOT_MORE = """
ssl = required
ssl_cert = <{directory}/tls.pem
ssl_key = <{directory}/tls.key
ssl_min_protocol = TLSv1.2
protocols = imap lmtp pop3 sieve
disable_plaintext_auth = yes
service imap-login {{
  inet_listener imaps {{
    port = {imaps_port}
    ssl = yes
  }}
}}
service pop3-login {{
  chroot =
  inet_listener pop3 {{
    port = 0
  }}
  inet_listener pop3s {{
    port = {pop3s_port}
    ssl = yes
  }}
}}
service managesieve-login {{
  chroot =
  inet_listener sieve {{
    port = {sieve_port}
  }}
}}
service anvil {{
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
"""
"""Behind DOVECOT_CONF. Without the penalty a wrong password costs those after it no seconds."""


def _processes(root: int) -> list[int]:
    """A process and all below it."""
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                stat = (folder / "stat").read_text()
            except OSError:
                continue
            parents.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(folder.name))
    found = [root]
    for process in found:
        found += parents.get(process, [])
    return found


@dataclass
class SecureDovecot:
    """A running Dovecot with TLS; `imap_port` and `sieve_port` with STARTTLS."""

    directory: Path
    imap_port: int
    imaps_port: int
    pop3s_port: int
    sieve_port: int
    process: Process | None = None

    @property
    def sockets(self) -> Dovecot:
        """Where Postfix reaches it."""
        return Dovecot(self.directory, self.imap_port)

    def use(self, pair: Pair) -> None:
        """Serve with this certificate."""
        shutil.copyfile(pair.certificate, self.directory / "tls.pem")
        shutil.copyfile(pair.key, self.directory / "tls.key")
        if self.process is not None:
            self.process.signal(signal.SIGHUP)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop every process of it where it is: the ports are open, and nobody is there."""
        assert self.process is not None
        stopped: list[int] = []
        try:
            for number in _processes(self.process.pid):
                os.kill(number, signal.SIGSTOP)
                stopped.append(number)
            yield
        finally:
            for number in reversed(stopped):
                os.kill(number, signal.SIGCONT)


@contextmanager
def run_secure_dovecot(pair: Pair) -> Iterator[SecureDovecot]:
    """Start Dovecot, wait until it answers, end it afterwards."""
    need("dovecot")
    with short_directory("dovecot-tls") as directory:
        server = SecureDovecot(directory, *(free_port() for _ in range(4)))
        for name in ("run", "mail"):
            (directory / name).mkdir(mode=0o755)
        os.chown(directory / "mail", MAIL_UID, MAIL_UID)
        (directory / "users").write_text("".join(f"{user}:{{PLAIN}}{password(user)}::::::\n" for user in USERS))
        server.use(pair)
        ports = {"imaps_port": server.imaps_port, "pop3s_port": server.pop3s_port, "sieve_port": server.sieve_port}
        conf = directory / "dovecot.conf"
        text = DOVECOT_CONF.format(directory=directory, uid=MAIL_UID, imap_port=server.imap_port)
        # What is set again counts from then on; only the switched-off listener has to go.
        text = text.replace("  inet_listener imaps {\n    port = 0\n  }\n", "")
        conf.write_text(text.lstrip() + DOVECOT_MORE.format(directory=directory, **ports))
        server.process = Process(["/usr/sbin/dovecot", "-F", "-c", str(conf)], directory / "output")
        try:
            for port in (server.imap_port, server.imaps_port, server.pop3s_port, server.sieve_port):
                eventually(answers(port, server.process.popen), "Dovecot")
            eventually(server.sockets.lmtp_socket.exists, "Dovecot's LMTP socket")
            yield server
        finally:
            server.process.stop()


@dataclass
class SecurePostfix:
    """A running Postfix: `mx_port` as port 25, `submission_port` as 587, `smtps_port` as 465."""

    postfix: Postfix
    smtps_port: int

    @property
    def mx_port(self) -> int:
        """STARTTLS."""
        return self.postfix.port

    @property
    def submission_port(self) -> int:
        """STARTTLS and AUTH."""
        return self.postfix.plain_port

    def stop(self) -> None:
        """End it: its ports are closed."""
        run(["/usr/sbin/postfix", "-c", str(self.postfix.config), "stop"])

    def start(self) -> None:
        """Start it again, and wait until it answers."""
        run(["/usr/sbin/postfix", "-c", str(self.postfix.config), "start"])
        for port in (self.mx_port, self.submission_port, self.smtps_port):
            eventually(answers(port), "Postfix")

    def set(self, **settings: str) -> None:
        """Change settings while it runs."""
        if changes := [f"{name}={value}" for name, value in settings.items()]:
            run(["/usr/sbin/postconf", "-c", str(self.postfix.config), "-e", *changes])
        run(["/usr/sbin/postfix", "-c", str(self.postfix.config), "reload"])


@contextmanager
def run_secure_postfix(dovecot: SecureDovecot) -> Iterator[SecurePostfix]:
    """Start Postfix with Dovecot's certificate, passwords and mailboxes; end it afterwards."""
    users = "".join(f"{user} ok\n" for user in USERS)
    settings = {
        "myhostname": "mail.example.com",
        "mynetworks": "192.0.2.0/24",
        "virtual_mailbox_domains": "example.com, example.org",
        "virtual_mailbox_maps": "texthash:{directory}/conf/users",
        "virtual_transport": f"lmtp:unix:{dovecot.sockets.lmtp_socket}",
        "default_transport": "discard",
        "queue_run_delay": "1s",
        "minimal_backoff_time": "1s",
        "smtpd_tls_security_level": "may",
        "smtpd_tls_auth_only": "yes",
        "smtpd_tls_cert_file": str(dovecot.directory / "tls.pem"),
        "smtpd_tls_key_file": str(dovecot.directory / "tls.key"),
        "smtpd_sasl_auth_enable": "yes",
        "smtpd_sasl_type": "dovecot",
        "smtpd_sasl_path": str(dovecot.sockets.auth_socket),
        "smtpd_relay_restrictions": "permit_sasl_authenticated, reject_unauth_destination",
    }
    with run_postfix(settings, {"users": users}) as postfix:
        server = SecurePostfix(postfix, free_port())
        name = f"127.0.0.1:{server.smtps_port}"
        entry = f"{name}/inet={name} inet n - n - - smtpd -o smtpd_tls_wrappermode=yes"
        run(["/usr/sbin/postconf", "-c", str(postfix.config), "-M", entry])
        run(["/usr/sbin/postfix", "-c", str(postfix.config), "reload"])
        eventually(answers(server.smtps_port), "Postfix's SMTPS")
        yield server


class _Page(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """One page, and 404 for all others."""
        body = b"<html><title>Web mail</title></html>" if self.path == "/mail" else b"nothing"
        self.send_response(200 if self.path == "/mail" else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is logged."""


@contextmanager
def run_web_server(pair: Pair) -> Iterator[int]:
    """A web server with TLS; its port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Page)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
