"""Rows that tests start from: an organization with a team, a project, a user and a key."""

from datetime import UTC, datetime

import msgspec

from bursar_server.database.pool import Pool
from bursar_server.identity import store as identity

NOW = datetime(2026, 3, 15, 12, 0, tzinfo=UTC)


class FixedClock:
    """A clock that stands where a test puts it."""

    def __init__(self, now: datetime = NOW) -> None:
        self.time = now

    def now(self) -> datetime:
        """The time it was set to."""
        return self.time

    def monotonic(self) -> float:
        """The same, in seconds."""
        return self.time.timestamp()

    def monotonic_ms(self) -> int:
        """The same, in milliseconds."""
        return int(self.time.timestamp() * 1000)


class House(msgspec.Struct, frozen=True):
    """The ids of an organization and of what is in it."""

    organization: int
    team: int
    project: int
    user: int
    key: int


async def make_house(pool: Pool, slug: str = "acme", currency: str = "USD") -> House:
    """An organization called `slug` with teams/search, projects/answers, users/ada, keys/k-1."""
    async with pool.acquire() as connection, connection.transaction():
        organization = await identity.insert_organization(connection, slug, slug, currency)
        assert organization is not None
        ids = {}
        for table, name in (("teams", "search"), ("projects", "answers"), ("users", "ada")):
            ids[table] = await identity.insert_spender(
                connection, table, organization, name, {"display_name": name}
            )
        key = await identity.insert_spender(
            connection,
            "keys",
            organization,
            "k-1",
            {
                "display_name": "k-1",
                "team_id": ids["teams"],
                "project_id": ids["projects"],
                "user_id": ids["users"],
                "secret_hash": f"{slug}/k-1".encode(),
                "secret_prefix": "bk-1",
            },
        )
    team, project, user = ids["teams"], ids["projects"], ids["users"]
    assert team is not None
    assert project is not None
    assert user is not None
    assert key is not None
    return House(organization, team, project, user, key)
