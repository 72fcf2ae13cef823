"""`bursar key`: what apps present to a sidecar."""

from datetime import datetime
from typing import Annotated, Any, Final

import typer
from google.protobuf.timestamp_pb2 import Timestamp

from bursar.client import BursarError, new_request_id
from bursar.v1 import budgets_pb2, identity_pb2
from bursar_cli import policy, typed
from bursar_cli.budget import TimeZoneOption, WindowOption
from bursar_cli.cells import Column, when_set
from bursar_cli.policy import WaitOption
from bursar_cli.typed import UsageFault
from bursar_cli.verbs import Session, changes, noun, verb

app = noun("key", "Keys: what an app presents to a sidecar. A secret is shown once, when made.")

# The budget of `--max-budget` counts over this when no window was typed.
DEFAULT_WINDOW: Final = "lifetime"


def _state(key: identity_pb2.Key) -> str:
    if key.HasField("revoke_time"):
        return "revoked"
    return "disabled" if key.disabled else "active"


COLUMNS: Final = (
    Column("Name", lambda key: key.name),
    Column("Display name", lambda key: key.display_name, wide=True),
    Column("Secret", lambda key: f"{key.secret_prefix}..." if key.secret_prefix else ""),
    Column("Team", lambda key: key.team),
    Column("Project", lambda key: key.project),
    Column("User", lambda key: key.user),
    Column("Models", lambda key: list(key.allowed_models)),
    Column("Tags", lambda key: list(key.tags), wide=True),
    Column("State", _state),
    Column("Expires", lambda key: when_set(key, "expire_time")),
    Column("Created", lambda key: when_set(key, "create_time"), wide=True),
    Column("Revoked", lambda key: when_set(key, "revoke_time"), wide=True),
    Column(
        "Metadata", lambda key: [f"{k}={v}" for k, v in sorted(key.metadata.items())], wide=True
    ),
    Column("Organization", lambda key: key.organization, wide=True),
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="k-3f9a1c07d2e4 or keys/k-3f9a1c07d2e4.")]
Team = Annotated[str, typer.Option(help="The team it spends for.", show_default=False)]
Project = Annotated[str, typer.Option(help="The project it spends for.", show_default=False)]
User = Annotated[str, typer.Option(help="The user it belongs to.", show_default=False)]
DisplayName = Annotated[str | None, typer.Option(help="What people read.")]
Models = Annotated[
    list[str] | None,
    typer.Option(
        metavar="GLOBS", help='Models it may call, such as gpt-4o*,openai/*. "" means every model.'
    ),
]
Expires = Annotated[
    str | None,
    typer.Option(metavar="WHEN", help='90d, 12h, 2026-12-31, a date and time, or "never".'),
]
Metadata = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=VALUE", help='A label; may be repeated. "" takes all away.'),
]
Tags = Annotated[
    list[str] | None,
    typer.Option(
        "--tag", help='Written on each of its charges; may be repeated. "" takes all away.'
    ),
]


def _name(text: str) -> str:
    return typed.resource_name("keys", text, "NAME")


def _expiry(text: str | None, now: datetime) -> Timestamp | None:
    """When a key ends; None for never."""
    if text is None or text in {"", "never"}:
        return None
    found = Timestamp()
    found.FromDatetime(typed.coming_instant(text, "--expires", now, typed.zone("")))
    return found


@verb(app, "create")
def create_key(
    session: Session,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Made by the server if left out.")
    ] = "",
    team: Team = "",
    project: Project = "",
    user: User = "",
    display_name: DisplayName = None,
    models: Models = None,
    expires: Expires = None,
    metadata: Metadata = None,
    tags: Tags = None,
    max_budget: Annotated[
        str | None,
        typer.Option(metavar="AMOUNT", help="Also make a hard budget for this key alone."),
    ] = None,
    window: Annotated[str | None, WindowOption] = None,
    time_zone: Annotated[str, TimeZoneOption] = "",
) -> None:
    """Make a key, and its budget if --max-budget is given. The secret is shown once.

    bursar key create --team search --expires 90d
    bursar key create --max-budget 10 --window 1d -o json
    bursar key create ci --models 'gpt-4o*,openai/*' --metadata owner=ada --tag batch
    """
    if max_budget is None and (window is not None or time_zone):
        raise UsageFault("--window", "needs --max-budget")
    key = identity_pb2.Key(
        name=_name(name),
        organization=session.organization,
        display_name=display_name or "",
        team=typed.resource_name("teams", team, "--team"),
        project=typed.resource_name("projects", project, "--project"),
        user=typed.resource_name("users", user, "--user"),
        allowed_models=typed.words(models),
        metadata=typed.labels(metadata, "--metadata"),
        tags=typed.words(tags),
        expire_time=_expiry(expires, session.now),
    )
    budget = None
    if max_budget is not None:
        # Read before anything is made, so that a typing mistake leaves nothing behind.
        budget = budgets_pb2.Budget(
            window=typed.window(window or DEFAULT_WINDOW, time_zone),
            limit=session.amount(max_budget, "--max-budget"),
            enforcement=budgets_pb2.ENFORCEMENT_HARD,
        )
    made = session.client.keys.CreateKey(
        identity_pb2.CreateKeyRequest(key=key, request_id=new_request_id())
    )
    more = {"key": made.secret}
    if budget is not None:
        more["budget"] = _budget_of(session, made.key, budget)
    session.note("The secret is shown this once; who loses it rotates the key.")
    session.show(made.key, COLUMNS, more=more)


