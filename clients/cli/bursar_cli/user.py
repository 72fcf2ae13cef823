"""`bursar user`: people (or robots) who own keys."""

from typing import Annotated, Final

import typer

from bursar.client import new_request_id
from bursar.v1 import identity_pb2
from bursar_cli import typed
from bursar_cli.cells import Column, when_set
from bursar_cli.verbs import Session, changes, noun, verb

app = noun("user", "Users: people (or robots) inside an organization.")

COLUMNS: Final = (
    Column("Name", lambda user: user.name),
    Column("Display name", lambda user: user.display_name),
    Column("Email", lambda user: user.email),
    Column("Metadata", lambda user: [f"{k}={v}" for k, v in sorted(user.metadata.items())]),
    Column("Disabled", lambda user: user.disabled),
    Column("Created", lambda user: when_set(user, "create_time")),
    Column("Organization", lambda user: user.organization, wide=True),
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="ada or users/ada.")]
DisplayName = Annotated[str | None, typer.Option(help="What people read.")]
Email = Annotated[str | None, typer.Option(help='Where alerts go; "" takes it away.')]
Metadata = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=VALUE", help='A label; may be repeated. "" takes all away.'),
]


def _name(text: str) -> str:
    return typed.resource_name("users", text, "NAME")


@verb(app, "create")
def create_user(
    session: Session,
    name: Name,
    display_name: DisplayName = None,
    email: Email = None,
    metadata: Metadata = None,
) -> None:
    """Make a user.

    bursar user create ada --email ada@example.com
    """
    session.show(
        session.client.users.CreateUser(
            identity_pb2.CreateUserRequest(
                user=identity_pb2.User(
                    name=_name(name),
                    organization=session.organization,
                    display_name=display_name or "",
                    email=email or "",
                    metadata=typed.labels(metadata, "--metadata"),
                ),
                request_id=new_request_id(),
            )
        ),
        COLUMNS,
    )


@verb(app, "list")
def list_users(session: Session) -> None:
    """List the users.

    bursar user list -o json
    """
    session.show_list(
        session.client.users.ListUsers,
        identity_pb2.ListUsersRequest(organization=session.organization),
        COLUMNS,
    )


@verb(app, "show")
def show_user(session: Session, name: Name) -> None:
    """Show one user.

    bursar user show ada
    """
    asked = identity_pb2.GetUserRequest(organization=session.organization, name=_name(name))
    session.show(session.client.users.GetUser(asked), COLUMNS)


@verb(app, "update")
def update_user(
    session: Session,
    name: Name,
    display_name: DisplayName = None,
    email: Email = None,
    metadata: Metadata = None,
    disabled: Annotated[
        bool | None,
        typer.Option("--disabled/--enabled", help="Disabled: no call of its keys is admitted."),
    ] = None,
) -> None:
    """Change a user; sidecars know within a second. Labels given replace all labels.

    bursar user update ada --disabled
    """
    given, mask = changes(
        display_name=display_name,
        email=email,
        metadata=typed.labels(metadata, "--metadata") if metadata else None,
        disabled=disabled,
    )
    session.show(
        session.client.users.UpdateUser(
            identity_pb2.UpdateUserRequest(
                user=identity_pb2.User(
                    name=_name(name), organization=session.organization, **given
                ),
                update_mask=mask,
            )
        ),
        COLUMNS,
    )


@verb(app, "delete")
def delete_user(session: Session, name: Name) -> None:
    """Remove a user that nothing names; one with a history can only be disabled.

    bursar user delete ada
    """
    asked = identity_pb2.DeleteUserRequest(organization=session.organization, name=_name(name))
    session.client.users.DeleteUser(asked)
    session.deleted(asked.name)
