"""The rpcs on budgets, against a real database."""

from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from bursar.v1 import budgets_pb2, money_pb2
from bursar.windows import parse_window
from bursar_server.budgets.rules import window_at
from bursar_server.budgets.service import MOST_BUDGETS_OF_A_SCOPE, BudgetService
from bursar_server.budgets.store import budgets_by_ids, budgets_by_scopes
from bursar_server.changes import Change, ChangeFeed, ChangeKind
from bursar_server.database.pool import Pool
from bursar_server.database.schema import PLATFORM_ORGANIZATION_ID
from bursar_server.errors import BursarError, Status
from tests.postgres.rows import NOW, FixedClock, House, make_house

USD = 1_000_000_000
DAY = budgets_pb2.TIME_UNIT_DAY
MONTH = budgets_pb2.TIME_UNIT_MONTH
CALENDAR = budgets_pb2.Window.Calendar


async def nothing_is_lent(organization_id: int, budget_id: int) -> None:
    """Nobody lends from the budgets of these tests: a change holds as soon as it is committed."""


@pytest.fixture
async def house(pool: Pool) -> House:
    return await make_house(pool)


@pytest.fixture
def changes() -> list[Change]:
    return []


@pytest.fixture
def service(pool: Pool, changes: list[Change]) -> BudgetService:
    feed = ChangeFeed()
    feed.listen(changes.append)
    return BudgetService(pool, feed, FixedClock(), nothing_is_lent)


def wanted(**changed: object) -> budgets_pb2.Budget:
    fields: dict[str, object] = {
        "organization": "organizations/acme",
        "scope": "teams/search",
        "limit": money_pb2.Money(nanos=10 * USD, currency="USD"),
        "window": parse_window("monthly", "Europe/Berlin"),
    }
    return budgets_pb2.Budget(**{**fields, **changed})  # type: ignore[arg-type]  # by name, from a table


async def create(service: BudgetService, **changed: object) -> budgets_pb2.Budget:
    return await service.CreateBudget(
        budgets_pb2.CreateBudgetRequest(budget=wanted(**changed)), None
    )


async def update(
    service: BudgetService, budget: budgets_pb2.Budget, *paths: str
) -> budgets_pb2.Budget:
    return await service.UpdateBudget(
        budgets_pb2.UpdateBudgetRequest(budget=budget, update_mask=FieldMask(paths=paths)), None
    )


async def policy_version(pool: Pool, house: House) -> int:
    version = await pool.fetchval(
        "SELECT policy_version FROM organizations WHERE id = $1", house.organization
    )
    assert isinstance(version, int)
    return version


async def test_a_budget_is_made_and_read_back(
    service: BudgetService, house: House, pool: Pool, changes: list[Change]
) -> None:
    before = await policy_version(pool, house)
    made = await create(
        service,
        name="budgets/search-monthly",
        display_name="Search, monthly",
        selector=budgets_pb2.Selector(models=["gpt-4o*"], providers=["openai"]),
        enforcement=budgets_pb2.ENFORCEMENT_SOFT,
    )
    assert made.name == "budgets/search-monthly"
    assert made.version == 1
    assert made.scope == "teams/search"
    assert made.selector.models == ["gpt-4o*"]
    assert made.window == parse_window("monthly", "Europe/Berlin")
    assert made.enforcement == budgets_pb2.ENFORCEMENT_SOFT
    assert not made.HasField("standing")
    got = await service.GetBudget(budgets_pb2.GetBudgetRequest(name=made.name), None)
    assert got == made
    assert await policy_version(pool, house) == before + 1
    assert [(change.organization_id, change.kind) for change in changes] == [
        (house.organization, ChangeKind.BUDGET)
    ]


async def test_the_name_is_made_by_the_server(service: BudgetService, house: House) -> None:
    made = await create(service, limit=money_pb2.Money(nanos=0))
    assert made.name.startswith("budgets/b-")
    assert made.display_name == made.name.removeprefix("budgets/")
    assert made.limit == money_pb2.Money(nanos=0, currency="USD")
    assert made.enforcement == budgets_pb2.ENFORCEMENT_HARD


