import pytest
from hypothesis import given
from hypothesis import strategies as st

from rabtriever.errors import InputError
from rabtriever.index.snapshot import Snapshot
from rabtriever.serving.filters import FUNCTIONS, validate_filter


@pytest.mark.parametrize(
    "where",
    [
        "id = 'a'",
        "title LIKE 'A%' OR text ILIKE '%it''s; DROP%'",
        "json_get_int(metadata, 'year') > -2001 AND NOT (id IN ('a', 'b'))",
        "json_get_float(metadata, 'price') * 1.5 BETWEEN 1 AND 2.25",
        "length(lower(text)) <= 5 and title is not null",
        "json_exists(metadata, '$.a') AND contains(text, 'x')",
    ],
)
def test_comparisons_of_columns_pass_and_lance_reads_them(standing, where):
    validate_filter(where)
    snapshot: Snapshot = standing.index._current.get().snapshot
    snapshot.filter(where)


@pytest.mark.parametrize(
    "where",
    [
        *(
            "",
            " ",
            "id = 'a",
            'id = "a"',
            "id = `a`",
            "id = 'a' -- x /* */;",
            "1; SELECT 1",
            "latent IS NULL",
            "bias > 0",
            "gain > 0",
        ),
        *(
            "id IN (SELECT id FROM documents)",
            "repeat('a', 9) = id",
            "regexp_like(id, '(a+)+')",
            "exists (id)",
            "a.b = 1",
        ),
        *("documents.id = 'a'", "id = $1", "id = ?", "id = @x", "id ~ 'a'", "id || id = 'a'", "CAST(id AS int) = 1"),
        *(
            "id = 'a')",
            " OR ".join(["id = 'a'"] * 70),
            "()" * 40 + "(" * 40,
            "x" * 2001,
            "id[0] = 'a'",
            "{'a': 1} = 1",
            "id = 0x1",
            "\u0131d = 'a'",
            "id\x00 = 'a'",
        ),
    ],
)
def test_everything_else_is_refused(where):
    with pytest.raises(InputError, match="^where"):
        validate_filter(where)


@given(st.text(max_size=60))
def test_whatever_comes_is_passed_or_told(where):
    try:
        validate_filter(where)
    except InputError as error:
        assert str(error).startswith("where")


def test_every_function_exists(standing):
    arguments = {
        "json_get_": "metadata, 'a'",
        "json_array_contains": "metadata, '$.a', 'a'",
        "json_": "metadata, '$.a'",
    }
    for function in FUNCTIONS:
        given_ = next((text for start, text in arguments.items() if function.startswith(start)), None)
        given_ = given_ or ("id, 'a'" if function in ("starts_with", "ends_with", "contains") else "id")
        standing.index._current.get().snapshot.filter(f"{function}({given_}) IS NULL")
