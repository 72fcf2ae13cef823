"""What the exit code of `bursar` says; 0 is success."""

from typing import Final

REFUSED: Final = 1
"""The control plane refused, or what was checked does not hold."""
BAD_USAGE: Final = 2
"""Something typed can't be understood; nothing was sent, or nothing was changed."""
UNREACHABLE: Final = 3
"""No answer: nothing listens there, or it is not serving."""