@pytest.mark.parametrize(
    "scope", ["organizations/acme", "teams/search", "projects/answers", "users/ada", "keys/k-1"]
)
async def test_every_level_can_have_budgets(
    service: BudgetService, house: House, pool: Pool, scope: str
) -> None:
    first = await create(service, scope=scope)
    second = await create(service, scope=scope, window=parse_window("lifetime"), disabled=True)
    kind = scope.partition("/")[0].removesuffix("s")
    ids = {
        "organization": house.organization,
        "team": house.team,
        "project": house.project,
        "user": house.user,
        "key": house.key,
    }
    async with pool.acquire() as connection:
        found = await budgets_by_scopes(connection, house.organization, [(kind, ids[kind])])
        assert [f"budgets/{record.slug}" for record in found] == [first.name, second.name]
        assert {record.scope_name for record in found} == {scope}
        assert [record.disabled for record in found] == [False, True]
        by_id = await budgets_by_ids(connection, house.organization, [found[1].id, 1])
        assert by_id == found[1:]
        assert window_at(found[1].window, NOW, created_at=found[1].created_at).end_at is None


@pytest.mark.parametrize(
    "word", ["daily", "calendar:week@7", "48h", "3mo", "every:30d", "lifetime", "calendar:day@23"]
)
async def test_every_window_comes_back_as_it_went(
    service: BudgetService, house: House, word: str
) -> None:
    window = parse_window(word, "America/New_York")
    assert (await create(service, window=window)).window == window
    started = parse_window("every:2w@2026-01-01T00:00:00Z", "UTC")
    assert (await create(service, window=started)).window == started


async def test_a_platform_budget_belongs_to_the_platform(
    service: BudgetService, house: House, pool: Pool
) -> None:
    made = await create(
        service, organization="organizations/platform", scope="organizations/platform"
    )
    assert made.scope == "organizations/platform"
    async with pool.acquire() as connection:
        found = await budgets_by_scopes(
            connection, PLATFORM_ORGANIZATION_ID, [("platform", PLATFORM_ORGANIZATION_ID)]
        )
    assert [record.scope_kind for record in found] == ["platform"]


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"limit": money_pb2.Money(nanos=-1, currency="USD")}, "budget.limit.nanos"),
        ({"limit": money_pb2.Money(nanos=10**18 + 1, currency="USD")}, "budget.limit.nanos"),
        ({"limit": money_pb2.Money(nanos=1, currency="EUR")}, "budget.limit.currency"),
        ({"limit": money_pb2.Money(nanos=1, currency="BTC")}, "budget.limit.currency"),
        ({"limit": None}, "budget.limit"),
        ({"window": None}, "budget.window"),
        ({"window": budgets_pb2.Window()}, "budget.window.kind"),
        (
            {"window": budgets_pb2.Window(calendar=budgets_pb2.Window.Calendar())},
            "budget.window.calendar.unit",
        ),
        (
            {"window": budgets_pb2.Window(every=budgets_pb2.Window.Every(count=0, unit=DAY))},
            "budget.window.every.count",
        ),
        (
            {"window": budgets_pb2.Window(every=budgets_pb2.Window.Every(count=10_001, unit=DAY))},
            "budget.window.every.count",
        ),
        (
            {"window": budgets_pb2.Window(time_zone="Mars/Base", calendar=CALENDAR(unit=MONTH))},
            "budget.window.time_zone",
        ),
        (
            {"window": budgets_pb2.Window(calendar=CALENDAR(unit=MONTH, anchor=29))},
            "budget.window.calendar.anchor",
        ),
        ({"scope": ""}, "budget.scope"),
        ({"scope": "galaxies/milky-way"}, "budget.scope"),
        ({"scope": "organizations/platform"}, "budget.scope"),
        ({"scope": "organizations/other"}, "budget.scope"),
        ({"scope": "teams/"}, "budget.scope"),
        ({"selector": budgets_pb2.Selector(models=[""])}, "budget.selector.models[0]"),
        ({"selector": budgets_pb2.Selector(models=["*" * 9])}, "budget.selector.models[0]"),
        (
            {"selector": budgets_pb2.Selector(providers=["openai", "o*"])},
            "budget.selector.providers[1]",
        ),
        ({"enforcement": 9}, "budget.enforcement"),
        ({"name": "budgets/Nope"}, "budget.name"),
        ({"display_name": "x" * 201}, "budget.display_name"),
        ({"organization": "acme"}, "budget.organization"),
    ],
)
async def test_impossible_budgets_are_refused_by_field(
    service: BudgetService,
    house: House,
    pool: Pool,
    changes: list[Change],
    changed: dict[str, object],
    field: str,
) -> None:
    with pytest.raises(BursarError) as refused:
        await create(service, **changed)
    assert refused.value.status is Status.INVALID_ARGUMENT
    assert [violation.field for violation in refused.value.field_violations] == [field]
    assert await pool.fetchval("SELECT count(*) FROM budgets") == 0
    assert await policy_version(pool, house) == 1
    assert changes == []


