"""The backup's part of smartmail.toml: the plan that it says, and in what words it is refused."""

import tomllib
from datetime import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartmail.config import Config, ConfigError, backup_plan, locations, read
from smartmail.config.backup import QUEUE_FOLDER
from smartmail.core.backup_due import Schedule
from smartmail.core.backup_plan import BackupPlan, CheckPlan, DrillPlan, Hooks, JobKind, JobPlan, RepositoryPlan, Usual
from smartmail.core.mailbox_place import Layout
from smartmail.core.manifest import SamplePlan
from smartmail.core.restic import Prune, Repository
from smartmail.core.retention import Duration, Guards, KeepRule, Period

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
MAIN = """\
[server]
data_dir = "/var/lib/smartmail"

[backup]
restic = "/usr/bin/restic"
host = "mx1.example.net"
zone = "Europe/London"

[drill]
repository = "offsite"
times = ["06:30"]
weekdays = ["sat", "sun"]
at_random = 300
window_days = 5

[[repository]]
name = "onsite"
location = "/srv/backup/mx1"
password_file = "/etc/smartmail/backup/onsite.password"
keep = { daily = 14, weekly = 8, monthly = 12 }

[[repository]]
name = "offsite"
location = "OFFSITE"
password_file = "/etc/smartmail/backup/offsite.password"
copy_from = "onsite"
offsite = true
append_only = true
keep = { within_daily = "2m", tags = ["legal"] }
rpo_hours = 30
check_parts = 8
check_weekdays = ["sat"]
check_window_days = 60
limit_upload = 20480
options = ["rest.connections=8"]

[[repository]]
name = "keys"
location_file = "keys.location"
password_file = "keys.password"
variables = { AWS_SHARED_CREDENTIALS_FILE = "/etc/smartmail/s3", AWS_PROFILE = "keys" }

[[job]]
name = "accounts"
kind = "sqlite"
repository = "onsite"
every_minutes = 60
paths = ["/var/lib/smartmail/smartmail.db"]

[[job]]
name = "mail"
kind = "maildir"
repository = "onsite"
times = ["14:00", "02:00"]
order = 10
paths = ["/srv/vmail/"]
mailboxes = "/srv/vmail/{domain}/{local}/Maildir"
mounted = ["/srv/vmail"]
least_files = 1000
before = [["zfs", "snapshot", "tank/mail@backup"]]
after = [["zfs", "destroy", "tank/mail@backup"]]

[[job]]
name = "mail-keys"
kind = "files"
repository = "keys"
paths = ["/etc/dovecot/keys", "/etc/dkim"]

[[job]]
name = "config"
kind = "files"
repository = "onsite"
paths = ["/etc"]
excludes = ["/etc/dovecot/keys", "/etc/dkim", "*.swp"]
"""
REST = MAIN.replace("OFFSITE", "rest:https://backup.example.org/mx1/")
SFTP = MAIN.replace("OFFSITE", "sftp:backup@backup.example.org:/srv/mx1")
KEYS_JOB = 'paths = ["/etc/dovecot/keys", "/etc/dkim"]'
DAILY = frozenset(range(7))


def read_text(folder: Path, text: str) -> Config:
    """Read `text` as a configuration file."""
    file = folder / "smartmail.toml"
    file.write_text(text, "utf-8")
    return read(file, {}).config


def plan_of(folder: Path, text: str) -> BackupPlan:
    """The plan of a configuration file."""
    return backup_plan(read_text(folder, text))


def changed(*changes: tuple[str, str]) -> str:
    """REST with some of its text replaced, each once."""
    text = REST
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new, 1)
    return text


def told(folder: Path, text: str) -> list[str]:
    """What is wrong with `text`, one line each, without the folder and the line's number."""
    with pytest.raises(ConfigError) as caught:
        read_text(folder, text)
    return [line.partition(" ")[2].replace(f"{folder}/", "") for line in str(caught.value).splitlines()]


