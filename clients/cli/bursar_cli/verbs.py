"""What all verbs share: `-o`, `--org`, the connection, and how a failure ends the program.

A verb is a function whose first argument is the Session:

    @verb(app, "show")
    def show_team(session: Session, name: Annotated[str, typer.Argument()]) -> None:
        session.show(session.client.teams.GetTeam(...), COLUMNS)

Exit codes: 0 ok, 1 refused by the server, 2 bad usage, 3 unreachable.
"""

import inspect
import os
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, get_type_hints

import grpc
import typer
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from typer.core import TyperGroup

from bursar.client import AddressError, AdminKeyError, BursarClient, BursarError, list_all
from bursar.v1 import identity_pb2, money_pb2
from bursar_cli import output, typed
from bursar_cli.cells import Column, printable
from bursar_cli.connection import Endpoint, find_endpoint
from bursar_cli.exit_codes import BAD_USAGE, REFUSED, UNREACHABLE
from bursar_cli.output import Format
from bursar_cli.typed import UsageFault

CONNECTION: Final = "Connection"

OutputOption = Annotated[Format, typer.Option("-o", "--format", help="How the answer is written.")]
OrgOption = Annotated[
    str,
    typer.Option(
        "--org",
        metavar="NAME",
        help="The organization; may be left out where only one exists.",
        show_default=False,
    ),
]
AddressOption = Annotated[
    str,
    typer.Option(
        help="host:port or unix:/path of the control plane; or BURSAR_ADDRESS.",
        rich_help_panel=CONNECTION,
        show_default="127.0.0.1:7443",
    ),
]
AdminKeyOption = Annotated[
    str,
    typer.Option(
        help="Better in BURSAR_ADMIN_KEY, where no other user of the machine sees it.",
        rich_help_panel=CONNECTION,
        show_default=False,
    ),
]
TlsCaOption = Annotated[
    Path | None,
    typer.Option(help="PEM file of the authority to trust.", rich_help_panel=CONNECTION),
]
InsecureOption = Annotated[
    bool,
    typer.Option(
        "--insecure",
        help="Plain text to another machine; only over a network that is trusted itself.",
        rich_help_panel=CONNECTION,
    ),
]

_SHARED: Final[dict[str, tuple[Any, Any]]] = {
    "form": (OutputOption, Format.TABLE),
    "organization": (OrgOption, ""),
    "address": (AddressOption, ""),
    "admin_key": (AdminKeyOption, ""),
    "tls_ca": (TlsCaOption, None),
    "insecure": (InsecureOption, False),
}


class Session:
    """One run of one verb: where to ask, and how to answer."""

    def __init__(self, endpoint: Endpoint, form: Format, organization: str, now: datetime) -> None:
        self.endpoint = endpoint
        self.form = form
        self.organization = organization
        """ "organizations/acme", or "" for the only one there is."""
        self.now = now
        self._client: BursarClient | None = None

    @property
    def client(self) -> BursarClient:
        """The control plane; connected on first use."""
        if self._client is None:
            self._client = self.endpoint.connect()
        return self._client

    def close(self) -> None:
        """End the connection, if there was one."""
        if self._client is not None:
            self._client.close()

    def currency(self, organization: str | None = None) -> str:
        """The currency of an organization's books."""
        wanted = self.organization if organization is None else organization
        service = self.client.organizations
        if wanted:
            asked = identity_pb2.GetOrganizationRequest(name=wanted)
            return str(service.GetOrganization(asked).currency)
        request = identity_pb2.ListOrganizationsRequest()
        found = [
            each
            for each in list_all(service.ListOrganizations, request)
            if each.name != typed.PLATFORM
        ]
        if len(found) != 1:
            names = ", ".join(each.name.partition("/")[2] for each in found) or "none yet"
            raise UsageFault("--org", f"say which organization; there are: {names}")
        return str(found[0].currency)

    def amount(self, text: str, option: str, organization: str | None = None) -> money_pb2.Money:
        """An amount as typed; without a currency of its own it is in the organization's."""
        # Read once with any currency first, so that nonsense is told without asking anybody.
        read = typed.amount(text, "USD", option)
        if typed.has_currency(text):
            return read
        return typed.amount(text, self.currency(organization), option)

    def show_list(
        self,
        call: Callable[[Any], Any],
        request: Message,
        columns: Sequence[Column],
        *,
        limit: int | None = None,
        empty: str = "none",
    ) -> None:
        """Write all pages of a List rpc."""
        found = list_all(call, request, limit=limit)
        self.show_all(found, columns, empty=empty)

    def show_all(
        self, messages: Iterable[Message], columns: Sequence[Column], *, empty: str = "none"
    ) -> None:
        """Write many."""
        output.write_list(messages, columns, self.form, self.now, empty=empty)

    def show(
        self, message: Message, columns: Sequence[Column], *, more: dict[str, str] | None = None
    ) -> None:
        """Write one."""
        output.write_one(message, columns, self.form, self.now, more=more)

    def deleted(self, name: str) -> None:
        """Say that something is gone."""
        if self.form is Format.TABLE:
            typer.echo(f"deleted {printable(name)}")
        elif self.form is not Format.CSV:
            output.write_data({}, self.form)

    def note(self, text: str) -> None:
        """Something for people beside the answer, on standard error."""
        if self.form is Format.TABLE:
            typer.echo(text, err=True)


