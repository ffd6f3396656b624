"""What the session says by itself: fixed replies, with their enhanced status codes (RFC 3463, RFC 5248)."""

from typing import Final

from smartmail.core.content import Fault
from smartmail.core.reply import Reply, reply
from smartmail.core.smtp_states import State, Verb

OK: Final = reply(250, "2.0.0", "Ok")
BYE: Final = reply(221, "2.0.0", "Bye")
GO_AHEAD_TLS: Final = reply(220, "2.0.0", "Ready to start TLS")
HELP_TEXT: Final = reply(214, "2.0.0", "See RFC 5321; the operator is postmaster")
CANNOT_VERIFY: Final = reply(252, "2.5.0", "Cannot verify, but will take mail for it if it is allowed")
UNKNOWN_COMMAND: Final = reply(500, "5.5.2", "Command not recognised")
NOT_HERE: Final = reply(502, "5.5.1", "Command not available here")
BARE_LINE_END: Final = reply(521, "5.5.2", "Lines must end in CRLF; closing the connection")
BAD_OCTETS: Final = reply(500, "5.5.2", "Control characters are not allowed in commands")
LINE_TOO_LONG: Final = reply(500, "5.5.2", "Line too long")
AUTH_LINE_TOO_LONG: Final = reply(500, "5.5.6", "Authentication exchange line is too long")
SAY_HELLO: Final = reply(503, "5.5.1", "Send EHLO first")
OUT_OF_ORDER: Final = reply(503, "5.5.1", "Command out of order")
NESTED_MAIL: Final = reply(503, "5.5.1", "A transaction is open; send RSET first")
NEED_MAIL: Final = reply(503, "5.5.1", "Send MAIL first")
NEED_RCPT: Final = reply(503, "5.5.1", "No recipient has been accepted")
MIXED_DATA: Final = reply(503, "5.5.1", "DATA after BDAT is not allowed; send BDAT or RSET")
NO_ARGUMENTS: Final = reply(501, "5.5.4", "This command takes no argument")
BAD_HELLO: Final = reply(501, "5.5.4", "EHLO needs a host name or an address literal")
BAD_PATH: Final = reply(501, "5.5.2", "Syntax: FROM:<address> or TO:<address>")
BAD_CHUNK: Final = reply(501, "5.5.4", "Syntax: BDAT size [LAST]")
EARLY_TALK: Final = reply(554, "5.5.0", "Data was sent before the reply that it had to wait for")
ALREADY_TLS: Final = reply(503, "5.5.1", "TLS is already active")
ALREADY_AUTHENTICATED: Final = reply(503, "5.5.1", "Already authenticated")
TLS_FIRST: Final = reply(538, "5.7.11", "Send STARTTLS first: passwords are only taken over an encrypted connection")
UNKNOWN_MECHANISM: Final = reply(504, "5.5.4", "Authentication mechanism not available")
BAD_BASE64: Final = reply(501, "5.5.2", "Cannot decode base64")
AUTH_CANCELLED: Final = reply(501, "5.7.0", "Authentication cancelled")
TOO_MANY_ERRORS: Final = reply(421, "4.7.0", "Too many errors; closing the connection")
TOO_MANY_NOOPS: Final = reply(421, "4.7.0", "Too many commands without a mail; closing the connection")
TOO_LARGE: Final = reply(552, "5.3.4", "The message is larger than the limit of this server")
CONTENT_FAULTS: Final = {
    Fault.BARE_NEWLINE: reply(550, "5.6.11", "The message has a bare CR or LF; lines must end in CRLF"),
    Fault.NUL: reply(550, "5.6.11", "The message has a NUL octet"),
}


def out_of_order(state: State, verb: Verb) -> Reply:
    """What is said to a command that has no step in this state."""
    if state is State.HELLO:
        return SAY_HELLO
    if verb is Verb.MAIL:
        return NESTED_MAIL
    if verb is Verb.DATA and state is State.CHUNKS:
        return MIXED_DATA
    if verb in (Verb.DATA, Verb.BDAT):
        return NEED_RCPT if state is State.ENVELOPE else NEED_MAIL
    if verb is Verb.RCPT and state is State.READY:
        return NEED_MAIL
    return OUT_OF_ORDER
