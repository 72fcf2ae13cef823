"""What the model's world is made of: calls, pools, sessions, sidecars; and the bounds of a search.

Amounts are small integers. What a party knows and what is true stand side by side in these
records; `sidecar_steps` and `control_steps` let each party read only what it can know.

A message that was sent stays deliverable until delivering it can change nothing any more. So it
may arrive never (lost), once, late, out of order, or again and again.
"""

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import NamedTuple

Amounts = tuple[int, ...]
"""One amount for each window of the model."""


class Phase(IntEnum):
    """Where a session stands in the eyes of the control plane."""

    LIVE = 0
    FENCED = 1
    IN_DOUBT = 2
    CLOSED = 3
    WRITTEN_OFF = 4


class Process(IntEnum):
    """The sidecar's process of one session. LAPSED: its validity ran out; it admits nothing."""

    UP = 0
    LAPSED = 1
    DRAINED = 2
    DOWN = 3


class Journal(IntEnum):
    """What is left of a session's journal."""

    KEPT = 0
    TRUNCATED = 1
    LOST = 2


class Fate(IntEnum):
    """What became of a call. The two last: its process died, and nobody was told how it ended."""

    RESERVED = 0
    OPEN = 1
    ENDED = 2
    VOID = 3
    HUNG_UP = 4
    ORPHAN = 5
    ORPHAN_UNSENT = 6


class Posted(IntEnum):
    """What the control plane has of a call. DROPPED: it said yes and wrote nothing (mutants)."""

    NOTHING = 0
    FINAL = 1
    PROVISIONAL = 2
    DROPPED = 3


class Call(NamedTuple):
    """One reservation, which is one attempt at a provider."""

    draw: tuple[int, ...]
    """The windows it draws on, recorded at admission."""
    reserved: int
    """W, as the sidecar holds it."""
    journaled: int
    """W, as the journal's open record and its growth records say; 0: no open record."""
    flowed: int = 0
    """What the provider bills, so far or in the end, up to W."""
    excess: int = 0
    """What the provider bills above W: a wrong price bound."""
    fate: Fate = Fate.RESERVED
    settled_row: bool = False
    """Its settlement is in the journal."""
    posted: Posted = Posted.NOTHING
    amount: int = 0
    """The sum of its entries in the ledger."""
    corrected: int = 0
    """The part of `amount` that a late correction made."""

    @property
    def cost(self) -> int:
        """What its settlement says. Nothing for a hang-up that is thought free (a mutant)."""
        return 0 if self.fate is Fate.HUNG_UP else self.flowed + self.excess


class Pool(NamedTuple):
    """One session's allowance in one window. The totals only grow."""

    granted: int = 0
    returned: int = 0
    settled: int = 0
    """G, R and C: durable, at the control plane."""
    seen: int = 0
    """The granted total that reached the sidecar."""
    given_up: int = 0
    """The returned total, at the sidecar."""
    grants_sent: tuple[int, ...] = ()
    """Granted totals on their way down."""
    returns_sent: tuple[int, ...] = ()
    """Returned totals on their way up."""
    uncommitted: int = 0
    """A grant that a tick of the control plane has decided and not committed."""
    written_off: int = 0
    """In-doubt money posted as spent."""

    @property
    def held(self) -> int:
        """What is lent and neither settled nor returned: O, or D when the session is in doubt."""
        return max(0, self.granted - self.returned - self.settled)

    @property
    def overrun(self) -> int:
        """What was settled beyond what was lent."""
        return max(0, self.settled - (self.granted - self.returned))


class Session(NamedTuple):
    """One life of a sidecar's process."""

    pools: tuple[Pool, ...]
    calls: tuple[Call, ...] = ()
    phase: Phase = Phase.LIVE
    process: Process = Process.UP
    journal: Journal = Journal.KEPT


class Sidecar(NamedTuple):
    """All lives of one sidecar, and the period that its own clock is in (0, then 1)."""

    sessions: tuple[Session, ...]
    period: int = 0


class Kind(StrEnum):
    """What a step does to the windows."""

    INSIDE = "inside"
    GRANT = "grant"
    HOME = "home"
    FACT = "fact"


