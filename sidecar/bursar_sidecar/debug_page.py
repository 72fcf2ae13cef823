"""What a sidecar holds, as a page for people: no script, nothing loaded from elsewhere. Pure."""

import html
from collections.abc import Mapping
from typing import Any, Final

_STYLE: Final = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 2rem; color: #1a1a1a }
h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse; margin: 0.3rem 0 }
td, th { border: 1px solid #d4d4d4; padding: 0.15rem 0.5rem; text-align: left; vertical-align: top }
th { background: #f4f4f4; font-weight: 600 }
td.number { text-align: right; font-variant-numeric: tabular-nums }
"""


def rendered(state: Mapping[str, Any]) -> str:
    """The page of a state: any nesting of mappings, lists and plain values."""
    sections = "".join(
        f"<h2>{html.escape(_words(name))}</h2>{_value(value)}" for name, value in state.items()
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Bursar sidecar</title>'
        f"<style>{_STYLE}</style></head><body><h1>Bursar sidecar</h1>"
        f'<p>The same as JSON: <a href="/debug.json">/debug.json</a></p>{sections}</body></html>'
    )


def _words(name: str) -> str:
    return name.replace("_", " ")


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return _mapping(value)
    if isinstance(value, list | tuple):
        if value and all(isinstance(each, Mapping) for each in value):
            return _rows(value)
        return html.escape(", ".join(map(str, value))) or "none"
    if value in ("", None):
        return "&ndash;"
    return html.escape(str(value))


def _mapping(mapping: Mapping[str, Any]) -> str:
    if not mapping:
        return "none"
    rows = "".join(
        f"<tr><th>{html.escape(_words(str(name)))}</th>{_cell(value)}</tr>"
        for name, value in mapping.items()
    )
    return f"<table>{rows}</table>"


def _rows(rows: list[Mapping[str, Any]] | tuple[Mapping[str, Any], ...]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    if any(isinstance(value, Mapping | list | tuple) for row in rows for value in row.values()):
        return "".join(map(_mapping, rows))
    head = "".join(f"<th>{html.escape(_words(name))}</th>" for name in names)
    body = "".join(f"<tr>{''.join(_cell(row.get(name)) for name in names)}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _cell(value: Any) -> str:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"<td{' class=number' if is_number else ''}>{_value(value)}</td>"
