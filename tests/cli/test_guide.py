"""What the embedded start prepares and says: sample account, commands to paste, busy ports, the demo's people."""

import io
import shlex
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from smartmail.cli.common import CliError, ExitCode
from smartmail.cli.demo import Stage, Target
from smartmail.cli.guide import (
    Door,
    Screen,
    describe,
    make_console,
    print_screen,
    python_command,
    reachable,
    swaks_command,
    trouble_with,
)
from smartmail.cli.people import SMALL_PLAN, carry_out
from smartmail.cli.ports import check_free
from smartmail.cli.sample import SAMPLE_FILE, SAMPLE_LOGIN, Order, Sample, make_password, read_sample, write_sample
from smartmail.cli.scene import Board, Said
from smartmail.config import Config, ListenerConfig
from smartmail.core.standing import Billing, Conduct
from smartmail.store import accounts, moves, plans
from smartmail.store.database import Database
from smartmail.store.directory import EMPTY, DirectoryReader
from smartmail.store.records import AccountRecord, Act

SAMPLE = Sample(SAMPLE_LOGIN, "correctHorse42")
DOOR = Target("127.0.0.1", 2587, "starttls")
BY_TEST = Act("tester", "test", 1)


@pytest.fixture
def store(hosted: object, url: str) -> Iterator[Database]:
    with Database(url) as database:
        yield database


def in_store(store: Database, name: str) -> AccountRecord:
    with store.read() as connection:
        return accounts.get_account(connection, name)


def trouble(store: Database, sample: Sample) -> str:
    reader = DirectoryReader(store.url)
    reader.poll()
    reader.close()
    return trouble_with(sample, reader.current.by_login(sample.login))


def move(store: Database, name: str, billing: Billing | None = None, conduct: Conduct | None = None) -> None:
    with store.write() as connection:
        found = accounts.get_account(connection, name)
        moves.apply_moves(connection, moves.account_moves(found, billing=billing, conduct=conduct), BY_TEST)


class TestSampleFile:
    def test_only_the_owner_may_read_it(self, tmp_path: Path) -> None:
        write_sample(tmp_path, SAMPLE)
        assert stat.S_IMODE((tmp_path / SAMPLE_FILE).stat().st_mode) == 0o600
        assert read_sample(tmp_path) == SAMPLE
        assert [one.name for one in tmp_path.iterdir()] == [SAMPLE_FILE]

    def test_is_closed_again_when_somebody_opened_it(self, tmp_path: Path) -> None:
        write_sample(tmp_path, SAMPLE)
        (tmp_path / SAMPLE_FILE).chmod(0o644)
        read_sample(tmp_path)
        assert stat.S_IMODE((tmp_path / SAMPLE_FILE).stat().st_mode) == 0o600

    @pytest.mark.parametrize("content", [b"", b"login: ann@sample.example\n", b"nonsense", b"\xff\xfe: \x00"])
    def test_nonsense_counts_as_none(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / SAMPLE_FILE).write_bytes(content)
        assert read_sample(tmp_path) is None

    def test_none_at_the_first_start(self, tmp_path: Path) -> None:
        assert read_sample(tmp_path) is None

    def test_a_made_password_needs_no_quotes_in_a_shell(self) -> None:
        password = make_password()
        assert len(password) == 20
        assert shlex.quote(password) == password
        assert password != make_password()


class TestSampleAccount:
    def test_is_made_with_customer_and_domain_and_can_log_in(self, store: Database) -> None:
        carry_out(Order(store.url, SAMPLE))
        assert in_store(store, SAMPLE_LOGIN).domain == "sample.example"
        assert trouble(store, SAMPLE) == ""

    def test_keeps_the_password_that_its_owner_has_set(self, store: Database) -> None:
        carry_out(Order(store.url, SAMPLE))
        carry_out(Order(store.url, Sample(SAMPLE_LOGIN, "another one")))
        assert trouble(store, SAMPLE) == ""

    def test_gets_the_new_password_of_a_new_file(self, store: Database) -> None:
        carry_out(Order(store.url, SAMPLE))
        carry_out(Order(store.url, Sample(SAMPLE_LOGIN, "another one"), new_password=True))
        assert "another password" in trouble(store, SAMPLE)

    def test_an_unpaid_one_is_shown_with_the_reply_it_would_get(self, store: Database) -> None:
        carry_out(Order(store.url, SAMPLE))
        move(store, SAMPLE_LOGIN, Billing.SUSPENDED)
        assert "unpaid" in trouble(store, SAMPLE)

    def test_is_missed_when_gone(self) -> None:
        assert trouble_with(SAMPLE, EMPTY.by_login(SAMPLE_LOGIN)) == "the account is gone"


