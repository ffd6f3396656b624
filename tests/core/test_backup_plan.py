"""Which repository holds which jobs: directly, or by copy."""

import pytest

from smartmail.core.backup_due import Schedule
from smartmail.core.backup_plan import BackupPlan, CheckPlan, DrillPlan, JobKind, JobPlan, RepositoryPlan
from smartmail.core.manifest import SamplePlan
from smartmail.core.restic import Repository

HOURLY = Schedule(every_minutes=60)


def repository(name: str, copy_from: str = "") -> RepositoryPlan:
    at = Repository(name, f"/etc/{name}.location", f"/etc/{name}.password")
    return RepositoryPlan(name, at, None, 1, CheckPlan(1, HOURLY, 1), copy_from=copy_from)


def job(name: str, repository: str) -> JobPlan:
    return JobPlan(name, JobKind.FILES, repository, HOURLY, paths=("/etc",))


PLAN = BackupPlan(
    "mx1",
    "UTC",
    "/var/lib/backup",
    "restic",
    "doveadm",
    (job("accounts", "onsite"), job("keys", "vault"), job("mail", "onsite")),
    (
        repository("onsite"),
        repository("vault"),
        repository("offsite", "onsite"),
        repository("vault-copy", "vault"),
        repository("cloud", "onsite"),
    ),
    DrillPlan("offsite", HOURLY, SamplePlan(), 1),
)


def test_by_name() -> None:
    assert PLAN.job("mail").name == "mail"
    assert PLAN.repository("cloud").copy_from == "onsite"
    with pytest.raises(KeyError):
        PLAN.job("onsite")
    with pytest.raises(KeyError):
        PLAN.repository("mail")


@pytest.mark.parametrize(
    ("name", "jobs", "copies"),
    [
        ("onsite", ["accounts", "mail"], ["offsite", "cloud"]),
        ("vault", ["keys"], ["vault-copy"]),
        ("offsite", ["accounts", "mail"], []),
        ("vault-copy", ["keys"], []),
        ("cloud", ["accounts", "mail"], []),
    ],
)
def test_what_is_to_be_in_a_repository_and_where_it_goes_from_there(
    name: str, jobs: list[str], copies: list[str]
) -> None:
    assert [one.name for one in PLAN.jobs_in(name)] == jobs
    assert [one.name for one in PLAN.copies_of(name)] == copies
