"""Named queries: the SQL of a domain stands in a file beside its one caller."""

import re
from importlib import resources

_HEADING = re.compile(r"-- name: (?P<name>[a-z][a-z0-9_]*)\s*")


class QueryFileError(Exception):
    """A query file can't be read, or a query is not in it: a fault of the program, not of a user.

    Raised while modules are loaded, or when a name is first asked for.
    """


class Queries:
    """The queries of one file or several, as attributes: `q.key_by_secret_hash` is the text of one.

    A file is a row of sections, each headed by a line `-- name: key_by_secret_hash`; other
    comments belong to the section they stand in.
    """

    def __init__(self, source: str, *texts: str) -> None:
        self._source = source
        self._queries: dict[str, str] = {}
        for text in texts:
            found = _sections(source, text)
            for name in found.keys() & self._queries.keys():
                raise QueryFileError(f"{source}: a second query {name!r}")
            self._queries |= found

    @classmethod
    def load(cls, package: str | None, *files: str) -> "Queries":
        """The queries of `files` in `package` (give `__package__`); queries.sql if none is said."""
        if not package:
            raise QueryFileError("queries belong to a package: load(__package__)")
        files = files or ("queries.sql",)
        texts = []
        for file in files:
            try:
                texts.append(resources.files(package).joinpath(file).read_text(encoding="utf-8"))
            except OSError as error:
                raise QueryFileError(f"{package}/{file} can't be read: {error}") from error
        return cls(f"{package}/{' and '.join(files)}", *texts)

    @property
    def names(self) -> frozenset[str]:
        """The names of all queries."""
        return frozenset(self._queries)

    def __getattr__(self, name: str) -> str:
        # Dunders are asked for by copy, pickle and the like, which expect AttributeError.
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self._queries[name]
        except KeyError:
            raise QueryFileError(f"{self._source} has no query {name!r}") from None


def _sections(source: str, text: str) -> dict[str, str]:
    sections: dict[str, list[str]] = {}
    current: list[str] | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        if heading := _HEADING.fullmatch(line):
            name = heading["name"]
            if name in sections:
                raise QueryFileError(f"{source}:{number}: a second query {name!r}")
            current = sections[name] = []
        elif current is not None:
            current.append(line)
        elif line.strip() and not line.startswith("--"):
            raise QueryFileError(f"{source}:{number}: a statement before the first `-- name:`")
    queries = {name: "\n".join(lines).strip().removesuffix(";") for name, lines in sections.items()}
    for name, query in queries.items():
        if not query:
            raise QueryFileError(f"{source}: the query {name!r} is empty")
    return queries