class TestPlan:
    def test_a_host_with_onsite_offsite_and_keys_apart(self, tmp_path: Path) -> None:
        plan = plan_of(tmp_path, REST)
        assert (plan.host, plan.zone, plan.folder) == ("mx1.example.net", "Europe/London", "/var/lib/smartmail/backup")
        assert (plan.restic, plan.doveadm) == ("/usr/bin/restic", "doveadm")
        assert plan.repositories == (
            RepositoryPlan(
                "onsite",
                Repository(
                    "onsite", "/var/lib/smartmail/backup/locations/onsite", "/etc/smartmail/backup/onsite.password"
                ),
                (KeepRule(Period.DAILY, 14), KeepRule(Period.WEEKLY, 8), KeepRule(Period.MONTHLY, 12)),
                26 * HOUR_MS,
                CheckPlan(28, Schedule((time(5),)), 35 * DAY_MS),
                Guards(needs_reference=False),
            ),
            RepositoryPlan(
                "offsite",
                Repository(
                    "offsite",
                    "/var/lib/smartmail/backup/locations/offsite",
                    "/etc/smartmail/backup/offsite.password",
                    (),
                    ("rest.connections=8",),
                    20480,
                ),
                (KeepRule(Period.DAILY, within=Duration(months=2)), KeepRule(tag="legal")),
                30 * HOUR_MS,
                CheckPlan(8, Schedule((time(5),), frozenset((5,))), 60 * DAY_MS),
                Guards(),
                Prune(),
                "onsite",
                True,
                True,
            ),
            RepositoryPlan(
                "keys",
                Repository(
                    "keys",
                    f"{tmp_path}/keys.location",
                    f"{tmp_path}/keys.password",
                    (("AWS_PROFILE", "keys"), ("AWS_SHARED_CREDENTIALS_FILE", "/etc/smartmail/s3")),
                ),
                None,
                26 * HOUR_MS,
                CheckPlan(28, Schedule((time(5),)), 35 * DAY_MS),
                Guards(),
            ),
        )
        assert plan.jobs == (
            JobPlan(
                "accounts",
                JobKind.SQLITE,
                "onsite",
                Schedule(every_minutes=60),
                paths=("/var/lib/smartmail/smartmail.db",),
            ),
            JobPlan(
                "mail",
                JobKind.MAILDIR,
                "onsite",
                Schedule((time(2), time(14))),
                10,
                ("/srv/vmail",),
                Layout("/srv/vmail/{domain}/{local}/Maildir"),
                usual=Usual(("/srv/vmail",), 1000),
                hooks=Hooks((("zfs", "snapshot", "tank/mail@backup"),), (("zfs", "destroy", "tank/mail@backup"),)),
            ),
            JobPlan(
                "mail-keys",
                JobKind.FILES,
                "keys",
                Schedule((time(2),)),
                paths=("/etc/dovecot/keys", "/etc/dkim"),
            ),
            JobPlan(
                "config",
                JobKind.FILES,
                "onsite",
                Schedule((time(2),)),
                paths=("/etc",),
                excludes=("/etc/dovecot/keys", "/etc/dkim", "*.swp"),
            ),
        )
        assert plan.drill == DrillPlan(
            "offsite", Schedule((time(6, 30),), frozenset((5, 6))), SamplePlan(300), 5 * DAY_MS
        )
        assert [one.name for one in plan.jobs_in("offsite")] == ["accounts", "mail", "config"]
        assert [one.name for one in plan.copies_of("onsite")] == ["offsite"]

    def test_addresses_that_the_program_writes_are_those_that_stand_in_the_file(self, tmp_path: Path) -> None:
        folder = Path("/var/lib/smartmail/backup/locations")
        assert locations(read_text(tmp_path, SFTP)) == {
            folder / "onsite": "/srv/backup/mx1",
            folder / "offsite": "sftp:backup@backup.example.org:/srv/mx1",
        }
        plan = plan_of(tmp_path, SFTP)
        written = {str(path) for path in locations(read_text(tmp_path, SFTP))}
        assert written == {plan.repository(name).at.repository_file for name in ("onsite", "offsite")}

    def test_an_empty_file_plans_nothing(self, tmp_path: Path) -> None:
        plan = plan_of(tmp_path, "")
        assert (plan.jobs, plan.repositories, plan.drill.repository) == ((), (), "")
        assert plan.folder == f"{tmp_path}/var/backup"
        assert plan.drill.schedule == Schedule((time(6),), frozenset((6,)))
        assert locations(read_text(tmp_path, "")) == {}

    def test_backup_folder_by_name(self, tmp_path: Path) -> None:
        text = '[backup]\nfolder = "state"\nhost = "mx1"\n'
        assert plan_of(tmp_path, text).folder == f"{tmp_path}/state"

    @pytest.mark.parametrize(
        ("location", "written"),
        [
            ("/srv/backup/", "/srv/backup"),
            ("local:/srv/backup", "/srv/backup"),
            ("repos/mx1", "{}/repos/mx1"),
            ("../mx1", "{}/mx1"),
            ("sftp:u@h:/p", "sftp:u@h:/p"),
            ("sftp://u@h:2222//p", "sftp://u@h:2222//p"),
            ("rest:http://[2001:db8::1]:8000/", "rest:http://[2001:db8::1]:8000/"),
            ("s3:https://s3.example.net/mx1", "s3:https://s3.example.net/mx1"),
            ("rclone:box:mx1", "rclone:box:mx1"),
        ],
    )
    def test_addresses_of_repositories(self, tmp_path: Path, location: str, written: str) -> None:
        text = f'[[repository]]\nname = "one"\npassword_file = "p"\nlocation = "{location}"\n'
        base = tmp_path.parent if location.startswith("..") else tmp_path
        assert list(locations(read_text(tmp_path, text)).values()) == [written.format(base)]

    @pytest.mark.parametrize(
        ("location", "clock", "needed"),
        [
            ("/srv/backup", "", False),
            ("/srv/backup", "https://www.example.net/", True),
            ("rest:https://backup.example.org/", "", True),
            ("sftp:u@h:/p", "https://www.example.net/", True),
        ],
    )
    def test_another_clock_is_needed_but_for_a_folder(
        self, tmp_path: Path, location: str, clock: str, needed: bool
    ) -> None:
        text = f'[[repository]]\nname = "one"\npassword_file = "p"\nlocation = "{location}"\nclock = "{clock}"\n'
        (one,) = plan_of(tmp_path, f"{text}keep = {{ daily = 7 }}\n").repositories
        assert (one.guards.needs_reference, one.clock) == (needed, clock)

    @pytest.mark.parametrize(
        ("kind", "more", "paths", "users"),
        [
            ("queue", "", (QUEUE_FOLDER,), ()),
            ("queue", 'paths = ["/var/spool/postfix-out"]', ("/var/spool/postfix-out",), ()),
            ("dovecot", "", (), ("*",)),
            ("dovecot", 'users = ["*@example.com"]', (), ("*@example.com",)),
            ("postgresql", 'database = "service=mail"', (), ()),
        ],
    )
    def test_what_a_kind_of_job_has_by_itself(
        self, tmp_path: Path, kind: str, more: str, paths: tuple[str, ...], users: tuple[str, ...]
    ) -> None:
        job = f'[[job]]\nname = "more"\nkind = "{kind}"\nrepository = "onsite"\n{more}\n'
        found = plan_of(tmp_path, REST + job).job("more")
        assert (found.kind, found.paths, found.users) == (JobKind(kind), paths, users)

    def test_every_minutes_goes_before_the_times_that_are_the_default(self, tmp_path: Path) -> None:
        text = changed(("check_weekdays = ", "check_every_minutes = 360\n#"), ("times = [", "every_minutes = 120\n#"))
        plan = plan_of(tmp_path, text.replace('weekdays = ["sat", "sun"]\n', ""))
        assert plan.repository("offsite").check.schedule == Schedule(every_minutes=360)
        assert plan.drill.schedule == Schedule(every_minutes=120)

    @given(
        daily=st.integers(1, 999_999),
        rpo=st.integers(1, 8784),
        floor=st.integers(1, 1000),
        parts=st.integers(1, 256),
        order=st.integers(0, 1000),
        partial=st.integers(0, 2**31 - 1),
    )
    def test_whatever_numbers_are_let_through_the_core_takes_them(
        self, daily: int, rpo: int, floor: int, parts: int, order: int, partial: int
    ) -> None:
        config = Config.model_validate(
            {
                "repository": [
                    {
                        "name": "one",
                        "location": "/srv/backup",
                        "password_file": "/etc/p",
                        "keep": {"daily": daily},
                        "rpo_hours": rpo,
                        "floor": floor,
                        "check_parts": parts,
                    }
                ],
                "job": [
                    {
                        "name": "j",
                        "kind": "files",
                        "repository": "one",
                        "paths": ["/etc"],
                        "order": order,
                        "most_partial": partial,
                    }
                ],
                "backup": {"folder": "/var/lib/backup"},
            }
        )
        plan = backup_plan(config)
        one, job = plan.repository("one"), plan.job("j")
        assert one.keep == (KeepRule(Period.DAILY, daily),)
        assert (one.rpo_ms, one.guards.floor, one.check.parts) == (rpo * HOUR_MS, floor, parts)
        assert (job.order, job.most_partial) == (order, partial)

    def test_no_secret_is_needed_to_read_it_for_they_may_be_credentials_of_another_process(
        self, tmp_path: Path
    ) -> None:
        assert not Path("/etc/smartmail/backup/onsite.password").exists()
        assert plan_of(tmp_path, REST).repository("onsite").at.password_file.startswith("/etc/")


