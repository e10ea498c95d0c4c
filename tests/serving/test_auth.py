import pytest

from rabtriever.errors import InputError
from rabtriever.serving.auth import APIKeys


def test_keys_come_from_a_file_and_the_environment(tmp_path):
    (tmp_path / "keys").write_text("# a comment\n\n  read  aaaaaaaaaaaaaaaa\nwrite bbbbbbbbbbbbbbbb\n")
    keys = APIKeys(str(tmp_path / "keys"), {"RABTRIEVER_WRITE_KEYS": "cccccccccccccccc, dddddddddddddddd,"})
    assert keys and keys.roles("Bearer aaaaaaaaaaaaaaaa") == {"read"}
    for key in ("bbbbbbbbbbbbbbbb", "cccccccccccccccc", "dddddddddddddddd"):
        assert keys.roles(f"bearer {key}") == {"read", "write"}
    for wrong in ("", "Bearer", "Bearer aaaaaaaaaaaaaaa", "Basic aaaaaaaaaaaaaaaa", "aaaaaaaaaaaaaaaa"):
        assert keys.roles(wrong) == set()
    assert not APIKeys(None, {}) and APIKeys(None, {}).roles("Bearer ") == set()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("read", "line 1: write `read KEY`"),
        ("\nadmin aaaaaaaaaaaaaaaa", "line 2: write `read KEY`"),
        ("read a b", "line 1: write"),
        ("read short", "line 1: a key of 5 characters"),
    ],
)
def test_a_malformed_file_is_reported_by_its_line_without_the_key(tmp_path, text, message):
    (tmp_path / "keys").write_text(text)
    with pytest.raises(InputError, match=message) as error:
        APIKeys(str(tmp_path / "keys"), {})
    assert "short" not in str(error.value)
    with pytest.raises(InputError, match="cannot be read"):
        APIKeys(str(tmp_path / "nowhere"), {})
    with pytest.raises(InputError, match=r"\$RABTRIEVER_READ_KEYS: a key of 5"):
        APIKeys(None, {"RABTRIEVER_READ_KEYS": "short"})
