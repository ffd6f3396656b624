"""A real Dovecot and a real Postfix, each with its own directories and ports on loopback."""

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from support.processes import Process, answers, eventually, free_port, need, run, short_directory

MAIL_UID = 65534
"""The mailboxes' owner (nobody): Dovecot refuses to write mail as root."""
USERS = (
    "alice@example.com",
    "bob@example.com",
    "carol@example.com",
    "dave@example.com",
    "alice@example.org",
    "erin@example.org",
)
"""Everybody who has a mailbox; each password is `secret-` and the local part."""
ALICE = "alice@example.com"
"""She has an account with the relay, and sends."""
DAVE, DAVES_LOCAL_PASSWORD = "dave@example.com", "of-the-local-account-only"
"""Dovecot has his usual password, the relay's own account another one: it shows who was asked."""
UTF8_USER = "пользователь@example.net"
"""Delivered by Postfix itself into a Maildir: Dovecot 2.3's LMTP has no SMTPUTF8."""


def password(address: str) -> str:
    """The password of one of USERS."""
    return "secret-" + address.partition("@")[0]


@dataclass(frozen=True)
class Dovecot:
    """A running Dovecot: LMTP and auth-client on Unix sockets, IMAP on a port, Maildirs with CRLF kept."""

    directory: Path
    imap_port: int

    @property
    def lmtp_socket(self) -> Path:
        """Where it takes mail."""
        return self.directory / "run" / "lmtp"

    @property
    def auth_socket(self) -> Path:
        """Where it answers the auth-client protocol."""
        return self.directory / "run" / "auth-client"

    def maildir(self, address: str) -> Path:
        """The Maildir of one user."""
        local, _, domain = address.partition("@")
        return self.directory / "mail" / domain / local / "Maildir"


DOVECOT_CONF = """
base_dir = {directory}/run
log_path = {directory}/dovecot.log
ssl = no
protocols = imap lmtp
listen = 127.0.0.1
disable_plaintext_auth = no
auth_mechanisms = plain login
auth_failure_delay = 0
first_valid_uid = 1
mail_location = maildir:~/Maildir
mail_save_crlf = yes
postmaster_address = postmaster@example.com
hostname = mailbox.example.com
recipient_delimiter =
passdb {{
  driver = passwd-file
  args = username_format=%Lu {directory}/users
}}
userdb {{
  driver = passwd-file
  args = username_format=%Lu {directory}/users
  default_fields = uid={uid} gid={uid} home={directory}/mail/%d/%n
}}
service imap-login {{
  chroot =
  inet_listener imap {{
    port = {imap_port}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
service anvil {{
  chroot =
}}
service lmtp {{
  client_limit = 1
  process_limit = 20
  unix_listener lmtp {{
    mode = 0666
  }}
}}
service auth {{
  unix_listener auth-client {{
    mode = 0666
  }}
}}
namespace inbox {{
  inbox = yes
}}
"""


@contextmanager
def run_dovecot() -> Iterator[Dovecot]:
    """Start Dovecot, wait until IMAP answers, end it afterwards."""
    need("dovecot")
    with short_directory("dovecot") as directory:
        server = Dovecot(directory, free_port())
        for name in ("run", "mail"):
            (directory / name).mkdir(mode=0o755)
        os.chown(directory / "mail", MAIL_UID, MAIL_UID)
        users = "".join(f"{user}:{{PLAIN}}{password(user)}::::::\n" for user in USERS)
        (directory / "users").write_text(users)
        conf = directory / "dovecot.conf"
        conf.write_text(DOVECOT_CONF.format(directory=directory, uid=MAIL_UID, imap_port=server.imap_port).lstrip())
        process = Process(["/usr/sbin/dovecot", "-F", "-c", str(conf)], directory / "output")
        try:
            eventually(answers(server.imap_port, process.popen), "Dovecot's IMAP")
            eventually(server.lmtp_socket.exists, "Dovecot's LMTP socket")
            yield server
        finally:
            process.stop()


POSTFIX_MAIN = """
compatibility_level = 3.6
queue_directory = {directory}/spool
data_directory = {directory}/data
maillog_file = {directory}/log/mail.log
maillog_file_prefixes = {directory}
mail_owner = postfix
setgid_group = postdrop
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mydestination =
alias_maps =
alias_database =
local_recipient_maps =
disable_dns_lookups = yes
smtp_host_lookup = native
smtpd_peername_lookup = no
biff = no
smtputf8_enable = yes
smtputf8_autodetect_classes = all
message_size_limit = 62914560
in_flow_delay = 0
notify_classes =
smtp_line_length_limit = 0
lmtp_line_length_limit = 0
smtpd_forbid_bare_newline = yes
smtpd_forbid_bare_newline_exclusions =
smtpd_forbid_unauth_pipelining = yes
smtpd_client_connection_count_limit = 0
smtpd_client_connection_rate_limit = 0
default_process_limit = 60
"""

MASTER_CF = """
pickup    unix  n - n 60 1 pickup
cleanup   unix  n - n - 0 cleanup
qmgr      unix  n - n 1 1 qmgr
tlsmgr    unix  - - n 1000? 1 tlsmgr
rewrite   unix  - - n - - trivial-rewrite
bounce    unix  - - n - 0 bounce
defer     unix  - - n - 0 bounce
trace     unix  - - n - 0 bounce
verify    unix  - - n - 1 verify
flush     unix  n - n 1000? 0 flush
proxymap  unix  - - n - - proxymap
smtp      unix  - - n - - smtp
relay     unix  - - n - - smtp
showq     unix  n - n - - showq
error     unix  - - n - - error
retry     unix  - - n - - error
discard   unix  - - n - - discard
virtual   unix  - n n - - virtual
lmtp      unix  - - n - - lmtp
anvil     unix  - - n - 1 anvil
scache    unix  - - n - 1 scache
postlog   unix-dgram n - n - 1 postlogd
"""