class TestPeopleOfTheDemo:
    def test_stand_where_the_scene_wants_them_after_any_earlier_one(self, store: Database) -> None:
        carry_out(Order(store.url, demo_password="first password"))
        move(store, "leaver@demo.example", conduct=Conduct.CLOSED)
        move(store, "unpaid@demo.example", billing=Billing.CURRENT)
        move(store, "ben@demo.example", billing=Billing.SUSPENDED)
        carry_out(Order(store.url, demo_password="second password"))
        standing = {
            name: (in_store(store, f"{name}@demo.example").billing, in_store(store, f"{name}@demo.example").conduct)
            for name in ("ben", "leaver", "unpaid", "closed")
        }
        assert standing == {
            "ben": (Billing.CURRENT, Conduct.GOOD),
            "leaver": (Billing.CURRENT, Conduct.GOOD),
            "unpaid": (Billing.SUSPENDED, Conduct.GOOD),
            "closed": (Billing.CURRENT, Conduct.CLOSED),
        }
        assert trouble(store, Sample("ben@demo.example", "second password")) == ""

    def test_begin_each_scene_with_an_unused_limit(self, store: Database) -> None:
        names = []
        for _ in range(2):
            carry_out(Order(store.url, demo_password="some password"))
            with store.read() as connection:
                names += [[limit.name for limit in plans.get_plan(connection, SMALL_PLAN).limits]]
        assert names == [["scene-1"], ["scene-2"]]

    def test_the_change_returned_is_the_newest(self, store: Database) -> None:
        change = carry_out(Order(store.url, demo_password="some password"))
        reader = DirectoryReader(store.url)
        reader.poll()
        reader.close()
        assert reader.current.version == change


class TestCommands:
    @pytest.mark.parametrize(
        ("tls", "option"), [("starttls", " --tls "), ("implicit", " --tls-on-connect "), ("none", " ")]
    )
    def test_swaks_speaks_tls_as_the_listener_does(self, tls: str, option: str) -> None:
        command = swaks_command(DOOR._replace(tls=tls), SAMPLE)
        assert command.startswith(f"swaks --server 127.0.0.1 --port 2587{option}\\\n")

    @pytest.mark.parametrize(
        ("tls", "call", "starttls"), [("starttls", "SMTP(", 1), ("implicit", "SMTP_SSL(", 0), ("none", "SMTP(", 0)]
    )
    def test_python_speaks_tls_as_the_listener_does(self, tls: str, call: str, starttls: int) -> None:
        program = shlex.split(python_command(DOOR._replace(tls=tls), SAMPLE))[2]
        compile(program, "pasted", "exec")
        assert call in program
        assert program.count("starttls()") == starttls

    def test_a_client_cannot_connect_to_a_wildcard(self) -> None:
        assert reachable("0.0.0.0:587") == ("127.0.0.1", 587)
        assert reachable("[::]:587") == ("::1", 587)
        assert reachable("192.0.2.1:25") == ("192.0.2.1", 25)


def screen(**other: object) -> Screen:
    values: dict[str, object] = {
        "config": "the embedded default",
        "doors": [Door("submission", "127.0.0.1:2587", "accounts send")],
        "submission": DOOR,
        "sample": SAMPLE,
        "maildrop": Path("var/maildrop"),
        "data_dir": Path("var"),
        "log": Path("var/smartmail.log"),
        "command": ".venv/bin/smartmail",
        "swaks": True,
    }
    return Screen(**(values | other))  # type: ignore[arg-type]


def printed(shown: Screen, width: int = 110) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False, markup=False, emoji=False)
    print_screen(console, shown)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


