"""`bursar user`: people (or robots) who own keys."""

from typing import Annotated, Final

import typer

from bursar_cli.cells import Column
from bursar_cli.spenders import Disabled, DisplayName, Metadata, Spenders
from bursar_cli.verbs import Session, noun, verb

app = noun("user", "Users: people (or robots) inside an organization.")

USERS: Final = Spenders("User", [Column("Email", lambda user: user.email)])

Name = Annotated[str, typer.Argument(metavar="NAME", help="ada or users/ada.")]
Email = Annotated[str | None, typer.Option(help='Where alerts go; "" takes it away.')]


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
    USERS.create(session, name, display_name, metadata, email=email or "")


@verb(app, "list")
def list_users(session: Session) -> None:
    """List the users.

    bursar user list -o json
    """
    USERS.show_all(session)


@verb(app, "show")
def show_user(session: Session, name: Name) -> None:
    """Show one user.

    bursar user show ada
    """
    USERS.show(session, name)


@verb(app, "update")
def update_user(
    session: Session,
    name: Name,
    display_name: DisplayName = None,
    email: Email = None,
    metadata: Metadata = None,
    disabled: Disabled = None,
) -> None:
    """Change a user; sidecars know within a second. Labels given replace all labels.

    bursar user update ada --disabled
    """
    USERS.update(session, name, display_name, metadata, disabled, email=email)


@verb(app, "delete")
def delete_user(session: Session, name: Name) -> None:
    """Remove a user that nothing names; one with a history can only be disabled.

    bursar user delete ada
    """
    USERS.delete(session, name)