def _budget_of(session: Session, key: identity_pb2.Key, budget: budgets_pb2.Budget) -> str:
    """Make the key's budget; a key whose budget was refused is taken back."""
    budget.organization = key.organization
    budget.scope = key.name
    request = budgets_pb2.CreateBudgetRequest(budget=budget, request_id=new_request_id())
    try:
        return session.client.budgets.CreateBudget(request).name
    except BursarError:
        session.client.keys.DeleteKey(
            identity_pb2.DeleteKeyRequest(organization=key.organization, name=key.name)
        )
        raise


@verb(app, "list")
def list_keys(session: Session, team: Team = "", project: Project = "", user: User = "") -> None:
    """List keys, all or those of a team, project or user.

    bursar key list --team search
    """
    session.show_list(
        session.client.keys.ListKeys,
        identity_pb2.ListKeysRequest(
            organization=session.organization,
            team=typed.resource_name("teams", team, "--team"),
            project=typed.resource_name("projects", project, "--project"),
            user=typed.resource_name("users", user, "--user"),
        ),
        COLUMNS,
    )


@verb(app, "show")
def show_key(session: Session, name: Name) -> None:
    """Show one key, without its secret.

    bursar key show k-3f9a1c07d2e4
    """
    asked = identity_pb2.GetKeyRequest(organization=session.organization, name=_name(name))
    session.show(session.client.keys.GetKey(asked), COLUMNS)


@verb(app, "update")
def update_key(
    session: Session,
    name: Name,
    display_name: DisplayName = None,
    models: Models = None,
    expires: Expires = None,
    metadata: Metadata = None,
    tags: Tags = None,
    disabled: Annotated[
        bool | None, typer.Option("--disabled/--enabled", help="Disabled: it is refused.")
    ] = None,
) -> None:
    """Change a key; sidecars know within a second. Whom it spends for never changes.

    bursar key update k-3f9a1c07d2e4 --models 'gpt-4o-mini' --expires never
    """
    # "never" is a change without a value: the field is masked and left unset.
    expiry: Any = _expiry(expires, session.now)
    given, mask = changes(
        display_name=display_name,
        allowed_models=typed.words(models) if models else None,
        expire_time=None if expires is None else (expiry or Timestamp()),
        metadata=typed.labels(metadata, "--metadata") if metadata else None,
        tags=typed.words(tags) if tags else None,
        disabled=disabled,
    )
    if expires is not None and expiry is None:
        del given["expire_time"]
    session.show(
        session.client.keys.UpdateKey(
            identity_pb2.UpdateKeyRequest(
                key=identity_pb2.Key(name=_name(name), organization=session.organization, **given),
                update_mask=mask,
            )
        ),
        COLUMNS,
    )


@verb(app, "rotate")
def rotate_key(session: Session, name: Name) -> None:
    """Give a key a new secret, shown once; the old one stops within a second.

    bursar key rotate k-3f9a1c07d2e4 -o json
    """
    asked = identity_pb2.RotateKeyRequest(organization=session.organization, name=_name(name))
    made = session.client.keys.RotateKey(asked)
    session.note("The secret is shown this once. The old one is refused from now on.")
    session.show(made.key, COLUMNS, more={"key": made.secret})


@verb(app, "revoke")
def revoke_key(session: Session, name: Name, wait: WaitOption = False) -> None:
    """End a key for good, and say whether that is effective everywhere.

    Within a second where sidecars are connected; one that is cut off may go on for 30 s.

    bursar key revoke k-3f9a1c07d2e4 --wait
    """
    asked = identity_pb2.RevokeKeyRequest(organization=session.organization, name=_name(name))
    key = session.client.keys.RevokeKey(asked)
    wait_s = policy.LONGEST_WAIT_S if wait else policy.SOON_S
    found = policy.propagation(session, key.organization, key.name, wait_s=wait_s)
    session.show(key, COLUMNS, more=policy.summary(session, found))
    policy.show_pending(session, found)
    policy.insist(session, found, wait=wait)


@verb(app, "delete")
def delete_key(session: Session, name: Name) -> None:
    """Remove a key that never spent; one that did can only be revoked.

    bursar key delete k-3f9a1c07d2e4
    """
    asked = identity_pb2.DeleteKeyRequest(organization=session.organization, name=_name(name))
    session.client.keys.DeleteKey(asked)
    session.deleted(asked.name)
