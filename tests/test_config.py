"""The configuration: what is right is read exactly, what is wrong is told all at once and in plain words."""

import datetime
import json
import os
import tempfile
import tomllib
from ipaddress import ip_network
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from smartmail.config import (
    Config,
    ConfigError,
    Loaded,
    TcpAddress,
    TermsConfig,
    UnixAddress,
    flatten,
    json_schema,
    load,
    parse_address,
    read,
    reference,
    sample_toml,
)
from smartmail.core.limits import Limit, Mode, Scope, Unit

HERE = Path(__file__).parent
ROOT = HERE.parent
BAD = sorted((HERE / "configs" / "bad").glob("*.toml"))
SECTIONS = {"server", "timeouts", "tls", "auth", "upstream", "maildrop", "store", "metrics", "log", "content", "sender"}
KEYS = [
    "name", "role", "address", "tls", "key", "trusted_networks", "url", "url_file", "scope",
    "kind", "repository", "location", "keep", "paths", "times", "copy_from", "variables", "before",
]  # fmt: skip
BACKUP = {"backup", "drill", "repository", "job"}


def written(tmp_path: Path, text: str, environ: dict[str, str] | None = None) -> Loaded:
    """Read `text` as a configuration file."""
    file = tmp_path / "smartmail.toml"
    file.write_text(text, "utf-8")
    return read(file, environ or {})


def problems(tmp_path: Path, text: str, environ: dict[str, str] | None = None) -> list[str]:
    """What is wrong with `text`, one line each, without the folder."""
    with pytest.raises(ConfigError) as caught:
        written(tmp_path, text, environ)
    return str(caught.value).replace(f"{tmp_path}/", "").splitlines()


