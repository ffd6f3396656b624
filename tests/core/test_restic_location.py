"""Addresses of repositories taken apart, and what is wrong with one said without showing it."""

import pytest

from smartmail.core.restic_location import Backend, Location, LocationError, take_apart


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("/srv/backup", Location(Backend.LOCAL, path="/srv/backup")),
        ("  /srv/backup\n", Location(Backend.LOCAL, path="/srv/backup")),
        ("local:/srv/backup", Location(Backend.LOCAL, path="/srv/backup")),
        ("/srv/rest:thing", Location(Backend.LOCAL, path="/srv/rest:thing")),
        ("sftp:user@host:/srv/backup", Location(Backend.SFTP)),
        ("rclone:remote:path", Location(Backend.RCLONE)),
        ("b2:bucket:path", Location(Backend.B2)),
        ("rest:http://host:8000/", Location(Backend.REST, "http://host:8000/")),
        ("rest:https://host/mail", Location(Backend.REST, "https://host/mail/")),
        ("rest:HTTPS://Host/mail", Location(Backend.REST, "https://host/mail/")),
        ("rest:https://u:p%40ss%3Aw@host/u/mail/", Location(Backend.REST, "https://host/u/mail/", "u", "p@ss:w")),
        ("rest:https://u:p:q@host/", Location(Backend.REST, "https://host/", "u", "p:q")),
        ("rest:http://[::1]:8000/a", Location(Backend.REST, "http://[::1]:8000/a/")),
        ("rest:http+unix:///run/rest.sock:/mail", Location(Backend.REST)),
        ("s3:https://s3.example.com:9000/bucket/x", Location(Backend.S3, "https://s3.example.com:9000/")),
        ("s3:s3.example.com/bucket", Location(Backend.S3, "https://s3.example.com/")),
        ("s3://s3.example.com/bucket", Location(Backend.S3, "https://s3.example.com/")),
    ],
)
def test_addresses(address: str, found: Location) -> None:
    assert take_apart(address) == found
    assert found.remote is (found.backend is not Backend.LOCAL)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "\n",
        "rest:",
        "rest:ftp://user:geheim@host/",
        "rest:https://user:geheim@:80/",
        "rest:https://user:geheim@host:port/",
        "rest:https://user:geheim@host:99999999/",
        "rest:https://user:geheim@[host/",
        "rest:https://user:geheim",
        "rest:https://user:ge/heim@host/",
        "rest:http://h/\nrest:http://geheim/",
    ],
)
def test_what_is_no_address_is_not_shown(address: str) -> None:
    with pytest.raises(LocationError) as raised:
        take_apart(address)
    error: BaseException | None = raised.value
    while error is not None:
        assert "geheim" not in str(error)
        assert "heim" not in str(error)
        error = error.__cause__ if error.__suppress_context__ else error.__cause__ or error.__context__


def test_a_password_is_not_in_the_text_of_a_location() -> None:
    assert "geheim" not in repr(take_apart("rest:https://user:geheim@host/"))
