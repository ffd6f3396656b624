"""Mail programs that people use, each made to send one message with STARTTLS, certificate check and AUTH."""

import asyncio
import json
import os
import smtplib
import ssl
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import aiosmtplib
from support.mailservers import Postfix, password
from support.processes import PATIENCE, need

ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Job:
    """What to send and to whom. message: with CRLF line ends."""

    port: int
    ca: Path
    directory: Path
    """A place for files of the client's own."""
    message: bytes
    recipients: tuple[str, ...]
    sender: str = "alice@example.com"
    dsn: str = ""
    """An ENVID: ask for a notification of success that returns the headers."""
    client_postfix: Postfix | None = None

    @property
    def password(self) -> str:
        """The sender's."""
        return password(self.sender)

    @property
    def utf8(self) -> bool:
        """SMTPUTF8 is needed."""
        return not "".join(self.recipients).isascii()

    def file(self, line_end: bytes) -> Path:
        """The message as a file with these line ends."""
        path = self.directory / f"message-{len(line_end)}"
        path.write_bytes(self.message.replace(b"\r\n", line_end))
        return path


@dataclass(frozen=True)
class Sent:
    """What the client said."""

    status: int
    output: str
    refused: tuple[str, ...] = ()
    """Recipients it reports as refused, where it says so one by one."""


def _call(argv: list[str], *, stdin: Path | None = None, env: dict[str, str] | None = None) -> Sent:
    need(argv[0])
    with Path(stdin or os.devnull).open("rb") as source:
        done = subprocess.run(
            argv, stdin=source, capture_output=True, timeout=PATIENCE, env={**os.environ, **(env or {})}
        )
    return Sent(done.returncode, (done.stdout + done.stderr).decode(errors="replace"))


def swaks(job: Job, *options: str, tls: str = "--tls") -> Sent:
    """swaks; `options` are further ones of its own."""
    message = job.directory / "message-for-swaks"
    message.write_bytes(job.message.replace(b"\r\n", b"\n").removesuffix(b"\n"))  # swaks adds one
    return _call(
        [
            *("swaks", "--server", "localhost", "--port", str(job.port), "--ehlo", "client.example"),
            *(tls, "--tls-verify", "--tls-ca-path", str(job.ca), "--auth-hide-password"),
            *("--auth", "--auth-user", job.sender, "--auth-password", job.password),
            *("--from", job.sender, "--to", ",".join(job.recipients)),
            *("--data", f"@{message}"),
            *options,
        ]
    )


def msmtp(job: Job) -> Sent:
    """msmtp, configured by a file as people do."""
    rc = job.directory / "msmtprc"
    rc.write_text(
        f"account default\nhost localhost\nport {job.port}\nfrom {job.sender}\nauth on\nuser {job.sender}\n"
        f"password {job.password}\ntls on\ntls_starttls on\ntls_trust_file {job.ca}\ndomain client.example\n"
        + ("dsn_notify success\ndsn_return headers\n" if job.dsn else "")
    )
    rc.chmod(0o600)
    return _call(["msmtp", "-C", str(rc), "--", *job.recipients], stdin=job.file(b"\n"))


def curl(job: Job) -> Sent:
    """curl, as scripts use it."""
    recipients = [option for one in job.recipients for option in ("--mail-rcpt", one)]
    return _call(
        [
            *("curl", "--silent", "--show-error", "--verbose", "--ssl-reqd", "--cacert", str(job.ca)),
            *("--mail-from", job.sender, *recipients, "--mail-rcpt-allowfails"),
            *("--user", f"{job.sender}:{job.password}", "--upload-file", str(job.file(b"\r\n"))),
            f"smtp://localhost:{job.port}/client.example",
        ]
    )


def _dsn_options(job: Job) -> tuple[list[str], list[str]]:
    mail = ["SMTPUTF8"] if job.utf8 else []
    if not job.dsn:
        return ["BODY=8BITMIME", *mail], []
    return (
        ["BODY=8BITMIME", *mail, "RET=HDRS", f"ENVID={job.dsn}"],
        ["NOTIFY=SUCCESS", f"ORCPT=rfc822;{job.recipients[0]}"],
    )


def python_smtplib(job: Job) -> Sent:
    """Python's smtplib."""
    mail, rcpt = _dsn_options(job)
    with smtplib.SMTP("localhost", job.port, local_hostname="client.example", timeout=PATIENCE) as session:
        session.starttls(context=ssl.create_default_context(cafile=str(job.ca)))
        session.login(job.sender, job.password)
        try:
            refused = session.sendmail(job.sender, job.recipients, job.message, mail, rcpt)
        except smtplib.SMTPException as error:
            return Sent(1, str(error))
    return Sent(0, str(refused), tuple(refused))