BROKEN: dict[str, tuple[str, list[str]]] = {
    "no host": (
        changed(('host = "mx1.example.net"\n', "")),
        [
            "job: backup.host is not given: the name that snapshots are made under, and that never changes"
            ' ([backup] host = "mx1.example.com")'
        ],
    ),
    "host with blank": (
        changed(("mx1.example.net", "mx1 example")),
        ["backup.host: 'mx1 example' is no host name (for example \"mx1.example.com\")"],
    ),
    "zone": (
        changed(("Europe/London", "Europe/Londres")),
        ['backup.zone: \'Europe/Londres\' is no time zone (for example "Europe/London" or "UTC")'],
    ),
    "program with a flag": (
        changed(("/usr/bin/restic", "-restic")),
        ["backup.restic: '-restic' is no program (its name, or its absolute path: \"/usr/bin/restic\")"],
    ),
    "program by a relative path": (
        changed(("/usr/bin/restic", "bin/restic")),
        ["backup.restic: 'bin/restic' is no program (its name, or its absolute path: \"/usr/bin/restic\")"],
    ),
    "drill of nothing": (
        changed(('[drill]\nrepository = "offsite"', '[drill]\nrepository = "offiste"')),
        ['drill.repository: there is no repository "offiste" (did you mean "offsite"?)'],
    ),
    "drill where no job comes": (
        changed(
            ('[[job]]\nname = "mail-keys"', '[[job]]\nname = "k"'), ('repository = "keys"', 'repository = "onsite"')
        )
        .replace('[drill]\nrepository = "offsite"', '[drill]\nrepository = "keys"')
        .replace(KEYS_JOB, 'paths = ["/opt"]'),
        ['drill.repository: no job comes to "keys"'],
    ),
    "drill never": (
        changed(('times = ["06:30"]', "times = []")),
        ['drill.times: never comes (times = ["02:00"], or every_minutes = 60)'],
    ),
    "no location": (
        changed(('location = "/srv/backup/mx1"\n', "")),
        ['repository[0]: it does not say where it is (location = "/srv/backup/mx1", or location_file)'],
    ),
    "two locations": (
        changed(('location = "/srv/backup/mx1"\n', 'location = "/srv/backup/mx1"\nlocation_file = "/etc/l"\n')),
        ["repository[0].location: location_file is set too (keep one of the two)"],
    ),
    "backend misspelt": (
        changed(("rest:https", "rset:https")),
        [
            "repository[1].location: restic has no backend 'rset'"
            " (known: sftp:, rest:, s3:, b2:, azure:, gs:, swift:, rclone:; or a path: /srv/backup/onsite)"
        ],
    ),
    "rest without a scheme": (
        changed(("rest:https://", "rest:")),
        [
            "repository[1].location: 'rest:backup.example.org/mx1/' is not whole"
            ' (for example "rest:https://backup.example.net/mx1/")'
        ],
    ),
    "password in the location": (
        changed(("rest:https://backup", "rest:https://mx1:geheim@backup")),
        [
            "repository[1].location: holds a password, in a file that many may read"
            ' (put the address into a file of its own: location_file = "/etc/smartmail/offsite.location")'
        ],
    ),
    "password in a broken location": (
        changed(("rest:https://backup", "rest:https://mx1:geheim@\\tbackup")),
        [
            "repository[1].location: 'rest:https://mx1:***@\\tbackup.example.org/mx1/' is no address of one line"
            ' (for example "/srv/backup/onsite")'
        ],
    ),
    "no password": (
        changed(('password_file = "/etc/smartmail/backup/onsite.password"\n', "")),
        [
            "repository[0].password_file: is missing and has no default"
            ' (for example password_file = "/etc/smartmail/backup/onsite.password")'
        ],
    ),
    "password itself": (
        changed(("password_file = ", "password = ")),
        [
            "repository[0].password_file: is missing and has no default"
            ' (for example password_file = "/etc/smartmail/backup/onsite.password")',
            "repository[0].password: unknown key (did you mean password_file?)",
        ],
    ),
    "one key for two": (
        changed(("offsite.password", "onsite.password")),
        ["repository[1].password_file: repository[0] has the same (each repository has a key of its own)"],
    ),
    "one place for two": (
        changed(("rest:https://backup.example.org/mx1/", "/srv/backup/mx1/../mx1")),
        ["repository[1].location: repository[0] has the same (a copy in the same place is no copy)"],
    ),
    "repository twice": (
        changed(('name = "offsite"', 'name = "onsite"'), ('copy_from = "onsite"', 'copy_from = "keys"')).replace(
            '[drill]\nrepository = "offsite"', "[drill]"
        ),
        ['repository[1].name: repository[0] is called "onsite" already (give each its own name)'],
    ),
    "repository by a path": (
        changed(('name = "onsite"', 'name = "../onsite"')),
        [
            'repository[0].name: may hold small letters, digits, - and _ only, 32 at most, not "../onsite"'
            ' (for example name = "onsite")',
        ],
    ),
    "copy of itself": (
        changed(('copy_from = "onsite"', 'copy_from = "offsite"')).replace(
            '[drill]\nrepository = "offsite"', "[drill]"
        ),
        ["repository[1].copy_from: a repository is no copy of itself (name the one that jobs are backed up into)"],
    ),
    "copy of what is not there": (
        changed(('copy_from = "onsite"', 'copy_from = "cloud"')).replace('[drill]\nrepository = "offsite"', "[drill]"),
        ['repository[1].copy_from: there is no repository "cloud" (known: onsite, offsite, keys)'],
    ),
    "copy of a copy": (
        changed(('location_file = "keys.location"', 'location_file = "keys.location"\ncopy_from = "offsite"')).replace(
            'repository = "keys"', 'repository = "onsite"'
        ),
        [
            'repository[2].copy_from: "offsite" is a copy itself: copies are made of what jobs were backed up into'
            ' (copy_from = "onsite")'
        ],
    ),
    "copy with other credentials": (
        changed(
            ("limit_upload = 20480", 'variables = { AWS_PROFILE = "b" }'),
            ("keep = { daily", 'variables = { AWS_PROFILE = "a" }\nkeep = { daily'),
        ),
        [
            'repository[1].variables: AWS_PROFILE differs from that of "onsite", and one restic serves both in a copy'
            " (use one file with two profiles, or another backend)"
        ],
    ),
    "keep rule misspelt": (
        changed(("weekly = 8", "weakly = 8")),
        ['repository[0].keep: there is no keep rule "weakly" (did you mean "weekly"?)'],
    ),
    "keep nothing": (
        changed(("{ daily = 14, weekly = 8, monthly = 12 }", "{}")),
        ["repository[0].keep: without a keep rule everything would go (name at least one)"],
    ),
    "keep zero": (
        changed(("daily = 14", "daily = 0")),
        ['repository[0].keep: daily = 0 keeps nothing that can be counted (a number from 1, or "all")'],
    ),
    "keep for a while": (
        changed(('within_daily = "2m"', 'within_daily = "2 months"')),
        [
            "repository[1].keep: '2 months' is no duration"
            " (it is written 1y6m10d12h, and any of the four may be left out)"
        ],
    ),
    "keep a word": (
        changed(("{ daily = 14, weekly = 8, monthly = 12 }", '"everything"')),
        [
            'repository[0].keep: must be a table of rules, or "all"'
            " (for example keep = { daily = 14, weekly = 8, monthly = 12 })"
        ],
    ),
    "keep fewer than the floor": (
        changed(("{ daily = 14, weekly = 8, monthly = 12 }", "{ last = 2 }")),
        [
            "repository[0].keep: the rules keep fewer snapshots than floor = 3: every removal would be refused"
            " (keep more, or a lower floor)"
        ],
    ),
    "forget without a clock": (
        changed(("rest:https://backup.example.org/mx1/", "sftp:u@h:/p"), ("append_only = true\n", "")),
        [
            "repository[1].clock: nothing may be forgotten without another clock to compare with,"
            ' and this repository has none (for example clock = "https://example.net/")'
        ],
    ),
    "clock that is none": (
        changed(("append_only = true", 'clock = "ntp.example.net"')),
        [
            "repository[1].clock: 'ntp.example.net' is no URL to read a Date header from"
            ' (for example "https://www.example.net/")'
        ],
    ),
    "check too slow": (
        changed(("check_parts = 8", "check_parts = 9")),
        [
            "repository[1].check_window_days: reading all 9 parts takes 63 days, not 60"
            " (fewer parts, more checks, or a longer window)"
        ],
    ),
    "check never": (
        changed(('check_weekdays = ["sat"]', "check_times = []")),
        ['repository[1].check_times: never comes (check_times = ["02:00"], or check_every_minutes = 60)'],
    ),
    "check twice": (
        changed(('check_weekdays = ["sat"]', 'check_weekdays = ["sat"]\ncheck_every_minutes = 360')),
        ["repository[1].check_weekdays: means nothing beside check_every_minutes (keep one of the two)"],
    ),
    "check in too many parts": (
        changed(("check_parts = 8", "check_parts = 300")),
        ["repository[1].check_parts: must be at most 256, not 300 (for example check_parts = 28)"],
    ),
    "unused": (
        changed(("limit_upload = 20480", 'max_unused = "some"')),
        ['repository[1].max_unused: \'some\' is no share or size (for example "5%", "10G" or "unlimited")'],
    ),
    "option": (
        changed(("rest.connections=8", "--no-lock")),
        ["repository[1].options[0]: '--no-lock' is no option of restic (for example \"rest.connections=8\")"],
    ),
    "option with a password": (
        changed(("rest.connections=8", "rest.proxy=http://u:geheim@proxy/")),
        [
            "repository[1].options[0]: an option holds a password, in a file that many may read"
            " (name a file that holds it)"
        ],
    ),
    "secret in a variable": (
        changed(('AWS_PROFILE = "keys"', 'AWS_SECRET_ACCESS_KEY = "geheim"')),
        [
            "repository[2].variables: AWS_SECRET_ACCESS_KEY is no variable that may be set"
            " (secrets stand in files that these name: AWS_DEFAULT_REGION, AWS_PROFILE, AWS_SHARED_CREDENTIALS_FILE,"
            " GOOGLE_APPLICATION_CREDENTIALS, RCLONE_CONFIG, SSH_AUTH_SOCK)"
        ],
    ),
    "variable of a relative path": (
        changed(('"/etc/smartmail/s3"', '"s3"')),
        ["repository[2].variables: AWS_SHARED_CREDENTIALS_FILE must be the absolute path of a file"],
    ),
    "variables as text": (
        changed(("variables = {", 'variables = "x" #')),
        ['repository[2].variables: must be a table of texts (for example variables = { AWS_PROFILE = "backup" })'],
    ),
    "job of no repository": (
        changed(('repository = "keys"', 'repository = "kays"')),
        ['job[2].repository: there is no repository "kays" (did you mean "keys"?)'],
    ),
    "job without any repository": (
        '[backup]\nhost = "a"\n[[job]]\nname = "j"\nkind = "files"\nrepository = "onsite"\npaths = ["/etc"]\n',
        ['job[0].repository: there is no repository "onsite" (known: none)'],
    ),
    "job into a copy": (
        changed(('repository = "keys"', 'repository = "offsite"')),
        ['job[2].repository: "offsite" gets copies only: it has copy_from (repository = "onsite")'],
    ),
    "job twice": (
        changed(('name = "mail-keys"', 'name = "mail"')),
        ['job[2].name: job[1] is called "mail" already (give each its own name)'],
    ),
    "job of an unknown kind": (
        changed(('kind = "maildir"', 'kind = "mail"')),
        [
            'job[1].kind: must be one of "maildir", "files", "sqlite", "postgresql", "dovecot", "queue", not "mail"'
            ' (did you mean "maildir"?)'
        ],
    ),
    "job too seldom": (
        changed(('times = ["14:00", "02:00"]', 'weekdays = ["mon", "wed"]')),
        [
            "job[1]: it runs every 120 hours, and onsite promises 26"
            " (run it more often, or a larger rpo_hours for onsite)"
        ],
    ),
    "job too seldom for a copy": (
        changed(("every_minutes = 60", "every_minutes = 1860"), ("[[repository]]", "[[repository]]\nrpo_hours = 40")),
        [
            "job[0]: it runs every 31 hours, and offsite promises 30"
            " (run it more often, or a larger rpo_hours for offsite)"
        ],
    ),
    "job at two kinds of time": (
        changed(("every_minutes = 60", 'every_minutes = 60\ntimes = ["02:00"]')),
        ["job[0].times: means nothing beside every_minutes (keep one of the two)"],
    ),
    "job at no time of the day": (
        changed(('"14:00"', '"24:00"')),
        ["job[1].times[0]: '24:00' is no time of the day (for example \"02:30\")"],
    ),
    "job at a time of TOML": (
        changed(('"14:00"', "14:00:00")),
        ["job[1].times[0]: must be text in quotes, not 14:00:00"],
    ),
    "job on no day of the week": (
        changed(("order = 10", 'weekdays = ["monday"]')),
        [
            'job[1].weekdays[0]: must be one of "mon", "tue", "wed", "thu", "fri", "sat", "sun", not "monday"'
            ' (did you mean "mon"?)'
        ],
    ),
    "job at times that are no list": (
        changed(('times = ["14:00", "02:00"]', 'times = "02:00"')),
        ['job[1].times: must be a list in square brackets, not "02:00" (for example times = ["02:00"])'],
    ),
    "mail without mailboxes": (
        changed(('mailboxes = "/srv/vmail/{domain}/{local}/Maildir"\n', "")),
        ['job[1]: maildir needs mailboxes (mailboxes = "/srv/vmail/{domain}/{local}/Maildir")'],
    ),
    "mailboxes elsewhere": (
        changed(('mailboxes = "/srv/vmail/', 'mailboxes = "/srv/vmail2/')),
        ['job[1].mailboxes: the mailboxes in /srv/vmail2 are in no path (paths = ["/srv/vmail2"])'],
    ),
    "mailboxes of one domain": (
        changed(("{domain}/{local}/Maildir", "example.com/{local}/Maildir")),
        [
            "job[1].mailboxes: '/srv/vmail/example.com/{local}/Maildir' must have {domain} and {local} once,"
            ' each between slashes (for example "/srv/vmail/{domain}/{local}/Maildir")'
        ],
    ),
    "path that climbs": (
        changed(('paths = ["/etc"]', 'paths = ["/etc/../srv"]')),
        ["job[3].paths[0]: '/etc/../srv' is no absolute path without . and .. (for example \"/srv/vmail\")"],
    ),
    "relative path": (
        changed(('paths = ["/etc"]', 'paths = ["etc"]')),
        ["job[3].paths[0]: 'etc' is no absolute path without . and .. (for example \"/srv/vmail\")"],
    ),
    "path that is no list": (
        changed(('paths = ["/etc"]', 'paths = "/etc"')),
        ['job[3].paths: must be a list in square brackets, not "/etc" (for example paths = ["/srv/vmail"])'],
    ),
    "files without paths": (
        changed(('paths = ["/etc"]', "paths = []")),
        ['job[3]: files needs paths (for example paths = ["/srv/vmail"])'],
    ),
    "exclude all": (
        changed(('"*.swp"', '"/*"')),
        [
            "job[3].excludes[2]: '/*' would leave out everything, or is no pattern of one line"
            ' (for example "/etc/ssl/certs" or "*.tmp")'
        ],
    ),
    "exclude the path itself": (
        changed(('"*.swp"', '"/etc/"')),
        ["job[3].excludes: /etc/ leaves out all of /etc"],
    ),
    "two databases in a job": (
        changed(('smartmail.db"]', 'smartmail.db", "/b.db"]')),
        ["job[0].paths: a job of the kind sqlite is of one database (a job for each)"],
    ),
    "what a kind has not": (
        changed(('kind = "sqlite"', 'kind = "postgresql"\nusers = ["*"]')),
        [
            'job[0]: postgresql needs database (database = "mail")',
            "job[0].users: means nothing for a job of the kind postgresql (leave it out)",
            "job[0].paths: means nothing for a job of the kind postgresql (leave it out)",
        ],
    ),
    "database with a password": (
        changed(('kind = "sqlite"', 'kind = "postgresql"\ndatabase = "postgresql://m:geheim@db/m"\n')).replace(
            'paths = ["/var/lib/smartmail/smartmail.db"]', ""
        ),
        [
            "job[0].database: holds a password, in a file that many may read"
            ' (put it into ~/.pgpass: "service=mail" or "mail")'
        ],
    ),
    "user that is a flag": (
        changed(('kind = "maildir"', 'kind = "dovecot"\nusers = ["-A"]\n#')).replace(
            'paths = ["/srv/vmail/"]\nmailboxes', "#"
        ),
        ["job[1].users[0]: '-A' is no pattern of users (for example \"*@example.com\")"],
    ),
    "command as text": (
        changed(('[["zfs", "snapshot", "tank/mail@backup"]]', '"zfs snapshot tank/mail@backup"')),
        [
            "job[1].before: must be a list of commands"
            ' (each is a list of words: [["zfs", "snapshot", "tank/mail@backup"]])'
        ],
    ),
    "one command without its list": (
        changed(('[["zfs", "snapshot", "tank/mail@backup"]]', '["zfs", "snapshot"]')),
        ['job[1].before: \'zfs\' is no command (each is a list of words: [["zfs", "snapshot", "tank/mail@backup"]])'],
    ),
    "command for a shell": (
        changed(('[["zfs", "snapshot", "tank/mail@backup"]]', '[["zfs snapshot tank"]]')),
        [
            "job[1].before: 'zfs snapshot tank' is one word: no shell takes it apart"
            ' (each is a list of words: [["zfs", "snapshot", "tank/mail@backup"]])'
        ],
    ),
    "repository within what it is of": (
        changed(('paths = ["/etc"]', 'paths = ["/etc", "/srv"]')),
        ['job[3].paths: the repository /srv/backup/mx1 lies within it (excludes = ["/srv/backup/mx1"])'],
    ),
    "job as one table": (
        '[job]\nname = "a"\n',
        ["job: must be a list of tables, not a table (write [[job]], with two brackets)"],
    ),
    "all at once": (
        changed(
            ('zone = "Europe/London"', 'zone = "nowhere"'),
            ("daily = 14", "dayly = 14"),
            ("rest.connections=8", "x"),
            ('"14:00"', '"2"'),
        ),
        [
            'backup.zone: \'nowhere\' is no time zone (for example "Europe/London" or "UTC")',
            'repository[0].keep: there is no keep rule "dayly" (did you mean "daily"?)',
            "repository[1].options[0]: 'x' is no option of restic (for example \"rest.connections=8\")",
            "job[1].times[0]: '2' is no time of the day (for example \"02:30\")",
        ],
    ),
}


