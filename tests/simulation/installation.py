"""What there is at the beginning of a history: organizations, keys and budgets, from its seed."""

from datetime import datetime, timedelta
from random import Random

from bursar_server.budgets.rules import WindowSpec
from bursar_server.budgets.store import BudgetRecord
from bursar_server.database.schema import PLATFORM_ORGANIZATION_ID
from bursar_server.identity.records import KeyRecord, OrganizationRecord
from bursar_sidecar.identity import hash_of
from tests.simulation.control_process import Time
from tests.simulation.database import EPOCH, Tables

ORGANIZATION = 2
TEAM = 30
KEYS = {41: "bk-one", 42: "bk-two", 43: "bk-three"}
SECOND_ORGANIZATION = 3
KEYS_OF = {ORGANIZATION: KEYS, SECOND_ORGANIZATION: {44: "bk-four", 45: "bk-five"}}
FIRST_SIDECAR = 50


def tables_of(random: Random, time: Time, second: Random | None) -> Tables:
    """What is in the database at first. `second` is given if there is a second organization."""
    tables = Tables()
    for id, slug in ((PLATFORM_ORGANIZATION_ID, "platform"), (ORGANIZATION, "acme")):
        tables.organizations[id] = OrganizationRecord(
            id, slug, slug, "USD", 0, False, 1, 0, EPOCH, EPOCH
        )
    # A little ago: a control plane whose clock is late would else look for spend before it.
    created = EPOCH + timedelta(microseconds=time.now_ns // 1000 - 100_000)
    lifetime = WindowSpec("lifetime")

    def short() -> WindowSpec:
        return WindowSpec("every", "second", random.choice((5, 20, 60)))

    def add(id: int, kind: str, scope_id: int, window: WindowSpec, *, soft: bool = False) -> None:
        organization = PLATFORM_ORGANIZATION_ID if kind == "platform" else ORGANIZATION
        tables.budgets[id] = BudgetRecord(
            id, f"b{id}", organization, "", kind, scope_id, "", (), (),  # type: ignore[arg-type]
            random.choice((40, 100, 250, 600)), "USD", window, "soft" if soft else "hard",
            False, 1, created, created,
        )  # fmt: skip

    add(11, "organization", ORGANIZATION, short() if random.random() < 0.5 else lifetime)
    if random.random() < 0.7:
        add(12, "team", TEAM, lifetime)
    if random.random() < 0.6:
        add(13, "key", 41, short())
    if random.random() < 0.4:
        add(14, "key", 42, lifetime, soft=True)
    if random.random() < 0.4:
        add(
            15, "platform", PLATFORM_ORGANIZATION_ID, short() if random.random() < 0.3 else lifetime
        )
    for id, secret in KEYS.items():
        team = TEAM if id != 43 else None
        tables.keys[hash_of(secret)] = KeyRecord(
            id, f"k{id}", "", ORGANIZATION, "acme", False, "USD", team, "t" if team else "", False,
            None, "", False, None, "", False, [], [], {}, None, None, False, hash_of(secret), "",
            EPOCH, EPOCH,
        )  # fmt: skip
    if second is not None:
        _second_organization(second, created, tables)
    return tables


def _second_organization(random: Random, created: datetime, tables: Tables) -> None:
    """Under the same platform: budgets for every level that there is, a key below all of them."""
    id = SECOND_ORGANIZATION
    tables.organizations[id] = OrganizationRecord(
        id, "globex", "globex", "USD", 0, False, 1, 0, EPOCH, EPOCH
    )
    scopes = (("organization", id), ("team", 31), ("project", 32), ("user", 33), ("key", 44))
    for budget_id, (kind, scope_id) in enumerate(scopes, 21):
        if random.random() < 0.75:
            span = WindowSpec("every", "second", random.choice((5, 20, 60)))
            tables.budgets[budget_id] = BudgetRecord(
                budget_id, f"b{budget_id}", id, "", kind, scope_id, "", (), (),  # type: ignore[arg-type]
                random.choice((40, 100, 250)), "USD",
                span if random.random() < 0.4 else WindowSpec("lifetime"),
                "soft" if random.random() < 0.1 else "hard", False, 1, created, created,
            )  # fmt: skip
    for key_id, secret in KEYS_OF[id].items():
        inner = key_id == 44
        tables.keys[hash_of(secret)] = KeyRecord(
            key_id, f"k{key_id}", "", id, "globex", False, "USD",
            31 if inner else None, "t" if inner else "", False,
            32 if inner else None, "p" if inner else "", False,
            33 if inner else None, "u" if inner else "", False,
            [], [], {}, None, None, False, hash_of(secret), "", EPOCH, EPOCH,
        )  # fmt: skip


def applicable(key: KeyRecord, tables: Tables) -> set[int]:
    """The budgets a call of the key falls under, worked out the plain way."""
    scopes = {
        ("platform", PLATFORM_ORGANIZATION_ID), ("organization", key.organization_id),
        ("key", key.id), ("team", key.team_id), ("project", key.project_id),
        ("user", key.user_id),
    }  # fmt: skip
    return {b.id for b in tables.budgets.values() if (b.scope_kind, b.scope_id) in scopes}