class TestScreen:
    @pytest.mark.parametrize("width", [40, 80, 200])
    def test_what_is_to_be_pasted_is_never_folded(self, width: int) -> None:
        text = printed(screen(), width)
        assert swaks_command(DOOR, SAMPLE) in text
        assert python_command(DOOR, SAMPLE) in text
        assert f".venv/bin/smartmail account why {SAMPLE_LOGIN}\n" in text

    def test_says_what_listens_where_and_where_the_mail_lands(self) -> None:
        text = printed(screen())
        for words in ("127.0.0.1:2587", SAMPLE.password, f"var/maildrop/{SAMPLE_LOGIN}/new/", "var/smartmail.log"):
            assert words in text

    def test_offers_swaks_only_where_it_is(self) -> None:
        assert "swaks" not in printed(screen(swaks=False))

    def test_tells_why_the_account_cannot_be_tried(self) -> None:
        assert "the account is gone" in printed(screen(trouble="the account is gone"))

    def test_has_no_account_where_somebody_else_checks_passwords(self) -> None:
        text = printed(screen(sample=None))
        assert "password" not in text
        assert "account list" in text

    def test_nothing_in_it_is_read_as_markup(self) -> None:
        assert "/srv/[bold]x" in printed(screen(config="/srv/[bold]x"))

    def test_is_wide_enough_for_replies_without_a_terminal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("COLUMNS", raising=False)
        assert make_console().width == 110

    @pytest.mark.parametrize(
        ("listener", "words"),
        [
            ({"role": "submission"}, "accounts send: STARTTLS, then AUTH"),
            ({"role": "submission", "tls": "implicit"}, "accounts send: TLS from the first octet, then AUTH"),
            ({"role": "relay", "accept_incoming": True}, "servers deliver: for our domains from anywhere"),
            ({"role": "relay", "trusted_networks": ("10.0.0.0/8",)}, "servers deliver: any mail from 10.0.0.0/8"),
        ],
    )
    def test_a_listener_in_few_words(self, listener: dict[str, object], words: str) -> None:
        config = ListenerConfig.model_validate({"name": "one", "address": "127.0.0.1:0"} | listener)
        assert describe(config) == words


class TestScene:
    def board(self) -> Board:
        return Board(Console(file=io.StringIO(), width=110))

    def test_a_reply_as_expected_is_counted(self) -> None:
        board = self.board()
        board.line("ben", "mails cleo", Said(250, "2.0.0 Ok"), "250 2.0.0")
        assert (board.wrong, board.verdicts) == ([], {"accepted": 1})

    def test_another_reply_than_expected_is_told(self) -> None:
        board = self.board()
        board.line("closed", "logs in", Said(235, "2.7.0 Welcome"), "525 5.7.13")
        assert board.wrong == ["closed, logs in: 235 2.7.0 Welcome, expected 525 5.7.13"]

    @pytest.mark.parametrize(
        ("code", "verdict"),
        [(250, "accepted"), (354, "accepted"), (450, "deferred"), (421, "ended"), (550, "rejected")],
    )
    def test_a_verdict_is_one_word(self, code: int, verdict: str) -> None:
        assert Said(code, "").verdict == verdict

    @pytest.mark.parametrize("relay", [None, Target("::1", 2525, "none")])
    def test_the_stage_reaches_the_other_process_whole(self, relay: Target | None) -> None:
        stage = Stage("sqlite:////tmp/x.db", DOOR, relay, "", 'pass"word', "smartmail")
        assert Stage.from_json(stage.to_json()) == stage


@pytest.fixture
def busy() -> Iterator[Callable[[], str]]:
    taken: list[socket.socket] = []

    def take() -> str:
        one = socket.create_server(("127.0.0.1", 0))
        taken.append(one)
        return f"127.0.0.1:{one.getsockname()[1]}"

    yield take
    for one in taken:
        one.close()


class TestPorts:
    def config(self, submission: str, metrics: str) -> Config:
        listener = {"name": "submission", "role": "submission", "address": submission}
        return Config.model_validate({"listener": [listener], "metrics": {"address": metrics}})

    def test_every_busy_one_is_told_with_what_to_do(self, busy: Callable[[], str]) -> None:
        config = self.config(busy(), busy())
        with pytest.raises(CliError) as caught:
            check_free(config)
        first, second = str(caught.value).splitlines()
        assert caught.value.code is ExitCode.UNREACHABLE
        assert first.startswith(f"listener submission: {config.listener[0].address} is in use by another program")
        assert 'smartmail.toml, [[listener]] name = "submission"' in first
        assert second.startswith(f"metrics: {config.metrics.address} is in use by another program")
        assert "SMARTMAIL_METRICS__ADDRESS=" in second

    def test_an_address_that_is_not_ours_is_told(self) -> None:
        with pytest.raises(CliError, match=r"listener submission: this machine has no address 192\.0\.2\.77"):
            check_free(self.config("192.0.2.77:2587", ""))

    def test_free_ones_are_free_afterwards(self, busy: Callable[[], str]) -> None:
        config = self.config("127.0.0.1:0", "")
        check_free(config)
        check_free(config)