async def test_a_scope_must_exist(service: BudgetService, house: House, pool: Pool) -> None:
    await make_house(pool, "other")
    with pytest.raises(BursarError) as refused:
        await create(service, scope="teams/nobody")
    assert refused.value.reason == "TEAM_NOT_FOUND"
    with pytest.raises(BursarError) as refused:
        await create(service, organization="organizations/other", scope="organizations/acme")
    assert refused.value.status is Status.INVALID_ARGUMENT


async def test_a_taken_name_is_refused(service: BudgetService, house: House) -> None:
    await create(service, name="budgets/one")
    with pytest.raises(BursarError) as refused:
        await create(service, name="budgets/one")
    assert refused.value.status is Status.ALREADY_EXISTS


async def test_a_repeated_create_makes_one(
    service: BudgetService, house: House, pool: Pool, changes: list[Change]
) -> None:
    request = budgets_pb2.CreateBudgetRequest(
        budget=wanted(), request_id="3d0ca315-aff9-4fc2-be61-3b76b9a2d798"
    )
    first = await service.CreateBudget(request, None)
    assert await service.CreateBudget(request, None) == first
    assert await pool.fetchval("SELECT count(*) FROM budgets") == 1
    assert len(changes) == 1
    request.budget.limit.nanos += 1
    with pytest.raises(BursarError) as refused:
        await service.CreateBudget(request, None)
    assert refused.value.reason == "REQUEST_ID_REUSED"


async def test_a_change_is_a_version(
    service: BudgetService, house: House, pool: Pool, changes: list[Change]
) -> None:
    made = await create(service)
    made.limit.nanos = 5 * USD
    made.display_name = "not asked for"
    lowered = await update(service, made, "limit")
    assert (lowered.limit.nanos, lowered.version) == (5 * USD, 2)
    assert lowered.display_name != "not asked for"
    lowered.disabled = True
    lowered.display_name = ""
    off = await update(service, lowered, "disabled", "display_name")
    assert (off.disabled, off.version, off.display_name) == (True, 3, made.name[8:])
    rows = await pool.fetch(
        "SELECT version, limit_nanos, disabled, actor FROM budget_versions ORDER BY version"
    )
    assert [tuple(row) for row in rows] == [
        (1, 10 * USD, False, "admin"),
        (2, 5 * USD, False, "admin"),
        (3, 5 * USD, True, "admin"),
    ]
    assert len(changes) == 3
    with pytest.raises(asyncpg.PostgresError):
        await pool.execute("UPDATE budget_versions SET limit_nanos = 0")


@pytest.mark.parametrize("path", ["scope", "window", "selector.models", "enforcement", "name"])
async def test_what_never_changes_is_refused(
    service: BudgetService, house: House, path: str
) -> None:
    made = await create(service)
    with pytest.raises(BursarError) as refused:
        await update(service, made, path)
    assert refused.value.reason == "BUDGET_FIELD_IMMUTABLE"
    assert "make a new budget" in refused.value.message
    assert (await update(service, made, "limit")).version == 2


@pytest.mark.parametrize("paths", [[], ["version"], ["limit", "nonsense"]])
async def test_a_mask_names_what_can_change(
    service: BudgetService, house: House, paths: list[str]
) -> None:
    made = await create(service)
    with pytest.raises(BursarError) as refused:
        await update(service, made, *paths)
    assert refused.value.status is Status.INVALID_ARGUMENT


