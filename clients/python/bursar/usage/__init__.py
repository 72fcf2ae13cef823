"""What a provider counted for one call, with one meaning whoever sent it.

`usage_from_openai` reads a `usage` object of OpenAI's shape; `read_usage` and `read_stream` read
whole answers and streams of every provider's own shape, by the name of a dialect in `DIALECTS`.
"""

from .anthropic import usage_from_anthropic
from .counts import MAX_COUNT, PART_OF, Certainty, Usage, estimated
from .dialects import DIALECTS, UnknownDialectError, read_stream, read_usage
from .metered import Metered, Part, Stream
from .openai import usage_from_openai

__all__ = [
    "DIALECTS",
    "MAX_COUNT",
    "PART_OF",
    "Certainty",
    "Metered",
    "Part",
    "Stream",
    "UnknownDialectError",
    "Usage",
    "estimated",
    "read_stream",
    "read_usage",
    "usage_from_anthropic",
    "usage_from_openai",
]
