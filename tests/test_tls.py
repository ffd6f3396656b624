"""Certificates, contexts, reload: with OpenSSL on both ends of a pair of memory buffers."""

import os
import ssl
import stat
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from smartmail.relay.tls import ServerTls, TlsError, client_context, load_context, self_made

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)


class End:
    """One end of a TLS connection in memory."""

    def __init__(self, context: ssl.SSLContext, *, server: bool, session: ssl.SSLSession | None = None) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        name = None if server else "mail.example.com"
        self.tls = context.wrap_bio(
            self.incoming, self.outgoing, server_side=server, server_hostname=name, session=session
        )


def shuttle(*steps: tuple[End, Callable[[], object]]) -> None:
    """Run each end's step until all have gone through, carrying octets between them."""
    todo = dict(enumerate(steps))
    ends = [end for end, _ in steps]
    for _ in range(10):
        for index, (_, step) in list(todo.items()):
            try:
                step()
            except ssl.SSLWantReadError:
                continue
            finally:
                for end, other in ((ends[0], ends[1]), (ends[1], ends[0])):
                    if octets := end.outgoing.read():
                        other.incoming.write(octets)
            del todo[index]
        if not todo:
            return
    raise AssertionError("the handshake doesn't end")


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, session: ssl.SSLSession | None = None) -> tuple[End, End]:
    ends = End(server, server=True), End(client, server=False, session=session)
    shuttle((ends[0], ends[0].tls.do_handshake), (ends[1], ends[1].tls.do_handshake))
    return ends


def echo(server: End, client: End) -> ssl.SSLSession | None:
    """Some octets from the server to the client; the session it may resume afterwards."""
    server.tls.write(b"220 hello\r\n")
    client.incoming.write(server.outgoing.read())
    assert client.tls.read(100) == b"220 hello\r\n"
    return client.tls.session


@pytest.fixture
def made(tmp_path: Path) -> Path:
    return self_made(tmp_path, "mail.example.com")[0]


def test_a_self_made_certificate_serves_a_client_that_trusts_it(made: Path) -> None:
    server, client = handshake(load_context(made, made), client_context("required", made))
    assert client.tls.version() == "TLSv1.3"
    assert client.tls.compression() is None
    assert client.tls.selected_alpn_protocol() is None
    echo(server, client)


def test_a_self_made_certificate_is_for_its_names_and_no_authority(made: Path) -> None:
    certificate = x509.load_pem_x509_certificate(made.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["mail.example.com", "localhost"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"


def test_a_self_made_key_is_its_owners_alone(made: Path) -> None:
    assert stat.S_IMODE(made.stat().st_mode) == 0o600
    assert [entry.name for entry in made.parent.iterdir()] == ["self-made.pem"]


def test_a_self_made_certificate_is_kept_while_it_is_good(tmp_path: Path) -> None:
    first = self_made(tmp_path, "mail.example.com", NOW)[0].read_bytes()
    assert self_made(tmp_path, "mail.example.com", NOW + timedelta(days=366))[0].read_bytes() == first
    assert self_made(tmp_path, "mail.example.com", NOW + timedelta(days=368))[0].read_bytes() != first


def test_another_host_name_gets_another_certificate(tmp_path: Path) -> None:
    first = self_made(tmp_path, "mail.example.com")[0].read_bytes()
    assert self_made(tmp_path, "mx.example.com")[0].read_bytes() != first


@pytest.mark.parametrize("hostname", ["192.0.2.1", "mail.exämple.org", "a" * 60 + ".example.com"])
def test_any_host_name_of_a_config_gets_a_certificate(tmp_path: Path, hostname: str) -> None:
    file, key = self_made(tmp_path, hostname)
    first = file.read_bytes()
    load_context(file, key)
    assert self_made(tmp_path, hostname)[0].read_bytes() == first


@pytest.mark.parametrize("keep", [0, 40, 300, 500])
def test_a_torn_self_made_file_is_made_again(made: Path, keep: int) -> None:
    made.write_bytes(made.read_bytes()[:keep])
    file, key = self_made(made.parent, "mail.example.com")
    load_context(file, key)


def test_a_data_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "var").write_text("a file")
    with pytest.raises(TlsError, match=r"self-made.pem: cannot be written: "):
        self_made(tmp_path / "var", "mail.example.com")


def test_a_session_is_resumed_by_its_ticket(made: Path) -> None:
    server, client = load_context(made, made), client_context("opportunistic")
    session = echo(*handshake(server, client))
    again = handshake(server, client, session)
    assert again[1].tls.session_reused


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_old_tls_is_refused(made: Path, version: ssl.TLSVersion) -> None:
    client = client_context("opportunistic")
    with pytest.warns(DeprecationWarning):
        client.minimum_version = client.maximum_version = version
    client.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError):
        handshake(load_context(made, made), client)