@dataclass(frozen=True)
class Postfix:
    """A running Postfix; `port` trusts XCLIENT and XFORWARD from 127.0.0.1, `plain_port` offers neither."""

    directory: Path
    port: int
    plain_port: int

    @property
    def config(self) -> Path:
        """Its configuration directory, as `sendmail -C` takes it."""
        return self.directory / "conf"

    @property
    def log(self) -> str:
        """The mail log so far."""
        path = self.directory / "log" / "mail.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def maildir(self, address: str) -> Path:
        """The Maildir of a user whom Postfix delivers to itself."""
        return self.directory / "mail" / address

    def wait_removed(self, queue_id: str) -> str:
        """Wait until the queue is done with this message; its lines of the log."""
        eventually(lambda: re.search(rf"qmgr\[\d+\]: {queue_id}: removed", self.log), f"{queue_id} to be removed")
        return "\n".join(line for line in self.log.splitlines() if f" {queue_id}: " in line)

    def wait_empty(self) -> None:
        """Wait until the queue is empty."""
        eventually(lambda: not run(["/usr/sbin/postqueue", "-c", str(self.config), "-j"]).stdout, "an empty queue")


@contextmanager
def run_postfix(settings: Mapping[str, str], tables: Mapping[str, str]) -> Iterator[Postfix]:
    """Start Postfix with POSTFIX_MAIN and `settings` on top; end it afterwards.

    `tables` are files of the configuration directory (name -> content); `{directory}` in a setting is the
    instance's directory.
    """
    need("postfix", "postqueue")
    assert os.geteuid() == 0, "Postfix needs root to start"
    with short_directory("postfix") as directory:
        server = Postfix(directory, free_port(), free_port())
        for name in ("conf", "spool", "data", "log", "mail"):
            (directory / name).mkdir(mode=0o755)
        shutil.chown(directory / "data", "postfix")
        os.chown(directory / "mail", MAIL_UID, MAIL_UID)
        own = "".join(f"{key} = {value.format(directory=directory)}\n" for key, value in settings.items())
        (server.config / "main.cf").write_text(POSTFIX_MAIN.format(directory=directory).lstrip() + own)
        trust = "-o smtpd_authorized_xclient_hosts=127.0.0.1 -o smtpd_authorized_xforward_hosts=127.0.0.1"
        listeners = (
            f"127.0.0.1:{server.port} inet n - n - - smtpd {trust}\n"
            f"127.0.0.1:{server.plain_port} inet n - n - - smtpd\n"
        )
        (server.config / "master.cf").write_text(listeners + MASTER_CF.lstrip())
        for name, content in tables.items():
            (server.config / name).write_text(content)
        run(["/usr/sbin/postfix", "-c", str(server.config), "start"])
        try:
            eventually(answers(server.port), "Postfix")
            yield server
        finally:
            run(["/usr/sbin/postfix", "-c", str(server.config), "abort"])


@contextmanager
def run_mailbox_postfix(dovecot: Dovecot) -> Iterator[Postfix]:
    """The Postfix behind the relay: our domains by LMTP to Dovecot, other domains discarded."""
    users = "".join(f"{user} ok\n" for user in USERS)
    settings = {
        "myhostname": "mx.example.com",
        "mynetworks": "127.0.0.0/8",
        "virtual_mailbox_domains": "example.com, example.org, example.net",
        "virtual_mailbox_maps": "texthash:{directory}/conf/users",
        "virtual_mailbox_base": "{directory}/mail",
        "virtual_uid_maps": f"static:{MAIL_UID}",
        "virtual_gid_maps": f"static:{MAIL_UID}",
        "virtual_minimum_uid": "1",
        "virtual_mailbox_limit": "0",
        "virtual_transport": f"lmtp:unix:{dovecot.lmtp_socket}",
        "transport_maps": "texthash:{directory}/conf/transport",
        "default_transport": "discard",
        "smtpd_sasl_auth_enable": "yes",
        "smtpd_sasl_type": "dovecot",
        "smtpd_sasl_path": str(dovecot.auth_socket),
        "smtpd_relay_restrictions": "permit_mynetworks, permit_sasl_authenticated, reject_unauth_destination",
        "smtpd_recipient_limit": "2000",
        "lmtp_destination_recipient_limit": "100",
    }
    tables = {
        "users": users + f"{UTF8_USER} {UTF8_USER}/\n",
        "transport": "example.net virtual:\n",
    }
    with run_postfix(settings, tables) as postfix:
        yield postfix


def messages(maildir: Path) -> list[bytes]:
    """What lies in a Maildir, new and seen, oldest first."""
    files = [path for folder in ("new", "cur") for path in (maildir / folder).glob("*")]
    return [path.read_bytes() for path in sorted(files, key=lambda path: path.stat().st_mtime_ns)]


def messages_with(maildir: Path, mark: str) -> list[bytes]:
    """Those messages of a Maildir that contain `mark`."""
    return [message for message in messages(maildir) if mark.encode() in message]
