"""`bursar project`: pieces of work that are paid for."""

from typing import Annotated, Final

import typer

from bursar.client import new_request_id
from bursar.v1 import identity_pb2
from bursar_cli import typed
from bursar_cli.cells import Column, when_set
from bursar_cli.verbs import Session, changes, noun, verb

app = noun("project", "Projects: pieces of work that are paid for.")

COLUMNS: Final = (
    Column("Name", lambda project: project.name),
    Column("Display name", lambda project: project.display_name),
    Column("Team", lambda project: project.team),
    Column("Metadata", lambda project: [f"{k}={v}" for k, v in sorted(project.metadata.items())]),
    Column("Disabled", lambda project: project.disabled),
    Column("Created", lambda project: when_set(project, "create_time")),
    Column("Organization", lambda project: project.organization, wide=True),
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="answers or projects/answers.")]
DisplayName = Annotated[str | None, typer.Option(help="What people read.")]
Team = Annotated[str | None, typer.Option(help='The team that owns it; "" takes it away.')]
Metadata = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=VALUE", help='A label; may be repeated. "" takes all away.'),
]


def _name(text: str) -> str:
    return typed.resource_name("projects", text, "NAME")


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
    session.show(
        session.client.projects.CreateProject(
            identity_pb2.CreateProjectRequest(
                project=identity_pb2.Project(
                    name=_name(name),
                    organization=session.organization,
                    display_name=display_name or "",
                    team=typed.resource_name("teams", team or "", "--team"),
                    metadata=typed.labels(metadata, "--metadata"),
                ),
                request_id=new_request_id(),
            )
        ),
        COLUMNS,
    )


@verb(app, "list")
def list_projects(session: Session) -> None:
    """List the projects.

    bursar project list -o json
    """
    session.show_list(
        session.client.projects.ListProjects,
        identity_pb2.ListProjectsRequest(organization=session.organization),
        COLUMNS,
    )


@verb(app, "show")
def show_project(session: Session, name: Name) -> None:
    """Show one project.

    bursar project show answers
    """
    asked = identity_pb2.GetProjectRequest(organization=session.organization, name=_name(name))
    session.show(session.client.projects.GetProject(asked), COLUMNS)


@verb(app, "update")
def update_project(
    session: Session,
    name: Name,
    display_name: DisplayName = None,
    team: Team = None,
    metadata: Metadata = None,
    disabled: Annotated[
        bool | None,
        typer.Option("--disabled/--enabled", help="Disabled: no call of its keys is admitted."),
    ] = None,
) -> None:
    """Change a project; sidecars know within a second. Labels given replace all labels.

    bursar project update answers --disabled
    """
    given, mask = changes(
        display_name=display_name,
        team=None if team is None else typed.resource_name("teams", team, "--team"),
        metadata=typed.labels(metadata, "--metadata") if metadata else None,
        disabled=disabled,
    )
    session.show(
        session.client.projects.UpdateProject(
            identity_pb2.UpdateProjectRequest(
                project=identity_pb2.Project(
                    name=_name(name), organization=session.organization, **given
                ),
                update_mask=mask,
            )
        ),
        COLUMNS,
    )


@verb(app, "delete")
def delete_project(session: Session, name: Name) -> None:
    """Remove a project that nothing names; one with a history can only be disabled.

    bursar project delete answers
    """
    asked = identity_pb2.DeleteProjectRequest(organization=session.organization, name=_name(name))
    session.client.projects.DeleteProject(asked)
    session.deleted(asked.name)
