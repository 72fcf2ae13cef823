"""How large a journal may become: each part of it, and all together."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class JournalLimits:
    """Sizes of a journal, each with its reason."""

    segment_bytes: int = 16 << 20
    """About 20,000 calls: read in a fraction of a second at a restart."""
    unacknowledged_bytes: int = 32 << 20
    """They are in memory too. Well above what is admitted in the 30 s that an allowance outlives
    the control plane."""
    open_calls: int = 10_000
    """Beyond what one process can serve."""
    open_bytes: int = 8 << 20
    """Of their records, half a segment: every segment begins with them."""
    live_segments: int = 4
    """Segments that owe something: at so many, all that is owed is written into a new one, since a
    single settlement that nobody acknowledges would keep all after it."""
    waiting_segments: int = 8
    """Segments that owe nothing and wait for the disk to rename them: it does not keep up."""
    keep_acknowledged_s: int = 24 * 3600
    """A database fail-over that forgot a committed tail is found within a day."""
    keep_bytes: int = 256 << 20
    """Of acknowledged segments, whatever their age."""
    sync_every_s: float = 0.005
    """What a power loss can take."""

    @property
    def most_bytes(self) -> int:
        """What the directory holds at most: kept segments; those that owe something or wait, each
        with the open calls that it repeats; what is owed, written twice while it moves."""
        segments = self.live_segments + self.waiting_segments + 2
        live = segments * (self.segment_bytes + self.open_bytes)
        return self.keep_bytes + live + 2 * self.unacknowledged_bytes
