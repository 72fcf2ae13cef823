"""What an entry is called, and what a verification checks. Pure."""

import re
from datetime import datetime
from typing import Final, NamedTuple

# Both numbers are of 64 bits.
_CHARGE_ID: Final = re.compile(r"([1-9][0-9]{0,18})-([1-9][0-9]{0,18})(?:-([0-9]{1,9}))?", re.ASCII)
_LARGEST: Final = 2**63 - 1


class Check(NamedTuple):
    """One invariant of the ledger: its stable name and what it says, for people."""

    name: str
    description: str


class EntryPlace(NamedTuple):
    """Where an entry stands in the list, the newest posted first."""

    posted_at: datetime
    session_epoch: int
    n: int
    k: int


# Each has its query `check_<name>` beside the store.
CHECKS: Final = (
    Check(
        "settled_equals_entries",
        "What a budget window says is settled is the sum of the entries whose draw set holds it,"
        " and of its opening line.",
    ),
    Check(
        "allowances_equal_entries",
        "What an allowance says is settled is the sum of the first postings of its session that"
        " draw on its window.",
    ),
    Check(
        "outstanding_equals_allowances",
        "What a hard window has outstanding and in doubt is what its allowances hold, and a soft"
        " window lends nothing.",
    ),
    Check(
        "overrun_equals_allowances",
        "A hard window's overrun is what was settled beyond its allowances, later differences"
        " included.",
    ),
    Check(
        "within_ceiling",
        "What a hard window has settled (without overrun), outstanding and in doubt stays within"
        " its ceiling, which is never below its limit.",
    ),
    Check(
        "accounts_are_named",
        "Every entry debits its organization's spend and credits what is owed to its provider, or"
        " the provisional account while the outcome is unknown, in its organization's currency.",
    ),
    Check("trial_balance_is_zero", "In each currency the debits equal the credits."),
    Check(
        "provisional_is_open_calls",
        "The provisional account holds the calls whose outcome is unknown, and nothing else.",
    ),
    Check(
        "sessions_count_their_entries",
        "Every entry has its session; a session counts each number it settled, a closed one has"
        " settled all of them and holds nothing.",
    ),
    Check(
        "draw_sets_exist",
        "Every entry has its draw set, every window of a draw set exists, and all postings of a"
        " call have the same.",
    ),
    Check(
        "charges_are_whole",
        "The postings of a call are numbered without gaps, none but an adjustment is negative,"
        " their sum is not, and a released call costs nothing.",
    ),
)


def parse_charge_id(text: str) -> tuple[int, int] | None:
    """The session epoch and n of "7-12" (or of "7-12-1", an adjustment of it); None if it is no
    charge id."""
    match = _CHARGE_ID.fullmatch(text)
    if match is None:
        return None
    session_epoch, n = int(match[1]), int(match[2])
    return (session_epoch, n) if max(session_epoch, n) <= _LARGEST else None


def format_charge_id(session_epoch: int, n: int, k: int) -> str:
    """ "7-12"; "7-12-1" for its first adjustment."""
    return f"{session_epoch}-{n}-{k}" if k else f"{session_epoch}-{n}"


def format_place(place: EntryPlace) -> str:
    """The place as a page token keeps it."""
    return f"{place.posted_at.isoformat()} {place.session_epoch} {place.n} {place.k}"


def parse_place(text: str) -> EntryPlace | None:
    """The inverse of `format_place`; None for what it never wrote."""
    parts = text.rsplit(" ", 3)
    if len(parts) != 4 or not all(part.isdecimal() and len(part) < 20 for part in parts[1:]):
        return None
    try:
        posted_at = datetime.fromisoformat(parts[0])
    except ValueError:
        return None
    return EntryPlace(posted_at, int(parts[1]), int(parts[2]), int(parts[3]))