async def test_what_is_not_there_is_not_found(service: BudgetService, house: House) -> None:
    gone = budgets_pb2.Budget(organization="organizations/acme", name="budgets/gone")
    with pytest.raises(BursarError) as refused:
        await update(service, gone, "disabled")
    assert refused.value.reason == "BUDGET_NOT_FOUND"
    for call in (
        service.GetBudget(budgets_pb2.GetBudgetRequest(name=gone.name), None),
        service.DeleteBudget(budgets_pb2.DeleteBudgetRequest(name=gone.name), None),
    ):
        with pytest.raises(BursarError) as refused:
            await call
        assert refused.value.status is Status.NOT_FOUND


async def test_budgets_come_in_pages(service: BudgetService, house: House) -> None:
    names = [f"budgets/b{number}" for number in range(5)]
    for name in reversed(names):
        scope = "users/ada" if name.endswith("3") else "teams/search"
        await create(service, name=name, scope=scope)
    request = budgets_pb2.ListBudgetsRequest(page_size=2)
    seen = []
    while True:
        page = await service.ListBudgets(request, None)
        seen += [budget.name for budget in page.budgets]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert seen == names
    of_ada = await service.ListBudgets(budgets_pb2.ListBudgetsRequest(scope="users/ada"), None)
    assert [budget.name for budget in of_ada.budgets] == ["budgets/b3"]


async def test_a_scope_is_not_crowded(service: BudgetService, house: House) -> None:
    made = [await create(service) for _ in range(MOST_BUDGETS_OF_A_SCOPE)]
    with pytest.raises(BursarError) as refused:
        await create(service)
    assert refused.value.reason == "TOO_MANY_BUDGETS"
    made[0].disabled = True
    await update(service, made[0], "disabled")
    await create(service)
    made[0].disabled = False
    with pytest.raises(BursarError) as refused:
        await update(service, made[0], "disabled")
    assert refused.value.reason == "TOO_MANY_BUDGETS"


async def open_window(
    pool: Pool, house: House, name: str, start: datetime, end: datetime | None
) -> None:
    await pool.execute(
        """
        INSERT INTO budget_windows (organization_id, budget_id, start_at, end_at, limit_nanos,
            budget_version, ceiling_nanos, settled_nanos, outstanding_nanos, in_doubt_nanos,
            overrun_nanos, hard)
        SELECT $1, id, $3, $4, 100, 1, 100, 40, 30, 20, 5, true FROM budgets WHERE slug = $2
        """,
        house.organization,
        name.removeprefix("budgets/"),
        start,
        end,
    )


async def test_a_budget_says_how_it_stands_now(
    service: BudgetService, house: House, pool: Pool
) -> None:
    made = await create(service)
    begin, end = datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC)
    await open_window(pool, house, made.name, begin - timedelta(days=28), begin)
    request = budgets_pb2.GetBudgetRequest(name=made.name)
    assert not (await service.GetBudget(request, None)).HasField("standing")
    await open_window(pool, house, made.name, begin, end)
    standing = (await service.GetBudget(request, None)).standing
    assert standing.window_start_time.ToDatetime(tzinfo=UTC) == begin
    assert standing.window_end_time.ToDatetime(tzinfo=UTC) == end
    amounts = [
        standing.limit.nanos,
        standing.settled.nanos,
        standing.outstanding.nanos,
        standing.in_doubt.nanos,
        standing.overrun.nanos,
        standing.available.nanos,
    ]
    assert amounts == [100, 40, 30, 20, 5, 10]


async def test_a_budget_goes_only_while_nothing_was_lent(
    service: BudgetService, house: House, pool: Pool, changes: list[Change]
) -> None:
    made = await create(service)
    request = budgets_pb2.DeleteBudgetRequest(name=made.name)
    await service.DeleteBudget(request, None)
    assert len(changes) == 2
    assert await pool.fetchval("SELECT count(*) FROM budget_versions") == 1
    used = await create(service)
    await open_window(pool, house, used.name, NOW, None)
    with pytest.raises(BursarError) as refused:
        await service.DeleteBudget(budgets_pb2.DeleteBudgetRequest(name=used.name), None)
    assert refused.value.reason == "BUDGET_IN_USE"
