"""Names, texts, pages and masks as services read them."""

import base64

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from bursar.v1 import identity_pb2 as pb
from bursar_server import names
from bursar_server.errors import BursarError, invalid, shown


def field_of(error: BursarError) -> str:
    (violation,) = error.field_violations
    assert error.message == f"{violation.field}: {violation.description}"
    return violation.field


@pytest.mark.parametrize("slug", ["a", "search", "k-3f9a1c07d2e4", "0", "a" * 63, "-"])
def test_a_slug_is_of_few_characters(slug: str) -> None:
    assert names.validate_slug(slug) == slug
    assert names.parse_name("teams", f"teams/{slug}") == slug


@pytest.mark.parametrize("slug", ["", "A", "a_b", "a.b", "é", "a b", "a" * 64, "a/b", "a\n", "²"])
def test_other_slugs_are_refused_by_field(slug: str) -> None:
    with pytest.raises(BursarError) as caught:
        names.validate_slug(slug, "team.name")
    assert field_of(caught.value) == "team.name"
    with pytest.raises(BursarError, match='expected "teams/" and 1 to 63 of a-z, 0-9 and "-"'):
        names.parse_name("teams", f"teams/{slug}")


@pytest.mark.parametrize("text", ["search", "users/search", "/search", "teams", "Teams/search"])
def test_a_name_says_its_collection(text: str) -> None:
    with pytest.raises(BursarError):
        names.parse_name("teams", text)


def test_nothing_stays_nothing_where_a_name_is_optional() -> None:
    assert names.parse_optional_name("teams", "", "key.team") == ""
    assert names.parse_organization("") == ""
    assert names.parse_organization("organizations/acme") == "acme"
    assert names.format_name("teams", None) == names.format_name("teams", "") == ""
    assert names.format_name("teams", "search") == "teams/search"


def test_new_slugs_are_slugs_and_differ() -> None:
    made = {names.new_slug("k") for _ in range(100)}
    assert len(made) == 100
    assert all(names.validate_slug(slug).startswith("k-") for slug in made)


@pytest.mark.parametrize("text", ["", "Søk & co", "検索", "👩‍💻", "a" * 200])
def test_people_may_write_as_they_do(text: str) -> None:
    assert names.validate_display_name(text) == text


@pytest.mark.parametrize("text", ["a\nb", "\x00", "\x1b[0m", "\x7f", "\x85", "\u202e", "\u2066"])
def test_what_makes_a_table_lie_is_refused(text: str) -> None:
    with pytest.raises(BursarError, match="without control characters"):
        names.validate_display_name(text)


def test_a_long_value_is_shown_in_part() -> None:
    with pytest.raises(BursarError) as caught:
        names.validate_display_name("x" * 100_000)
    assert len(caught.value.message) < 300
    assert shown("\u202e\n'") == '"\\u202e\\n\'"'
    assert "it is empty" in invalid("f", "", "text").message


def test_globs_are_kept_once_in_order() -> None:
    assert names.validate_globs(["b*", "a", "b*"], "models") == ["b*", "a"]
    assert names.validate_globs([], "models") == []


def test_a_page_has_a_size() -> None:
    assert [names.page_size(size) for size in (0, 1, 1000)] == [100, 1, 1000]
    for size in (-1, 1001, 2**31 - 1):
        with pytest.raises(BursarError, match="page_size"):
            names.page_size(size)


def test_a_page_token_leads_to_the_next_page_of_its_own_list() -> None:
    request = pb.ListKeysRequest(team="teams/search", page_size=7)
    page_token = names.page_token_after("k-1", request)
    again = pb.ListKeysRequest(team="teams/search", page_size=9, page_token=page_token)
    assert names.place_of_page(page_token, again) == "k-1"
    assert names.place_of_page("", request) == ""
    for other in (pb.ListKeysRequest(), pb.ListKeysRequest(team="teams/x"), pb.ListTeamsRequest()):
        with pytest.raises(BursarError) as caught:
            names.place_of_page(page_token, other)
        assert field_of(caught.value) == "page_token"


@pytest.mark.parametrize(
    "page_token",
    [
        "x",
        "====",
        "é",
        "a" * 5000,
        base64.urlsafe_b64encode(b"[1,2]").decode(),
        base64.urlsafe_b64encode(b'["a"]').decode(),
        base64.urlsafe_b64encode(b"\xff\xfe").decode(),
    ],
)
def test_a_made_up_page_token_is_refused(page_token: str) -> None:
    with pytest.raises(BursarError) as caught:
        names.place_of_page(page_token, pb.ListTeamsRequest())
    assert field_of(caught.value) == "page_token"


def test_a_mask_names_known_fields() -> None:
    assert names.masked_fields(FieldMask(paths=["a", "b", "a"]), ("a", "b", "c")) == {"a", "b"}
    for paths in ([], ["d"], ["a", "a.b"], ["*"], [""]):
        with pytest.raises(BursarError, match="expected one or more of a, b, c"):
            names.masked_fields(FieldMask(paths=paths), ("c", "b", "a"))
