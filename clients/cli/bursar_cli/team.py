"""`bursar team`: groups of people and keys."""

from typing import Annotated, Final

import typer

from bursar_cli.spenders import Disabled, DisplayName, Metadata, Spenders
from bursar_cli.verbs import Session, noun, verb

app = noun("team", "Teams: groups of people and keys inside an organization.")

TEAMS: Final = Spenders("Team")

Name = Annotated[str, typer.Argument(metavar="NAME", help="search or teams/search.")]


@verb(app, "create")
def create_team(
    session: Session,
    name: Name,
    display_name: DisplayName = None,
    metadata: Metadata = None,
) -> None:
    """Make a team.

    bursar team create search --metadata cost-centre=42
    """
    TEAMS.create(session, name, display_name, metadata)


@verb(app, "list")
def list_teams(session: Session) -> None:
    """List the teams.

    bursar team list -o json
    """
    TEAMS.show_all(session)


@verb(app, "show")
def show_team(session: Session, name: Name) -> None:
    """Show one team.

    bursar team show search
    """
    TEAMS.show(session, name)


@verb(app, "update")
def update_team(
    session: Session,
    name: Name,
    display_name: DisplayName = None,
    metadata: Metadata = None,
    disabled: Disabled = None,
) -> None:
    """Change a team; sidecars know within a second. Labels given replace all labels.

    bursar team update search --disabled
    """
    TEAMS.update(session, name, display_name, metadata, disabled)


@verb(app, "delete")
def delete_team(session: Session, name: Name) -> None:
    """Remove a team that nothing names; one with a history can only be disabled.

    bursar team delete search
    """
    TEAMS.delete(session, name)