@pytest.mark.parametrize("ciphers", ["AES128-SHA:@SECLEVEL=0", "ECDHE-ECDSA-AES128-SHA", "NULL:@SECLEVEL=0"])
def test_weak_ciphers_are_refused(made: Path, ciphers: str) -> None:
    client = client_context("opportunistic")
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    client.set_ciphers(ciphers)
    with pytest.raises(ssl.SSLError, match="NO_SHARED_CIPHER"):
        handshake(load_context(made, made), client)


def test_opportunistic_takes_any_certificate_and_required_only_a_trusted_one(made: Path) -> None:
    server = load_context(made, made)
    handshake(server, client_context("opportunistic"))
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server, client_context("required"))


def test_required_refuses_a_certificate_for_another_name(tmp_path: Path) -> None:
    file, key = self_made(tmp_path, "other.example.net")
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(load_context(file, key), client_context("required", file))


def test_reload_serves_the_new_certificate_and_drops_no_session(tmp_path: Path) -> None:
    old, new = (
        self_made(tmp_path / "old", "mail.example.com")[0],
        self_made(tmp_path / "new", "mail.example.com")[0],
    )
    tls = ServerTls.load(old, old)
    before = handshake(tls.context, client_context("required", old))
    tls.reload(new, new)
    handshake(tls.context, client_context("required", new))
    echo(*before)


def test_a_bad_reload_changes_nothing(tmp_path: Path) -> None:
    good, other = (
        self_made(tmp_path / "a", "mail.example.com")[0],
        self_made(tmp_path / "b", "mail.example.com")[0],
    )
    tls = ServerTls.load(good, good)
    with pytest.raises(TlsError, match="does not belong to the certificate"):
        tls.reload(good, other)
    assert tls.certificate == tls.key == good
    handshake(tls.context, client_context("required", good))


def encrypted(key: Path) -> bytes:
    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    return loaded.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )


def test_useless_files_are_named_with_the_reason(made: Path, tmp_path: Path) -> None:
    absent, text, locked = (tmp_path / name for name in ("absent.pem", "text.pem", "locked.pem"))
    text.write_text("no certificate at all\n")
    locked.write_bytes(encrypted(made))
    for certificate, key, file, reason in (
        (absent, made, absent, "cannot be read: No such file or directory"),
        (made, absent, absent, "cannot be read: No such file or directory"),
        (tmp_path, made, tmp_path, "cannot be read: Is a directory"),
        (text, made, text, "holds no certificate in PEM form"),
        (made, text, text, "holds no private key in PEM form"),
        (made, locked, locked, "is encrypted; the relay starts without anybody to ask for a password"),
    ):
        with pytest.raises(TlsError) as caught:
            load_context(certificate, key)
        assert (caught.value.file, caught.value.reason.partition(" that fits")[0]) == (file, reason)
    for ca_file, reason in ((absent, "cannot be read"), (text, "holds no certificate")):
        with pytest.raises(TlsError, match=reason):
            client_context("required", ca_file)


def test_a_relay_with_a_certificate_never_imports_cryptography(made: Path) -> None:
    """It costs megabytes of memory that only making a certificate needs."""
    program = (
        "import sys; from pathlib import Path; from smartmail.relay.tls import self_made, load_context;"
        "load_context(*self_made(Path(sys.argv[1]), 'mail.example.com'));"
        "sys.exit('cryptography' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(made.parent)], env={**os.environ}, check=False)
    assert done.returncode == 0
