"""What all tables share: the metadata, sequences and usual columns."""

from sqlalchemy import BigInteger, Column, DateTime, MetaData, Sequence, text

PLATFORM_ORGANIZATION_ID = 1
"""The built-in organization that holds what concerns all of them; the migration inserts it."""

metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "ck": "%(table_name)s_%(constraint_name)s_check",
        "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
    }
)

ids = Sequence("ids", start=1000, metadata=metadata)
session_epochs = Sequence("session_epochs", metadata=metadata)

NOW = text("now()")
EMPTY_OBJECT = text("'{}'::jsonb")
EMPTY_ARRAY = text("'{}'::text[]")


def id_column() -> Column[int]:
    """An id of its own."""
    # From one sequence for all nouns (see `ids`): an id never means two things, in a log or a URL.
    return Column("id", BigInteger, primary_key=True, server_default=text("nextval('ids')"))


def organization_id_column() -> Column[int]:
    """Whose row it is: first in the primary key of all tables of an organization."""
    return Column("organization_id", BigInteger, primary_key=True, autoincrement=False)


def created_column() -> Column[object]:
    """When the row was made."""
    return Column("created_at", DateTime(timezone=True), nullable=False, server_default=NOW)


def updated_column() -> Column[object]:
    """When the row last changed."""
    return Column("updated_at", DateTime(timezone=True), nullable=False, server_default=NOW)
