"""The demo organization: something to look at, and to spend from, within the first minute."""

from typing import Any

import grpc

from bursar.client import AsyncBursarClient, BursarError, new_request_id
from bursar.money import NANOS_PER_UNIT
from bursar.v1 import budgets_pb2, identity_pb2, money_pb2, prices_pb2

CURRENCY = "USD"
TEAMS = {"search": "Search", "support": "Customer support"}
USERS = {"ada": "Ada", "grace": "Grace"}
PROJECTS = {"answers": ("Answers", "search"), "tickets": ("Tickets", "support")}
# name: (what people read, team, project, user)
KEYS = {
    "k-demo": ("Demo app", "search", "answers", "ada"),
    "k-tickets": ("Ticket robot", "support", "tickets", "grace"),
}
# name: (what people read, scope, whole units of the currency, unit of the window)
BUDGETS = {
    "b-acme-monthly": ("All of Acme", None, 100, budgets_pb2.TIME_UNIT_MONTH),
    "b-search-monthly": ("Search", "teams/search", 10, budgets_pb2.TIME_UNIT_MONTH),
    "b-demo-daily": ("Demo app", "keys/k-demo", 1, budgets_pb2.TIME_UNIT_DAY),
}
# A model of the house's own that no public price list knows, so that a custom price can be seen.
HOUSE_MODEL = "acme-house-1"
HOUSE_RATES = {"input": "0.10", "output": "0.40"}
LLM_TOKENS_OF_A_RATE = 1_000_000


async def make(client: AsyncBursarClient, organization: str, app_keys: dict[str, str]) -> None:
    """Make what is missing of the demo; secrets of keys are put into `app_keys` by name.

    Raises BursarError.
    """
    await _make_people(client, organization)
    for key in KEYS:
        name = f"keys/{key}"
        app_keys[name] = await _make_key(client, organization, key, app_keys.get(name, ""))
    for budget in BUDGETS:
        await _make_budget(client, organization, budget)
    await _make_price(client, organization)


async def _unless_there(call: Any, request: Any) -> Any | None:
    """The answer of a Create; None if the thing exists."""
    try:
        return await call(request)
    except BursarError as error:
        if error.status is grpc.StatusCode.ALREADY_EXISTS:
            return None
        raise


async def _make_people(client: AsyncBursarClient, organization: str) -> None:
    for team, title in TEAMS.items():
        await _unless_there(
            client.teams.CreateTeam,
            identity_pb2.CreateTeamRequest(
                team=identity_pb2.Team(
                    name=f"teams/{team}", organization=organization, display_name=title
                ),
                request_id=new_request_id(),
            ),
        )
    for user, title in USERS.items():
        await _unless_there(
            client.users.CreateUser,
            identity_pb2.CreateUserRequest(
                user=identity_pb2.User(
                    name=f"users/{user}", organization=organization, display_name=title
                ),
                request_id=new_request_id(),
            ),
        )
    for project, (title, team) in PROJECTS.items():
        await _unless_there(
            client.projects.CreateProject,
            identity_pb2.CreateProjectRequest(
                project=identity_pb2.Project(
                    name=f"projects/{project}",
                    organization=organization,
                    display_name=title,
                    team=f"teams/{team}",
                ),
                request_id=new_request_id(),
            ),
        )


async def _make_key(client: AsyncBursarClient, organization: str, key: str, known: str) -> str:
    """The key's secret: the known one if the control plane knows it too."""
    title, team, project, user = KEYS[key]
    name = f"keys/{key}"
    created = await _unless_there(
        client.keys.CreateKey,
        identity_pb2.CreateKeyRequest(
            key=identity_pb2.Key(
                name=name,
                organization=organization,
                display_name=title,
                team=f"teams/{team}",
                project=f"projects/{project}",
                user=f"users/{user}",
            ),
            request_id=new_request_id(),
        ),
    )
    if created is not None:
        return str(created.secret)
    there = await client.keys.GetKey(
        identity_pb2.GetKeyRequest(organization=organization, name=name)
    )
    # A key that an admin revoked stays so, and its old secret is as good as any.
    if known and (known.startswith(there.secret_prefix) or there.HasField("revoke_time")):
        return known
    rotated = await client.keys.RotateKey(
        identity_pb2.RotateKeyRequest(organization=organization, name=name)
    )
    return str(rotated.secret)


async def _make_budget(client: AsyncBursarClient, organization: str, budget: str) -> None:
    title, scope, units, window_unit = BUDGETS[budget]
    await _unless_there(
        client.budgets.CreateBudget,
        budgets_pb2.CreateBudgetRequest(
            budget=budgets_pb2.Budget(
                name=f"budgets/{budget}",
                organization=organization,
                display_name=title,
                scope=scope or organization,
                limit=money_pb2.Money(nanos=units * NANOS_PER_UNIT, currency=CURRENCY),
                window=budgets_pb2.Window(
                    calendar=budgets_pb2.Window.Calendar(unit=window_unit), time_zone="UTC"
                ),
                enforcement=budgets_pb2.ENFORCEMENT_HARD,
            ),
            request_id=new_request_id(),
        ),
    )


async def _make_price(client: AsyncBursarClient, organization: str) -> None:
    """The house model's price, unless it has one: every Set makes a new version."""
    try:
        await client.prices.GetPrice(
            prices_pb2.GetPriceRequest(organization=organization, model=HOUSE_MODEL)
        )
    except BursarError as error:
        if error.status is not grpc.StatusCode.NOT_FOUND:
            raise
    else:
        return
    await client.prices.SetPrice(
        prices_pb2.SetPriceRequest(
            organization=organization,
            price=prices_pb2.Price(
                provider="openai",
                model=HOUSE_MODEL,
                currency=CURRENCY,
                components=[
                    prices_pb2.PriceComponent(meter=meter, rate=rate, per=LLM_TOKENS_OF_A_RATE)
                    for meter, rate in HOUSE_RATES.items()
                ],
                max_input_llm_tokens=128_000,
                max_output_llm_tokens=16_384,
                mode="chat",
            ),
            request_id=new_request_id(),
        )
    )
