"""Who was asked for idle money, and when: nobody is asked again too soon."""

from collections.abc import Collection, Iterable

from bursar_server.allowances.hub import Hub
from bursar_server.allowances.rules import Holder
from bursar_server.allowances.settings import LendingSettings


class Recalls:
    """The memory of it; what is lost of it is asked for again."""

    def __init__(self, hub: Hub, settings: LendingSettings) -> None:
        self._hub = hub
        self._settings = settings
        self._asked_at_ms: dict[tuple[int, int], int] = {}

    def due(self, wanted: Iterable[Holder], now_ms: int) -> list[Holder]:
        """Those to be asked now; they count as asked."""
        due = []
        settings = self._settings
        for holder in wanted:
            key = (holder.session_epoch, holder.window_id)
            before = self._asked_at_ms.get(key)
            again_ms = settings.recall_again_ms if holder.free else settings.recall_empty_again_ms
            if before is None or now_ms - before >= again_ms:
                session = self._hub.sessions.get(holder.session_epoch)
                if before is not None and session is not None:
                    session.silent = session.heard_at_ms < before
                self._asked_at_ms[key] = now_ms
                due.append(holder)
        return due

    def forget(self, gone: Collection[int]) -> None:
        """These sessions have no stream any more."""
        for key in [key for key in self._asked_at_ms if key[0] in gone]:
            del self._asked_at_ms[key]
