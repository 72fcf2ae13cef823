"""`bursar org`: organizations, each with books of its own."""

from typing import Annotated, Final

import typer

from bursar.client import new_request_id
from bursar.v1 import identity_pb2
from bursar_cli import typed
from bursar_cli.cells import Column, when_set
from bursar_cli.verbs import Session, changes, noun, verb

app = noun("org", "Organizations: each has its own currency, keys, budgets and ledger.")

COLUMNS: Final = (
    Column("Name", lambda org: org.name),
    Column("Display name", lambda org: org.display_name),
    Column("Currency", lambda org: org.currency),
    Column("Disabled", lambda org: org.disabled),
    Column("Created", lambda org: when_set(org, "create_time")),
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="acme or organizations/acme.")]
DisplayName = Annotated[str | None, typer.Option(help="What people read.")]


def _name(text: str) -> str:
    return typed.resource_name("organizations", text, "NAME")


@verb(app, "create", organization=False)
def create_organization(
    session: Session,
    name: Name,
    display_name: DisplayName = None,
    currency: Annotated[
        str, typer.Option(help="ISO 4217 code of its books; never changes.")
    ] = "USD",
) -> None:
    """Make an organization.

    bursar org create acme --currency EUR
    """
    session.show(
        session.client.organizations.CreateOrganization(
            identity_pb2.CreateOrganizationRequest(
                organization=identity_pb2.Organization(
                    name=_name(name), display_name=display_name or "", currency=currency
                ),
                request_id=new_request_id(),
            )
        ),
        COLUMNS,
    )


@verb(app, "list", organization=False)
def list_organizations(session: Session) -> None:
    """List the organizations.

    bursar org list -o json
    """
    session.show_list(
        session.client.organizations.ListOrganizations,
        identity_pb2.ListOrganizationsRequest(),
        COLUMNS,
    )


@verb(app, "show", organization=False)
def show_organization(session: Session, name: Name) -> None:
    """Show one organization.

    bursar org show acme
    """
    asked = identity_pb2.GetOrganizationRequest(name=_name(name))
    session.show(session.client.organizations.GetOrganization(asked), COLUMNS)


@verb(app, "update", organization=False)
def update_organization(
    session: Session,
    name: Name,
    display_name: DisplayName = None,
    disabled: Annotated[
        bool | None,
        typer.Option("--disabled/--enabled", help="Disabled: none of its calls is admitted."),
    ] = None,
) -> None:
    """Change an organization; sidecars know within a second.

    bursar org update acme --disabled
    """
    given, mask = changes(display_name=display_name, disabled=disabled)
    session.show(
        session.client.organizations.UpdateOrganization(
            identity_pb2.UpdateOrganizationRequest(
                organization=identity_pb2.Organization(name=_name(name), **given), update_mask=mask
            )
        ),
        COLUMNS,
    )


@verb(app, "delete", organization=False)
def delete_organization(session: Session, name: Name) -> None:
    """Remove an organization that is empty; one with a history can only be disabled.

    bursar org delete acme
    """
    asked = identity_pb2.DeleteOrganizationRequest(name=_name(name))
    session.client.organizations.DeleteOrganization(asked)
    session.deleted(asked.name)