def python_aiosmtplib(job: Job) -> Sent:
    """aiosmtplib."""
    mail, rcpt = _dsn_options(job)

    async def send() -> dict[str, aiosmtplib.SMTPResponse]:
        session = aiosmtplib.SMTP(
            hostname="localhost",
            port=job.port,
            start_tls=True,
            username=job.sender,
            password=job.password,
            tls_context=ssl.create_default_context(cafile=str(job.ca)),
            local_hostname="client.example",
            timeout=PATIENCE,
        )
        async with session:
            refused, _ = await session.sendmail(
                job.sender, list(job.recipients), job.message, mail_options=mail, rcpt_options=rcpt
            )
        return refused

    refused = asyncio.run(send())
    return Sent(0, str(refused), tuple(refused))


NODEMAILER = """
const nodemailer = require('nodemailer');
const fs = require('fs');
const job = JSON.parse(process.argv[1]);
const transport = nodemailer.createTransport({
  host: 'localhost', port: job.port, secure: false, requireTLS: true, name: 'client.example',
  auth: {user: job.sender, pass: job.password}, tls: {ca: fs.readFileSync(job.ca)},
});
const dsn = {id: job.dsn, return: 'headers', notify: ['success'], recipient: job.sender};
transport.sendMail({
  envelope: {from: job.sender, to: job.recipients, ...(job.dsn ? {dsn: dsn} : {})},
  raw: fs.readFileSync(job.file), ...(job.dsn ? {dsn: dsn} : {}),
}).then((info) => { console.log(JSON.stringify(info)); },
        (error) => { console.error(error.message); process.exitCode = 1; });
"""


def nodemailer(job: Job) -> Sent:
    """nodemailer."""
    modules = ROOT / ".cache" / "npm" / "node_modules"
    assert (modules / "nodemailer").is_dir(), "nodemailer is not installed (ops/test installs it)"
    settings = {
        "port": job.port,
        "sender": job.sender,
        "password": job.password,
        "ca": str(job.ca),
        "recipients": job.recipients,
        "dsn": job.dsn,
        "file": str(job.file(b"\r\n")),
    }
    sent = _call(["node", "-e", NODEMAILER, json.dumps(settings)], env={"NODE_PATH": str(modules)})
    rejected = json.loads(sent.output).get("rejected", []) if sent.status == 0 else []
    return Sent(sent.status, sent.output, tuple(rejected))


def git_send_email(job: Job) -> Sent:
    """git send-email, as kernel people do."""
    return _call(
        [
            *("git", "-c", f"sendemail.smtpsslcertpath={job.ca}", "send-email", "--quiet", "--confirm=never"),
            *("--smtp-server=localhost", f"--smtp-server-port={job.port}", "--smtp-encryption=tls"),
            *(f"--smtp-user={job.sender}", f"--smtp-pass={job.password}", f"--from=Alice <{job.sender}>"),
            *("--suppress-cc=all", "--no-validate", "--transfer-encoding=8bit", "--8bit-encoding=UTF-8"),
            *("--smtp-domain=client.example", "--no-thread", "--no-signed-off-by-cc"),
            *(f"--to={one}" for one in job.recipients),
            str(job.file(b"\n")),
        ],
        env={"HOME": str(job.directory), "GIT_CONFIG_NOSYSTEM": "1", "GIT_CEILING_DIRECTORIES": "/"},
    )


def postfix_as_client(job: Job) -> Sent:
    """A Postfix whose relayhost is our submission listener; the message is given to it over SMTP."""
    assert job.client_postfix is not None
    mail, rcpt = _dsn_options(job)
    with smtplib.SMTP("127.0.0.1", job.client_postfix.plain_port, "client.example", PATIENCE) as session:
        session.sendmail(job.sender, job.recipients, job.message, mail, rcpt)
    job.client_postfix.wait_empty()
    return Sent(0, job.client_postfix.log)


Client = Callable[[Job], Sent]


@dataclass(frozen=True)
class Ability:
    """A client and what it can."""

    send: Client
    utf8: bool = True
    dsn: bool = True
    stops_at_refused: bool = field(default=False)
    """It gives up where any of its recipients is refused."""


CLIENTS = {
    "swaks": Ability(swaks, utf8=False, dsn=False),
    "msmtp": Ability(msmtp, utf8=False, stops_at_refused=True),
    "curl": Ability(curl, dsn=False),
    "smtplib": Ability(python_smtplib),
    "aiosmtplib": Ability(python_aiosmtplib),
    "nodemailer": Ability(nodemailer),
    "git-send-email": Ability(git_send_email, utf8=False, dsn=False, stops_at_refused=True),
    "postfix": Ability(postfix_as_client),
}
