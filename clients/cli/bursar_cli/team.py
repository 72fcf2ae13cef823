"""`bursar team`: groups of people and keys."""

from typing import Annotated, Final

import typer

from bursar.client import new_request_id
from bursar.v1 import identity_pb2
from bursar_cli import typed
from bursar_cli.cells import Column, when_set
from bursar_cli.verbs import Session, changes, noun, verb

app = noun("team", "Teams: groups of people and keys inside an organization.")

COLUMNS: Final = (
    Column("Name", lambda team: team.name),
    Column("Display name", lambda team: team.display_name),
    Column("Metadata", lambda team: [f"{k}={v}" for k, v in sorted(team.metadata.items())]),
    Column("Disabled", lambda team: team.disabled),
    Column("Created", lambda team: when_set(team, "create_time")),
    Column("Organization", lambda team: team.organization, wide=True),
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="search or teams/search.")]
DisplayName = Annotated[str | None, typer.Option(help="What people read.")]
Metadata = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=VALUE", help='A label; may be repeated. "" takes all away.'),
]


def _name(text: str) -> str:
    return typed.resource_name("teams", text, "NAME")


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
    session.show(
        session.client.teams.CreateTeam(
            identity_pb2.CreateTeamRequest(
                team=identity_pb2.Team(
                    name=_name(name),
                    organization=session.organization,
                    display_name=display_name or "",
                    metadata=typed.labels(metadata, "--metadata"),
                ),
                request_id=new_request_id(),
            )
        ),
        COLUMNS,
    )


@verb(app, "list")
def list_teams(session: Session) -> None:
    """List the teams.

    bursar team list -o json
    """
    session.show_list(
        session.client.teams.ListTeams,
        identity_pb2.ListTeamsRequest(organization=session.organization),
        COLUMNS,
    )


@verb(app, "show")
def show_team(session: Session, name: Name) -> None:
    """Show one team.

    bursar team show search
    """
    asked = identity_pb2.GetTeamRequest(organization=session.organization, name=_name(name))
    session.show(session.client.teams.GetTeam(asked), COLUMNS)


@verb(app, "update")
def update_team(
    session: Session,
    name: Name,
    display_name: DisplayName = None,
    metadata: Metadata = None,
    disabled: Annotated[
        bool | None,
        typer.Option("--disabled/--enabled", help="Disabled: no call of its keys is admitted."),
    ] = None,
) -> None:
    """Change a team; sidecars know within a second. Labels given replace all labels.

    bursar team update search --disabled
    """
    given, mask = changes(
        display_name=display_name,
        metadata=typed.labels(metadata, "--metadata") if metadata else None,
        disabled=disabled,
    )
    session.show(
        session.client.teams.UpdateTeam(
            identity_pb2.UpdateTeamRequest(
                team=identity_pb2.Team(
                    name=_name(name), organization=session.organization, **given
                ),
                update_mask=mask,
            )
        ),
        COLUMNS,
    )


@verb(app, "delete")
def delete_team(session: Session, name: Name) -> None:
    """Remove a team that nothing names; one with a history can only be disabled.

    bursar team delete search
    """
    asked = identity_pb2.DeleteTeamRequest(organization=session.organization, name=_name(name))
    session.client.teams.DeleteTeam(asked)
    session.deleted(asked.name)