def make_pair(folder: Path, name: str, password: bytes = b"") -> None:
    """A certificate NAME.pem and its key NAME.key, for nobody else to read."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    day = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(day).not_valid_after(day + datetime.timedelta(3650))
    certificate = builder.sign(key, hashes.SHA256())
    lock = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8
    (folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / f"{name}.key").write_bytes(key.private_bytes(serialization.Encoding.PEM, form, lock))
    (folder / f"{name}.key").chmod(0o600)


class TestBadFiles:
    @pytest.mark.parametrize("file", BAD, ids=lambda file: file.stem)
    def test_bad_file_has_exactly_these_problems(self, file: Path) -> None:
        with pytest.raises(ConfigError) as caught:
            read(file, {})
        told = str(caught.value).replace(f"{file.parent}/", "")
        assert told == file.with_suffix(".error").read_text("utf-8").rstrip("\n")

    def test_every_bad_file_has_its_expected_text_and_the_other_way_round(self) -> None:
        expected = {file.stem for file in (HERE / "configs" / "bad").glob("*.error")}
        assert {file.stem for file in BAD} == expected
        assert len(expected) >= 25

    def test_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="there is no such file"):
            read(tmp_path / "none.toml", {})

    def test_folder_instead_of_file(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="is a folder, not a file"):
            read(tmp_path, {})

    def test_file_that_cannot_be_opened(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="cannot be read: File name too long"):
            read(tmp_path / ("n" * 300), {})

    def test_huge_file_is_refused_without_parsing_it(self, tmp_path: Path) -> None:
        assert problems(tmp_path, "#" * 16_777_217) == ["smartmail.toml: is larger than 16777216 octets"]

    def test_deeply_nested_file_is_refused(self, tmp_path: Path) -> None:
        (told,) = problems(tmp_path, "a = " + "[" * 50_000)
        assert "is not TOML" in told

    def test_utf8_with_byte_order_mark_is_read(self, tmp_path: Path) -> None:
        assert (
            written(tmp_path, '\ufeff[server]\nhostname = "mx.example.com"\n').config.server.hostname
            == "mx.example.com"
        )

    def test_a_misspelt_key_is_one_problem_not_two(self, tmp_path: Path) -> None:
        listener = '[[listener]]\nname = "a"\nrole = "relay"\naddress = "127.0.0.1:2525"\n'
        assert problems(tmp_path, listener + 'trusted_network = ["192.0.2.0/24"]\n') == [
            "smartmail.toml:5: listener[0].trusted_network: unknown key (did you mean trusted_networks?)"
        ]

    def test_long_values_are_cut_in_the_message(self, tmp_path: Path) -> None:
        (told,) = problems(tmp_path, f'[server]\nmax_errors = "{"9" * 5000}"\n')
        assert len(told) < 250

    def test_data_dir_that_is_a_file(self, tmp_path: Path) -> None:
        (told,) = problems(tmp_path, '[server]\ndata_dir = "smartmail.toml"\n')
        assert told.startswith("smartmail.toml:2: server.data_dir: ") and "is a file, not a folder" in told


class TestEmbeddedDefault:
    def test_without_a_file_all_listens_on_loopback_and_mail_goes_to_the_maildrop(self) -> None:
        config = read(None, {}).config
        assert [(one.name, one.role, one.endpoint) for one in config.listener] == [
            ("submission", "submission", ("127.0.0.1", 2587)),
            ("relay", "relay", ("127.0.0.1", 2525)),
        ]
        assert config.upstream.endpoint is None
        assert config.maildrop.endpoint == ("127.0.0.1", 0)
        assert config.metrics.endpoint == ("127.0.0.1", 9325)
        assert config.limits == ()

    def test_an_empty_file_says_the_same(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        assert written(tmp_path, "").config == read(None, {}).config

    def test_load_reads_the_environment_of_the_process(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in [name for name in os.environ if name.startswith("SMARTMAIL_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("SMARTMAIL_SERVER__HOSTNAME", "mx.example.com")
        assert load(None).server.hostname == "mx.example.com"

    def test_frozen(self) -> None:
        with pytest.raises(ValidationError, match="frozen"):
            read(None, {}).config.server.hostname = "other"  # type: ignore[misc]


class TestValues:
    def test_relative_paths_begin_at_the_files_folder(self, tmp_path: Path) -> None:
        text = '[server]\ndata_dir = "data"\n[maildrop]\ndirectory = "mail"\n[upstream]\naddress = "unix:lmtp"\n'
        config = written(tmp_path, text).config
        assert config.server.data_dir == tmp_path / "data"
        assert config.maildrop_directory == tmp_path / "mail"
        assert config.upstream.endpoint == UnixAddress(str(tmp_path / "lmtp"))
        assert config.database_url == f"sqlite:///{tmp_path}/data/smartmail.db"

    def test_absolute_paths_stay(self, tmp_path: Path) -> None:
        config = written(tmp_path, '[server]\ndata_dir = "/var/lib/smartmail"\n').config
        assert config.maildrop_directory == Path("/var/lib/smartmail/maildrop")

    def test_networks_of_both_families(self, tmp_path: Path) -> None:
        text = """
            [[listener]]
            name = "relay"
            role = "relay"
            address = "[::1]:2525"
            trusted_networks = ["192.0.2.0/24", "2001:db8::/32", "198.51.100.7"]
        """
        (listener,) = written(tmp_path, text).config.listener
        assert listener.endpoint == ("::1", 2525)
        assert listener.trusted_networks == tuple(map(ip_network, ("192.0.2.0/24", "2001:db8::/32", "198.51.100.7/32")))

    def test_limits_become_the_cores_values(self, tmp_path: Path) -> None:
        text = (
            '[[limit]]\nname = "m"\nscope = "client"\nunit = "messages"\nquota = 60\nperiod = 3600\nmode = "shadow"\n'
        )
        assert written(tmp_path, text).config.limits == (
            Limit("m", Scope.CLIENT, Unit.MESSAGES, 60, 3600, 0, Mode.SHADOW),
        )

    @pytest.mark.parametrize("identity", ["auto", "xclient", "xforward", "none"])
    def test_every_identity_is_taken(self, tmp_path: Path, identity: str) -> None:
        config = written(tmp_path, f'[upstream]\naddress = "127.0.0.1:10025"\nidentity = "{identity}"\n').config
        assert config.upstream.identity == identity

    @pytest.mark.parametrize(
        ("text", "address"),
        [
            ("127.0.0.1:25", TcpAddress("127.0.0.1", 25)),
            ("[2001:DB8::1]:25", TcpAddress("2001:db8::1", 25)),
            ("mail.example.com:587", TcpAddress("mail.example.com", 587)),
            ("localhost:0", TcpAddress("localhost", 0)),
            ("unix:/run/lmtp", UnixAddress("/run/lmtp")),
        ],
    )
    def test_addresses(self, text: str, address: TcpAddress | UnixAddress) -> None:
        assert parse_address(text) == address
        assert str(parse_address(str(address))) == str(address)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            ":25",
            "host:",
            "host:x",
            "host:-1",
            "host:٢٥",
            "host:65536",
            "::1",
            "[::1]",
            "[::g]:1",
            "a b:1",
            "256.1.1.1:25",
            "1.2.3:25",
            "-x.example:25",
            "unix:",
            "unix:/a\0b",
            "host:25\n",
            "host\n:25",
        ],
    )
    def test_what_is_no_address(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"."):
            parse_address(text)

    def test_two_families_may_have_the_same_port(self, tmp_path: Path) -> None:
        text = '[upstream]\naddress = "127.0.0.1:10025"\n'
        for name, address in (("four", "0.0.0.0:25"), ("six", "[::]:25")):
            text += f'[[listener]]\nname = "{name}"\nrole = "relay"\naddress = "{address}"\naccept_incoming = true\n'
        assert len(written(tmp_path, text).config.listener) == 2

    def test_port_0_may_be_asked_for_twice(self, tmp_path: Path) -> None:
        text = ""
        for name in ("one", "two"):
            text += f'[[listener]]\nname = "{name}"\nrole = "submission"\naddress = "127.0.0.1:0"\ntls = "none"\n'
        assert len(written(tmp_path, text).config.listener) == 2

    def test_the_maildrop_behind_a_public_door_if_somebody_says_so(self, tmp_path: Path) -> None:
        text = '[upstream]\naddress = ""\n[[listener]]\nname = "s"\nrole = "submission"\naddress = "0.0.0.0:587"\n'
        assert written(tmp_path, text).config.upstream.endpoint is None

    @pytest.mark.parametrize("address", ["[::1]:2525", "localhost:2525"])
    def test_mail_loop_over_any_loopback_address(self, tmp_path: Path, address: str) -> None:
        listener = '[[listener]]\nname = "r"\nrole = "relay"\naddress = "[::]:2525"\naccept_incoming = true\n'
        (told,) = problems(tmp_path, f'[upstream]\naddress = "{address}"\n{listener}')
        assert "mail would go round in a loop" in told


class TestCertificates:
    TEXT = '[tls]\ncertificate = "{}.pem"\nkey = "{}.key"\n'

    def test_a_pair_that_belongs_together(self, tmp_path: Path) -> None:
        make_pair(tmp_path, "one")
        assert written(tmp_path, self.TEXT.format("one", "one")).config.tls.key == tmp_path / "one.key"

    @pytest.mark.parametrize("mode", [0o604, 0o602, 0o644, 0o777])
    def test_a_key_that_everybody_may_read_or_change(self, tmp_path: Path, mode: int) -> None:
        make_pair(tmp_path, "one")
        (tmp_path / "one.key").chmod(mode)
        (told,) = problems(tmp_path, self.TEXT.format("one", "one"))
        assert told == (
            f"smartmail.toml:3: tls.key: everybody may read or change one.key (mode {mode:04o}) (chmod o= one.key)"
        )

    def test_a_key_that_the_group_may_read_is_as_debian_has_it(self, tmp_path: Path) -> None:
        make_pair(tmp_path, "one")
        (tmp_path / "one.key").chmod(0o640)
        assert written(tmp_path, self.TEXT.format("one", "one")).config.tls.key

    def test_a_key_of_another_certificate(self, tmp_path: Path) -> None:
        make_pair(tmp_path, "one")
        make_pair(tmp_path, "two")
        (told,) = problems(tmp_path, self.TEXT.format("one", "two"))
        assert "tls.certificate: the key does not belong to the certificate" in told

    def test_an_encrypted_key_does_not_ask_on_the_terminal(self, tmp_path: Path) -> None:
        make_pair(tmp_path, "one", password=b"secret")
        (told,) = problems(tmp_path, self.TEXT.format("one", "one"))
        assert "cannot be used together: not PEM, or the key is encrypted" in told

    def test_a_key_that_is_a_folder(self, tmp_path: Path) -> None:
        make_pair(tmp_path, "one")
        (tmp_path / "two.key").mkdir()
        (told,) = problems(tmp_path, self.TEXT.format("one", "two"))
        assert "smartmail.toml:3: tls.key: there is no file two.key" in told

    def test_a_key_that_cannot_be_opened(self, tmp_path: Path) -> None:
        make_pair(tmp_path, "one")
        (told,) = problems(tmp_path, self.TEXT.format("one", "n" * 300))
        assert "cannot be read: File name too long" in told


class TestEnvironment:
    def test_it_is_stronger_than_the_file_and_typed(self, tmp_path: Path) -> None:
        environ = {
            "SMARTMAIL_SERVER__MAX_ERRORS": "7",
            "SMARTMAIL_SENDER__ALLOW_NULL": "false",
            "SMARTMAIL_LOG__FORMAT": "json",
            "SMARTMAIL_SERVER__DATA_DIR": "elsewhere",
        }
        loaded = written(tmp_path, "[server]\nmax_errors = 5\nmax_noops = 6\n", environ)
        assert (loaded.config.server.max_errors, loaded.config.sender.allow_null) == (7, False)
        assert loaded.config.server.data_dir == tmp_path / "elsewhere"
        origins = loaded.origins
        assert [origins[f"server.{key}"] for key in ("max_errors", "max_noops", "max_recipients")] == [
            "environment",
            "file",
            "default",
        ]

    def test_what_is_wrong_in_it_is_told_with_the_name_of_the_variable(self, tmp_path: Path) -> None:
        environ = {"SMARTMAIL_SERVER__MAX_ERRORS": "many", "SMARTMAIL_UPSTREAM__ADRESS": "x", "SMARTMAIL_A__B": "c"}
        assert problems(tmp_path, "[log]\ncolour = 1\n", environ) == [
            "smartmail.toml:2: log.colour: unknown key (known here: format, level)",
            "environment: SMARTMAIL_A__B: no setting has this name"
            " (the form is SMARTMAIL_SECTION__KEY; lists of tables: file only)",
            "environment: SMARTMAIL_UPSTREAM__ADRESS: no setting has this name"
            " (did you mean SMARTMAIL_UPSTREAM__ADDRESS?)",
            'environment: SMARTMAIL_SERVER__MAX_ERRORS: must be a whole number, not "many"'
            " (for example max_errors = 10)",
        ]

    def test_what_container_platforms_set_is_no_setting(self, tmp_path: Path) -> None:
        environ = {
            "SMARTMAIL_PORT": "tcp://192.0.2.1:25",
            "SMARTMAIL_SERVICE_HOST": "192.0.2.1",
            "SMARTMAIL_CONFIG": "x",
        }
        assert written(tmp_path, "", environ).config == written(tmp_path, "").config

    def test_a_database_url_with_a_password_may_come_from_it(self, tmp_path: Path) -> None:
        url = "postgresql://mail:geheim@db/mail"
        assert written(tmp_path, "", {"SMARTMAIL_STORE__URL": url}).config.database_url == url


class TestSecrets:
    URL = "postgresql://mail:geheim@db/mail"

    def test_url_file(self, tmp_path: Path) -> None:
        (tmp_path / "store.url").write_text(f"{self.URL}\n")
        (tmp_path / "store.url").chmod(0o600)
        loaded = written(tmp_path, '[store]\nurl_file = "store.url"\n')
        assert loaded.config.database_url == self.URL
        assert loaded.origins["store.url"] == "url_file"

    def test_url_file_that_everybody_may_read(self, tmp_path: Path) -> None:
        (tmp_path / "store.url").write_text(self.URL)
        (tmp_path / "store.url").chmod(0o644)
        (told,) = problems(tmp_path, '[store]\nurl_file = "store.url"\n')
        assert told.startswith("smartmail.toml:2: store.url_file: everybody may read or change store.url")

    def test_url_file_with_nonsense_is_told_without_repeating_it(self, tmp_path: Path) -> None:
        (tmp_path / "store.url").write_text("mysql://mail:geheim@db/mail")
        (tmp_path / "store.url").chmod(0o600)
        (told,) = problems(tmp_path, '[store]\nurl_file = "store.url"\n')
        assert told.startswith("smartmail.toml:2: store.url_file: is no SQLAlchemy URL") and "geheim" not in told

    def test_url_file_that_is_not_text(self, tmp_path: Path) -> None:
        (tmp_path / "store.url").write_bytes(b"\xff\xfe")
        (tmp_path / "store.url").chmod(0o600)
        (told,) = problems(tmp_path, '[store]\nurl_file = "store.url"\n')
        assert "store.url is not UTF-8 text" in told

    def test_systemd_credentials_fill_what_the_file_leaves_empty(self, tmp_path: Path) -> None:
        folder = tmp_path / "credentials"
        folder.mkdir(mode=0o700)
        make_pair(folder, "tls")
        (folder / "tls.pem").rename(folder / "tls.certificate")
        (folder / "store.url").write_text(self.URL)
        (folder / "store.url").chmod(0o400)
        loaded = written(tmp_path, "", {"CREDENTIALS_DIRECTORY": str(folder)})
        assert loaded.config.database_url == self.URL
        assert loaded.config.tls.certificate == folder / "tls.certificate"
        assert {loaded.origins[key] for key in ("store.url", "tls.certificate", "tls.key")} == {"credential"}

    def test_the_file_is_stronger_than_a_credential(self, tmp_path: Path) -> None:
        (tmp_path / "store.url").write_text(self.URL)
        (tmp_path / "store.url").chmod(0o400)
        loaded = written(tmp_path, '[store]\nurl = "sqlite:////srv/a.db"\n', {"CREDENTIALS_DIRECTORY": str(tmp_path)})
        assert loaded.config.database_url == "sqlite:////srv/a.db"
        assert loaded.origins["store.url"] == "file"

    def test_a_wrong_credential_is_told_as_one(self, tmp_path: Path) -> None:
        (tmp_path / "store.url").write_text("nonsense")
        (tmp_path / "store.url").chmod(0o400)
        (told,) = problems(tmp_path, "", {"CREDENTIALS_DIRECTORY": str(tmp_path)})
        assert told.startswith("credential: store.url: is no SQLAlchemy URL")

    def test_a_password_shows_in_no_representation(self, tmp_path: Path) -> None:
        config = written(tmp_path, "", {"SMARTMAIL_STORE__URL": self.URL}).config
        shown = f"{config!r} {config} {config.model_dump_json()} {dict(flatten(config))}"
        assert "geheim" not in shown


scalars = st.one_of(st.booleans(), st.integers(-(2**40), 2**40), st.text(st.characters(codec="ascii"), max_size=12))
trees = st.dictionaries(
    st.sampled_from(sorted({*SECTIONS, *BACKUP, "listener", "limit", "other"})),
    st.recursive(
        scalars,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(KEYS),
                inner,
                max_size=4,
            )
        ),
        max_leaves=8,
    ),
    max_size=4,
)


def toml(value: object) -> str:
    """A tree as TOML, tables inline."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value).replace("\x7f", "\\u007f")


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(trees)
def test_whatever_stands_in_it_the_answer_is_a_config_or_problems_with_a_place_and_a_reason(
    tree: dict[str, object],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "smartmail.toml")
        file.write_text("\n".join(f"{key} = {toml(value)}" for key, value in tree.items()), "utf-8")
        try:
            loaded = read(file, {})
        except ConfigError as error:
            assert error.problems
            assert all(one.reason and one.key and one.file and one.line for one in error.problems)
        else:
            assert set(loaded.origins) == {key for key, _ in flatten(loaded.config)}


