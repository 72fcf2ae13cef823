"""What the verbs of teams, projects and users do alike; each noun's module says what is its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from bursar.client import new_request_id
from bursar.v1 import identity_pb2
from bursar_cli import typed
from bursar_cli.cells import Column, when_set
from bursar_cli.verbs import Session, changes

DisplayName = Annotated[str | None, typer.Option(help="What people read.")]
Metadata = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=VALUE", help='A label; may be repeated. "" takes all away.'),
]
Disabled = Annotated[
    bool | None,
    typer.Option("--disabled/--enabled", help="Disabled: no call of its keys is admitted."),
]


@dataclass(frozen=True, slots=True)
class Spenders:
    """One of the three nouns: `kind` is its message's name ("Team"), `own` are its own columns.

    Messages, requests and rpcs are called after the kind: Team, CreateTeamRequest, CreateTeam.
    """

    kind: str
    own: Sequence[Column] = ()

    @property
    def collection(self) -> str:
        """Of the resource's name, and of the client's attribute: "teams"."""
        return f"{self.kind.lower()}s"

    @property
    def columns(self) -> tuple[Column, ...]:
        """What is shown of each."""
        return (
            Column("Name", lambda one: one.name),
            Column("Display name", lambda one: one.display_name),
            *self.own,
            Column("Metadata", lambda one: [f"{k}={v}" for k, v in sorted(one.metadata.items())]),
            Column("Disabled", lambda one: one.disabled),
            Column("Created", lambda one: when_set(one, "create_time")),
            Column("Organization", lambda one: one.organization, wide=True),
        )

    def create(
        self,
        session: Session,
        name: str,
        display_name: str | None,
        metadata: list[str] | None,
        **own: str,
    ) -> None:
        """Make one; `own` are fields that only this noun has."""
        made = self._message(
            session,
            name,
            display_name=display_name or "",
            metadata=typed.labels(metadata, "--metadata"),
            **own,
        )
        request = self._request("Create", **{self.kind.lower(): made}, request_id=new_request_id())
        session.show(self._rpc(session, "Create")(request), self.columns)

    def show_all(self, session: Session) -> None:
        """Show all."""
        request = getattr(identity_pb2, f"List{self.kind}sRequest")
        call = getattr(getattr(session.client, self.collection), f"List{self.kind}s")
        session.show_list(call, request(organization=session.organization), self.columns)

    def show(self, session: Session, name: str) -> None:
        """Show one."""
        request = self._request("Get", organization=session.organization, name=self._name(name))
        session.show(self._rpc(session, "Get")(request), self.columns)

    def update(
        self,
        session: Session,
        name: str,
        display_name: str | None,
        metadata: list[str] | None,
        disabled: bool | None,
        **own: str | None,
    ) -> None:
        """Change what was given."""
        given, mask = changes(
            display_name=display_name,
            **own,
            metadata=typed.labels(metadata, "--metadata") if metadata else None,
            disabled=disabled,
        )
        changed = self._message(session, name, **given)
        request = self._request("Update", **{self.kind.lower(): changed}, update_mask=mask)
        session.show(self._rpc(session, "Update")(request), self.columns)

    def delete(self, session: Session, name: str) -> None:
        """Remove one."""
        asked = self._request("Delete", organization=session.organization, name=self._name(name))
        self._rpc(session, "Delete")(asked)
        session.deleted(asked.name)

    def _name(self, text: str) -> str:
        return typed.resource_name(self.collection, text, "NAME")

    def _message(self, session: Session, name: str, **fields: Any) -> Any:
        message = getattr(identity_pb2, self.kind)
        return message(name=self._name(name), organization=session.organization, **fields)

    def _request(self, verb: str, **fields: Any) -> Any:
        return getattr(identity_pb2, f"{verb}{self.kind}Request")(**fields)

    def _rpc(self, session: Session, verb: str) -> Any:
        return getattr(getattr(session.client, self.collection), f"{verb}{self.kind}")
