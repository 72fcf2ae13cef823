"""What a provider counted for one call, with one meaning whoever sent it."""

from .counts import MAX_COUNT, PART_OF, Certainty, Usage, estimated
from .openai import usage_from_openai

__all__ = ["MAX_COUNT", "PART_OF", "Certainty", "Usage", "estimated", "usage_from_openai"]
