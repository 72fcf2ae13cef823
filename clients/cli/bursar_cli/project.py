"""`bursar project`: pieces of work that are paid for."""

from typing import Annotated, Final

import typer

from bursar_cli import typed
from bursar_cli.cells import Column
from bursar_cli.spenders import Disabled, DisplayName, Metadata, Spenders
from bursar_cli.verbs import Session, noun, verb

app = noun("project", "Projects: pieces of work that are paid for.")

PROJECTS: Final = Spenders("Project", [Column("Team", lambda project: project.team)])

Name = Annotated[str, typer.Argument(metavar="NAME", help="answers or projects/answers.")]
Team = Annotated[str | None, typer.Option(help='The team that owns it; "" takes it away.')]


def _team(text: str) -> str:
    return typed.resource_name("teams", text, "--team")


@verb(app, "create")
def create_project(
    session: Session,
    name: Name,
    display_name: DisplayName = None,
    team: Team = None,
    metadata: Metadata = None,
) -> None:
    """Make a project.

    bursar project create answers --team search
    """
    PROJECTS.create(session, name, display_name, metadata, team=_team(team or ""))


@verb(app, "list")
def list_projects(session: Session) -> None:
    """List the projects.

    bursar project list -o json
    """
    PROJECTS.show_all(session)


@verb(app, "show")
def show_project(session: Session, name: Name) -> None:
    """Show one project.

    bursar project show answers
    """
    PROJECTS.show(session, name)


@verb(app, "update")
def update_project(
    session: Session,
    name: Name,
    display_name: DisplayName = None,
    team: Team = None,
    metadata: Metadata = None,
    disabled: Disabled = None,
) -> None:
    """Change a project; sidecars know within a second. Labels given replace all labels.

    bursar project update answers --disabled
    """
    owner = None if team is None else _team(team)
    PROJECTS.update(session, name, display_name, metadata, disabled, team=owner)


@verb(app, "delete")
def delete_project(session: Session, name: Name) -> None:
    """Remove a project that nothing names; one with a history can only be disabled.

    bursar project delete answers
    """
    PROJECTS.delete(session, name)
