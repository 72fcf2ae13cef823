"""The tables of settings in docs/sidecar-operations.md, made from the settings themselves.

`python -m tests.house.settings_reference` writes them; a test compares.
"""

import ast
import inspect
from typing import Any

import msgspec

from bursar_sidecar import extra_call_settings, listener_settings, provider_settings, shortages
from bursar_sidecar.reloading import LIVE
from bursar_sidecar.settings import TABLES, Settings, variable_of
from tests.house import tree

PAGE = "docs/sidecar-operations.md"


def explanations(struct: type) -> dict[str, str]:
    """What the text below each field of a struct says, in one line."""
    parsed = ast.parse(inspect.getsource(struct)).body[0]
    assert isinstance(parsed, ast.ClassDef)
    found: dict[str, str] = {}
    for field, text in zip(parsed.body, parsed.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
        ):
            words = " ".join(str(text.value.value).split())
            found[field.target.id] = words.replace("|", "\\|")
    return found


def shown(value: Any) -> str:
    """A default as a table shows it."""
    if value is msgspec.NODEFAULT:
        return "needed"
    if value in ("", (), None):
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def main_table() -> list[str]:
    """Every setting of the sidecar but the tables of the file."""
    texts = explanations(Settings)
    lines = ["| setting | variable | default | at SIGHUP | what |", "|---|---|---|---|---|"]
    for field in msgspec.structs.fields(Settings):
        variable = "file only" if field.name in TABLES else f"`{variable_of(field.name)}`"
        change = "changes" if field.name in LIVE else "restart"
        lines.append(
            f"| `{field.name}` | {variable} | {shown(field.default)} | {change} "
            f"| {texts.get(field.name, '')} |"
        )
    return lines


def table_of(struct: type, *left_out: str, **more: str) -> list[str]:
    """The fields of one table of the file."""
    texts = explanations(struct)
    lines = ["| setting | default | what |", "|---|---|---|"]
    for field in msgspec.structs.fields(struct):
        if field.name in left_out:
            continue
        lines.append(f"| `{field.name}` | {shown(field.default)} | {texts.get(field.name, '')} |")
    lines += [f"| `{name}` | | {text} |" for name, text in more.items()]
    return lines


VARIABLE = "Instead of `api_key_file`: the variable of the environment that holds the secret."
TABLES_OF_THE_PAGE = {
    "settings": main_table(),
    "providers": table_of(provider_settings.Provider, "name", "api_key", api_key_env=VARIABLE),
    "listeners": table_of(listener_settings.Listener, "api_key", api_key_env=VARIABLE),
    "websockets": table_of(extra_call_settings.Websocket),
    "shortages": table_of(shortages.Shortage),
}


def filled(page: str) -> str:
    """The page with its tables as the settings are now."""
    for name, lines in TABLES_OF_THE_PAGE.items():
        begin, end = f"<!-- {name}: made by tests/house/settings_reference.py -->", "<!-- end -->"
        assert begin in page, f"{PAGE} has no {begin}"
        body = "\n".join([begin, "", *lines, "", end])
        # As it stands: a replacement would read backslashes.
        before, _, rest = page.partition(begin)
        page = before + body + rest.partition(end)[2]
    return page


if __name__ == "__main__":
    path = tree.ROOT / PAGE
    path.write_text(filled(path.read_text()))
    print(f"{PAGE} is written")
