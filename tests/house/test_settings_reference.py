"""The reference of the sidecar's settings is what the settings are."""

import re

import msgspec

from bursar_sidecar.settings import Settings
from tests.house import settings_reference, tree


def test_the_reference_is_what_the_settings_are() -> None:
    page = tree.text(settings_reference.PAGE)
    assert settings_reference.filled(page) == page, (
        f"{settings_reference.PAGE} is behind the settings: "
        "run `python -m tests.house.settings_reference`"
    )


def test_every_setting_is_explained() -> None:
    unexplained = [
        line
        for lines in settings_reference.TABLES_OF_THE_PAGE.values()
        for line in lines
        if line.endswith("|  |")
    ]
    tree.expect_none(unexplained, "A setting without a text below it:")


def test_a_setting_that_is_missing_from_the_page_is_noticed() -> None:
    page = tree.text(settings_reference.PAGE)
    (row,) = re.findall(r"(?m)^\| `drain_s` .*\n", page)
    assert settings_reference.filled(page.replace(row, "")) == page
    names = {field.name for field in msgspec.structs.fields(Settings)}
    assert all(f"| `{name}` |" in page for name in names)