def verb(
    app: typer.Typer, name: str, *, organization: bool = True
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add a verb to a noun, with the options that all verbs have.

    The docstring is its help; what stands after a blank line keeps its lines (examples).
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        own = list(inspect.signature(function).parameters.values())[1:]
        hints = get_type_hints(function, include_extras=True)
        shared = {
            key: given for key, given in _SHARED.items() if key != "organization" or organization
        }
        annotations: dict[str, Any] = {each.name: hints[each.name] for each in own}
        annotations |= {key: annotation for key, (annotation, _) in shared.items()}
        parameters = [each.replace(annotation=hints[each.name], kind=KEYWORD) for each in own]
        parameters += [
            inspect.Parameter(key, KEYWORD, default=default, annotation=annotation)
            for key, (annotation, default) in shared.items()
        ]

        def run(**given: Any) -> None:
            options = {key: given.pop(key) for key in shared}
            _run(f"bursar {app.info.name} {name}", function, options, given)

        run.__doc__ = function.__doc__
        run.__name__ = function.__name__
        run.__annotations__ = annotations
        # Typer reads the parameters from here.
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        app.command(name)(run)
        return function

    return register


KEYWORD: Final = inspect.Parameter.KEYWORD_ONLY


def _run(
    path: str, function: Callable[..., None], options: dict[str, Any], given: dict[str, Any]
) -> None:
    session: Session | None = None
    try:
        organization = typed.resource_name(
            "organizations", options.get("organization", ""), "--org"
        )
        endpoint = find_endpoint(
            options["address"],
            options["admin_key"],
            options["tls_ca"],
            options["insecure"],
            os.environ,
        )
        session = Session(endpoint, options["form"], organization, datetime.now(UTC))
        function(session, **given)
    except UsageFault as fault:
        _fail(f"{path}: {fault.option}: {fault}", BAD_USAGE)
    except (AddressError, AdminKeyError) as error:
        _fail(f"{path}: {error}", BAD_USAGE)
    except UnicodeEncodeError as error:
        # What a shell hands over need not be text.
        _fail(f"{path}: {error.object!r} can't be written as UTF-8", BAD_USAGE)
    except BursarError as error:
        address = session.endpoint.address if session else ""
        if error.unreachable:
            _fail(
                f"{path}: the control plane at {address} cannot be reached: {error.message}",
                UNREACHABLE,
            )
        hint = ""
        if error.status is grpc.StatusCode.UNAUTHENTICATED:
            hint = " (the admin key comes from BURSAR_ADMIN_KEY)"
        _fail(f"{path}: refused: {error}{hint}", REFUSED)
    finally:
        if session is not None:
            session.close()


def _fail(message: str, code: int) -> None:
    """One line to standard error, and the end."""
    typer.echo(printable(" ".join(message.split())), err=True)
    raise typer.Exit(code)


def changes(**fields: Any) -> tuple[dict[str, Any], FieldMask]:
    """The fields that were given (not None) and their mask."""
    given = {name: value for name, value in fields.items() if value is not None}
    if not given:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in fields)
        raise UsageFault("nothing to change", f"give at least one of {names}")
    return given, FieldMask(paths=sorted(given))


def noun(name: str, text: str, cls: type[TyperGroup] = TyperGroup) -> typer.Typer:
    """The commands of a noun."""
    app = typer.Typer(
        name=name,
        help=text,
        cls=cls,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
    )

    # With a callback, a noun keeps its verbs even while it has only one.
    @app.callback()
    def _noun() -> None: ...

    return app