class Step(NamedTuple):
    """What one sidecar, or the control plane for it, can do next."""

    words: str
    after: Sidecar
    kind: Kind = Kind.INSIDE
    need: Amounts = ()
    """A grant is refused unless this much is available."""
    posted: Amounts = ()
    """What S grows by."""
    late: Amounts = ()
    """The part of it that no allowance covers because it came after the settlement."""


class Mutant(StrEnum):
    """Rules of the protocol that can be broken on purpose. NONE is the protocol."""

    NONE = "none"
    RELEASE_ON_EXPIRY = "release on expiry"
    CHECK_THEN_ACT = "check, then act"
    LOW_ESTIMATE = "estimate below the worst case"
    NO_DEDUPLICATION = "no deduplication"
    GRANTS_AS_DELTAS = "grants as deltas"
    RETURNS_AS_DELTAS = "returns as deltas"
    RETURN_NOT_DEDUCTED = "a return not deducted"
    GRANT_BEFORE_COMMIT = "grant before commit"
    CLOSE_BEFORE_SETTLEMENTS = "close before settlements"
    DISK_LOSS_AS_RETURN = "disk loss treated as return"
    FREE_HANG_UP = "hang-up is free"
    FENCE_DROPS_SETTLEMENTS = "fencing drops settlements"
    OVERRUN_LENT_AGAIN = "overrun lent again"
    FINAL_DROPPED = "a final dropped as the duplicate of its provisional"
    JOURNAL_AFTER_DISPATCH = "journal after dispatch"
    GROWTH_AFTER_FLOW = "growth after the flow"
    OLD_WINDOW_REUSED = "roll-over reuses the old allowance"
    SELECTORS_RE_RUN = "selectors re-run over history"
    FIRST_BUDGET_ONLY = "only the first budget of a call is asked"
    DOUBT_EXPIRES = "time frees what is in doubt"
    DOUBT_FORGOTTEN = "the guard forgets what is in doubt"
    CUT_IGNORED = "a cut limit stops no grants"
    REPLAY_VOIDS = "replay voids open calls"
    CUT_JOURNAL_REPLAYED = "a truncated journal's open calls are posted provisionally"
    ACKNOWLEDGED_BEFORE_COMMIT = "settlements acknowledged before commit"


@dataclass(slots=True, frozen=True, kw_only=True)
class Bounds:
    """How large the searched world is, and what can happen in it."""

    name: str
    says: str
    """What this search is for."""
    limits: Amounts = (2,)
    draws: tuple[tuple[int, ...], ...] = ((0,),)
    """The windows a call draws on, in period 0 and, if windows roll over, in period 1."""
    sizes: tuple[int, ...] = (1,)
    """The W of a call at admission."""
    most_granted: int = 2
    """The most G of a session in a window."""
    calls: int = 1
    """The most calls of a session."""
    all_calls: int = 99
    """The most calls of all sidecars."""
    sidecars: int = 2
    lives: int = 1
    """The most sessions of a sidecar."""
    crashes: int = 0
    """The most crashes of all sidecars."""
    disks: tuple[Journal, ...] = (Journal.KEPT,)
    """What a crash may leave of the journal."""
    grown_to: int = 0
    """Progressive reservation: W grows to this."""
    excess: int = 0
    """The most that a cost may exceed W by."""
    corrections: int = 0
    """The most late corrections, by one up or down."""
    limit_changes: tuple[tuple[int, int], ...] = ()
    """(window, new limit): each may happen once, at any moment, in any order."""
    returns: bool = False
    voids: bool = False
    lapses: bool = False
    fences: bool = False
    drains: bool = False
    silence: bool = False
    """The control plane may think any session dead at any moment, also one that lives."""
    horizon: bool = False
    """In-doubt money may be posted as spent."""
    evidence: bool = False
    """The provider's own usage may be found for an orphan."""
    recovery: bool = False
    """A lost journal may be found again."""
    ticks: bool = False
    """Grants are decided first and committed later; the control plane may crash in between."""