class TestMadeFromTheModel:
    def test_every_section_and_key_is_explained(self) -> None:
        schema = json_schema()
        for name, model in schema["$defs"].items():
            for key, field in model.get("properties", {}).items():
                assert field.get("description"), f"{name}.{key} has no docstring"

    def test_the_sample_says_the_defaults(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        assert written(tmp_path, sample_toml()).config == read(None, {}).config

    def test_the_sample_with_every_key_taken_in_says_them_too(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        lines = [
            line[1:] if line.startswith("#") and not line.startswith(("# ", "#\n")) else line
            for line in sample_toml().splitlines()
        ]
        # The example of a job needs what has no default.
        text = "\n".join(lines).replace('host = ""', 'host = "mx1.example.com"')
        taken_in = written(tmp_path, text).config
        assert taken_in.backup.host == "mx1.example.com"
        examples = {"limit": (), "check": (), "trust": (), "repository": (), "job": (), "backup": Config().backup}
        assert taken_in.model_copy(update=examples) == read(None, {}).config
        keys = {
            f"{section}.{key}"
            for section, table in tomllib.loads(text).items()
            for key in (table if isinstance(table, dict) else table[0])
        }
        model = {key.replace("[0]", "") for key, _ in flatten(taken_in) if "[1]" not in key}
        optional = {
            "listener.tls",
            "listener.trusted_networks",
            "listener.accept_incoming",
            "listener.proxy_protocol_from",
            *(f"terms.{key}" for key in TermsConfig.model_fields),
        }
        assert model - keys <= optional

    def test_the_example_file_is_the_sample(self) -> None:
        assert (ROOT / "ops" / "smartmail.example.toml").read_text("utf-8") == sample_toml(), (
            "run: smartmail config sample > ops/smartmail.example.toml"
        )

    def test_the_reference_page_is_the_models(self) -> None:
        assert (ROOT / "ops" / "docs" / "config.md").read_text("utf-8") == reference(), (
            "run: smartmail config reference > ops/docs/config.md"
        )

    def test_the_reference_names_every_key(self) -> None:
        page = reference()
        for key, _ in flatten(Config()):
            assert f"| `{key.rpartition('.')[2]}` |" in page
