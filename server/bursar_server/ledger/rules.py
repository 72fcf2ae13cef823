"""What an entry is called, and what a verification checks. Pure."""

import re
from datetime import datetime
from typing import Final, NamedTuple

# Both numbers are of 64 bits.
_CHARGE_ID: Final = re.compile(
    r"([1-9][0-9]{0,18})-(lost-)?([1-9][0-9]{0,18})(?:-([0-9]{1,9}))?", re.ASCII
)
_PLACE: Final = re.compile(r"(\S+) ([0-9]{1,19}) (-?[0-9]{1,19}) ([0-9]{1,19})", re.ASCII)
_LARGEST: Final = 2**63 - 1
_RERATING: Final = re.compile(r"reratings/([1-9][0-9]{0,17})", re.ASCII)


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


# Each has its query `check_<name>` in a verify*.sql. Of entries by themselves, in the form of
# verify_entries.sql:
ENTRY_CHECKS: Final = (
    Check(
        "accounts_are_named",
        "Every entry debits its organization's spend and credits what is owed to its provider, or"
        " the provisional account while the outcome is unknown, or the lost one where none will"
        " come, in its organization's currency.",
    ),
    Check("trial_balance_is_zero", "In each currency the debits equal the credits."),
    Check(
        "provisional_is_open_calls",
        "The provisional account holds the calls whose outcome is unknown, and nothing else.",
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
    Check(
        "corrections_are_accepted",
        "Every correction is of a re-rating that was accepted.",
    ),
    Check(
        "refusals_are_of_shadows",
        "Only a shadow window that a call draws on is said to have refused it, were it hard.",
    ),
)

# Of balances against the entries, in the form of verify.sql:
BALANCE_CHECKS: Final = (
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
        " or shadow window lends nothing.",
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
        "sessions_count_their_entries",
        "Every entry has its session; a session counts each number it settled, and what it lost;"
        " a closed one has settled all of them and holds nothing.",
    ),
    Check(
        "lost_equals_entries",
        "What an allowance counts as lost is the sum of what was posted as lost in its window, less"
        " what evidence took back.",
    ),
    Check(
        "would_refuse_equals_entries",
        "What a shadow window counts as refused, were it hard, is the calls whose entries say so"
        " and what they cost; the others fitted into the highest limit there was.",
    ),
    Check(
        "limits_are_in_force",
        "A window that is open has the limit of its budget's version and of the temporary raises"
        " that run, except where a change was not applied yet.",
    ),
    Check(
        "resolved_sessions_hold_nothing",
        "A session whose money was decided about holds none, and what it was lent was settled, lost"
        " or returned.",
    ),
    Check(
        "allowances_are_sound",
        "Nobody returned more than was granted; nothing is in doubt beyond what is held, or lost"
        " beyond what is settled.",
    ),
    Check(
        "records_are_guarded",
        "The database refuses to change or remove entries, opening lines, versions of budgets and"
        " steps of temporary raises, and to post a charge twice.",
    ),
)

CHECKS: Final = (*BALANCE_CHECKS, *ENTRY_CHECKS)


def parse_charge_id(text: str) -> tuple[int, int] | None:
    """The session epoch and n of "7-12" (or of "7-12-1", an adjustment of it); None if it is no
    charge id. What was lost has a negative n: "7-lost-1"."""
    match = _CHARGE_ID.fullmatch(text)
    if match is None:
        return None
    session_epoch, n = int(match[1]), int(match[3])
    if max(session_epoch, n) > _LARGEST:
        return None
    return session_epoch, -n if match[2] else n


def parse_rerating(text: str) -> int | None:
    """The number of "reratings/4711"; None if it is no such name."""
    match = _RERATING.fullmatch(text)
    return None if match is None else int(match[1])


def format_charge_id(session_epoch: int, n: int, k: int) -> str:
    """ "7-12"; "7-12-1" for its first adjustment; "7-lost-1" for what was lost (n is -1)."""
    number = str(n) if n > 0 else f"lost-{-n}"
    return f"{session_epoch}-{number}-{k}" if k else f"{session_epoch}-{number}"


def format_place(place: EntryPlace) -> str:
    """The place as a page token keeps it."""
    return f"{place.posted_at.isoformat()} {place.session_epoch} {place.n} {place.k}"


def parse_place(text: str) -> EntryPlace | None:
    """The inverse of `format_place`; None for what it never wrote."""
    match = _PLACE.fullmatch(text)
    if match is None:
        return None
    try:
        posted_at = datetime.fromisoformat(match[1])
    except ValueError:
        return None
    return EntryPlace(posted_at, int(match[2]), int(match[3]), int(match[4]))
