"""Agents, tokens and rosters as stored: a token is spent once, a name is one agent's, rosters only go forward."""

import threading

import pytest
from sqlalchemy import select

from smartmail.core.roster import CheckKind, CheckSpec, Roster
from smartmail.store import agents
from smartmail.store.agents import Enrolment
from smartmail.store.database import Database
from smartmail.store.errors import Conflict, Invalid, NotFound, StoreError
from smartmail.store.schema_monitor import enrolment_token

NOW = 1_790_000_000_000
HOUR = 3_600_000
KEY = "A" * 43 + "="


def add_token(database: Database, digest: str = "d1", location: str = "london", life_ms: int = HOUR) -> None:
    with database.write() as connection:
        agents.add_token(connection, digest, location, made_by="anna", made_ms=NOW, expires_ms=NOW + life_ms)


def enrol(database: Database, digest: str = "d1", name: str = "london-1", at_ms: int = NOW + 1) -> None:
    with database.write() as connection:
        agents.enrol(connection, Enrolment(digest, name, "london", KEY), at_ms)


def spent(database: Database) -> list[int | None]:
    with database.read() as connection:
        return list(connection.execute(select(enrolment_token.c.used_ms)).scalars())


def test_an_enrolled_agent_is_known_by_its_key_and_location(database: Database) -> None:
    add_token(database)
    enrol(database)
    with database.read() as connection:
        found = agents.find_agent(connection, "london-1")
        assert found == agents.AgentRecord("london-1", "london", KEY, NOW + 1, None, None, None)
        assert agents.find_agent(connection, "paris-1") is None
        assert agents.list_agents(connection) == [found]


def test_a_token_enrols_one_agent_only(database: Database) -> None:
    add_token(database)
    enrol(database)
    with pytest.raises(agents.TokenUsed):
        enrol(database, name="london-2")
    with database.read() as connection:
        assert [one.name for one in agents.list_agents(connection)] == ["london-1"]


def test_an_expired_token_enrols_nobody(database: Database) -> None:
    add_token(database)
    with pytest.raises(agents.TokenExpired):
        enrol(database, at_ms=NOW + HOUR)
    enrol(database, at_ms=NOW + HOUR - 1)


def test_a_token_of_another_location_is_unknown(database: Database) -> None:
    add_token(database, location="paris")
    with pytest.raises(agents.TokenUnknown):
        enrol(database)
    assert spent(database) == [None]


def test_a_name_in_use_is_refused_and_the_token_not_spent(database: Database) -> None:
    add_token(database)
    enrol(database)
    add_token(database, "d2")
    with pytest.raises(Conflict):
        enrol(database, "d2")
    assert spent(database) == [NOW + 1, None]


def test_a_revoked_name_may_be_used_again_with_a_new_token(database: Database) -> None:
    add_token(database)
    enrol(database)
    with database.write() as connection:
        agents.revoke(connection, "london-1", NOW + 2)
    add_token(database, "d2")
    enrol(database, "d2", at_ms=NOW + 3)
    with database.read() as connection:
        found = agents.find_agent(connection, "london-1")
    assert found is not None
    assert (found.revoked_ms, found.enrolled_ms) == (None, NOW + 3)


def test_two_who_come_with_the_same_token_at_once_one_is_enrolled(database: Database) -> None:
    add_token(database)
    ready, refused = threading.Barrier(4), []

    def come(name: str) -> None:
        ready.wait()
        try:
            enrol(database, name=name)
        except agents.TokenUsed:
            refused.append(name)

    threads = [threading.Thread(target=come, args=(f"london-{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 3
    with database.read() as connection:
        assert len(agents.list_agents(connection)) == 1


@pytest.mark.parametrize("location", ["../london", "london/1", "", "London", "a" * 41, "london\n", "-london"])
def test_a_path_in_a_locations_name_is_refused(database: Database, location: str) -> None:
    with pytest.raises(Invalid):
        add_token(database, location=location)
    assert spent(database) == []


@pytest.mark.parametrize("life_ms", [0, -1, agents.TOKEN_LIFE_MS + 1])
def test_a_token_for_ever_or_never_is_refused(database: Database, life_ms: int) -> None:
    with pytest.raises(Invalid):
        add_token(database, life_ms=life_ms)


@pytest.mark.parametrize(("name", "error"), [("paris-1", NotFound), ("london-1", Conflict)])
def test_who_cannot_be_revoked(database: Database, name: str, error: type[StoreError]) -> None:
    add_token(database)
    enrol(database)
    with database.write() as connection:
        agents.revoke(connection, "london-1", NOW)
    with pytest.raises(error), database.write() as connection:
        agents.revoke(connection, name, NOW)


def test_when_an_agent_was_seen_is_kept(database: Database) -> None:
    add_token(database)
    enrol(database)
    with database.write() as connection:
        agents.note_seen(connection, "london-1", NOW + 9, -250)
        found = agents.find_agent(connection, "london-1")
    assert found is not None
    assert (found.last_seen_ms, found.offset_ms) == (NOW + 9, -250)


def roster(version: int, from_minute: int) -> Roster:
    check = CheckSpec(f"check-{version}", "cluster-a", CheckKind.IMAPS, "mail.example.com", 993, ("london",))
    return Roster(version, from_minute, ("london",), (check,))


@pytest.fixture
def history(database: Database) -> Database:
    with database.write() as connection:
        for version, minute in ((1, 100), (2, 200), (3, 200), (4, 300)):
            agents.add_roster(connection, roster(version, minute))
    return database


@pytest.mark.parametrize(
    ("minute", "versions"), [(99, [1, 2, 3, 4]), (100, [1, 2, 3, 4]), (200, [3, 4]), (299, [3, 4]), (300, [4])]
)
def test_case_09_the_roster_in_force_and_those_to_come(history: Database, minute: int, versions: list[int]) -> None:
    with history.read() as connection:
        assert [one.version for one in agents.rosters_from(connection, minute)] == versions


def test_the_history_of_rosters_is_whole(history: Database) -> None:
    with history.read() as connection:
        assert agents.roster_history(connection) == [roster(1, 100), roster(2, 200), roster(3, 200), roster(4, 300)]


@pytest.mark.parametrize(("version", "minute"), [(4, 400), (3, 400), (5, 299)])
def test_a_roster_that_reaches_back_is_refused(history: Database, version: int, minute: int) -> None:
    with pytest.raises(Conflict), history.write() as connection:
        agents.add_roster(connection, roster(version, minute))