class TestBroken:
    @pytest.mark.parametrize("name", BROKEN)
    def test_it_is_refused_in_exactly_these_words(self, tmp_path: Path, name: str) -> None:
        text, expected = BROKEN[name]
        tomllib.loads(text)
        assert told(tmp_path, text) == expected

    @pytest.mark.parametrize("name", BROKEN)
    def test_no_password_is_repeated(self, tmp_path: Path, name: str) -> None:
        assert "geheim" not in "".join(told(tmp_path, BROKEN[name][0]))

    def test_every_problem_has_the_line_of_its_key(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError) as caught:
            read_text(tmp_path, BROKEN["all at once"][0])
        lines = REST.splitlines()
        shown = [lines[one.line - 1].partition(" ")[0] for one in caught.value.problems]
        assert shown == ["zone", "keep", "options", "times"]

    @pytest.mark.parametrize(("mode", "open_to"), [(0o644, True), (0o604, True), (0o640, False), (0o600, False)])
    def test_a_password_that_everybody_may_read(self, tmp_path: Path, mode: int, open_to: bool) -> None:
        (tmp_path / "keys.password").write_text("geheim")
        (tmp_path / "keys.password").chmod(mode)
        if not open_to:
            assert plan_of(tmp_path, REST).repository("keys").at.password_file == f"{tmp_path}/keys.password"
            return
        assert told(tmp_path, REST) == [
            f"repository[2].password_file: everybody may read or change keys.password (mode {mode:04o})"
            " (chmod 600 keys.password)"
        ]
