"""Money is an integer of nanos, or a decimal while a price is worked out. Never a float."""

import ast
import re

from tests.house import tree

MONEY = re.compile(
    r"nanos|money|cost|amount|price|billed|charge|spend|spent|settled|reserved|balance|budget",
    re.IGNORECASE,
)
NANOS = re.compile(r"(^|_)nanos$", re.IGNORECASE)
FLOATING_SQL = re.compile(r"\b(real|float[48]?|double\s+precision|money)\b", re.IGNORECASE)
FLOATING_PROTO = re.compile(r"^\s*(?:optional |repeated )?(float|double)\s+(\w+)")
UNSIGNED_PROTO = re.compile(r"^\s*(?:optional |repeated )?(uint\d+|fixed\d+)\s+(\w+)")
# "path:field" -> why a binary fraction is right there.
FLOATING_FIELDS: dict[str, str] = {}


def names_in(node: ast.AST) -> list[str]:
    found = [child.id for child in ast.walk(node) if isinstance(child, ast.Name)]
    return found + [child.attr for child in ast.walk(node) if isinstance(child, ast.Attribute)]


def is_nanos(node: ast.expr) -> bool:
    """Whether an operand is itself an amount in nanos: `x_nanos`, `row.cost_nanos`."""
    if isinstance(node, ast.Name):
        return bool(NANOS.search(node.id))
    return isinstance(node, ast.Attribute) and bool(NANOS.search(node.attr))


def test_money_never_becomes_a_float() -> None:
    faults = []
    for name in tree.ours(".py"):
        for call in tree.nodes(name, ast.Call):
            if tree.dotted(call.func) == "float" and call.args:
                money = [found for found in names_in(call.args[0]) if MONEY.search(found)]
                faults += [f"{name}:{call.lineno}: float() of {found}" for found in money]
    tree.expect_none(faults, "Money is integer nanos, or Decimal while pricing; never float.")


def test_nanos_meet_no_fractions() -> None:
    faults = []
    for name in tree.ours(".py"):
        for node in tree.nodes(name, ast.BinOp):
            operands = (node.left, node.right)
            if not any(is_nanos(operand) for operand in operands):
                continue
            if isinstance(node.op, ast.Div) and not any("Decimal" in names_in(o) for o in operands):
                faults.append(f"{name}:{node.lineno}: {ast.unparse(node)} (use //, or Decimal)")
            if any(isinstance(o, ast.Constant) and isinstance(o.value, float) for o in operands):
                faults.append(f"{name}:{node.lineno}: {ast.unparse(node)}")
    tree.expect_none(faults, "An amount in nanos is never divided with / or given a float factor.")


def test_no_column_holds_a_float() -> None:
    faults = [
        f"{name}:{number}: {line.strip()}"
        for name in tree.ours(".sql")
        for number, line in enumerate(tree.text(name).splitlines(), start=1)
        if FLOATING_SQL.search(re.sub(r"'[^']*'", "", line.partition("--")[0]))
    ]
    faults += [
        f"{name}:{node.lineno}: {tree.dotted(node)}"
        for name in tree.ours(".py", under="server/bursar_server/database/")
        for node in tree.nodes(name, ast.Attribute, ast.Name)
        if tree.dotted(node).rpartition(".")[2] in {"Float", "REAL", "DOUBLE", "DOUBLE_PRECISION"}
    ]
    tree.expect_none(faults, "Columns are bigint nanos or numeric.")


def test_proto_numbers_are_signed_integers() -> None:
    faults = []
    excused = []
    for name in tree.ours(".proto"):
        for number, line in enumerate(tree.text(name).splitlines(), start=1):
            if unsigned := UNSIGNED_PROTO.match(line):
                faults.append(f"{name}:{number}: {unsigned[1]} {unsigned[2]} (use int64)")
            if floating := FLOATING_PROTO.match(line):
                where = f"{name}:{floating[2]}"
                excused.append(where)
                if where not in FLOATING_FIELDS:
                    faults.append(f"{name}:{number}: {floating[1]} {floating[2]}")
    tree.expect_none(faults, "Numbers on the wire are signed integers, rates decimal strings.")
    tree.expect_exceptions_used(FLOATING_FIELDS, excused)
