"""Which calls a budget counts: globs over models and names of providers. Pure."""

import fnmatch
import re
from collections.abc import Collection, Iterable


class Selector:
    """Chooses calls; without globs every model, without providers all of them."""

    __slots__ = ("_models", "_providers")

    def __init__(self, models: Iterable[str], providers: Collection[str]) -> None:
        """`models` are globs over the names a call's model can have."""
        self._providers = frozenset(providers)
        # Case-sensitive on every platform, unlike fnmatch.fnmatch.
        globs = "|".join(fnmatch.translate(glob) for glob in models)
        self._models = re.compile(globs) if globs else None

    def selects(self, provider: str, names: Iterable[str]) -> bool:
        """Whether a call of this provider and of a model with these names counts."""
        if self._providers and provider not in self._providers:
            return False
        return self._models is None or any(self._models.match(name) for name in names)


def model_names(provider: str, model: str, requested_model: str) -> tuple[str, ...]:
    """The names under which a selector may choose a call's model."""
    return (model, f"{provider}/{model}", requested_model)
