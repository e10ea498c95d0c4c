import ast
import inspect
import json

import pytest

from rabtriever import errors as library
from rabtriever.serving import errors
from rabtriever.serving.errors import ERRORS, APIError


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (library.InputError("where: no", param="where"), 422, "invalid_request_error"),
        (library.NotFoundError("no document 'a'", param="id"), 404, "not_found_error"),
        (library.ConflictError("'a' exists", param="id"), 409, "conflict_error"),
        (library.BusyError("/secret/index: another process"), 503, "unavailable_error"),
        (library.StorageError("/secret/index: disk full"), 507, "storage_error"),
        (library.CorruptIndexError("/secret/index: damaged"), 500, "server_error"),
    ],
)
def test_each_kind_of_error_has_a_status_whatever_its_message(error, status, kind):
    answer = APIError.of(error)
    answered = json.loads(answer.response("/v1/search").body)
    assert (answer.status, answered["error"]["type"], answered["error"]["param"]) == (status, kind, error.param)
    assert answered["message"] == (str(error) if status < 500 else ERRORS[status].description)
    assert "secret" not in str(answered) and ("Retry-After" in answer.headers) == (status == 503)
    tei = json.loads(answer.response("/rerank").body)
    assert tei == {"error": answered["message"], "error_type": ERRORS[status].tei_type}


def test_an_error_without_a_row_is_answered_as_its_base():
    class NoSuchModelError(library.NotFoundError):
        pass

    class StrangeInputError(library.InputError):
        pass

    assert APIError.of(NoSuchModelError("a")).status == 404
    assert APIError.of(StrangeInputError("a", param="k")).status == 422


def test_no_answer_depends_on_the_text_of_a_message():
    names = {node.attr for node in ast.walk(ast.parse(inspect.getsource(errors))) if isinstance(node, ast.Attribute)}
    assert not names & {"startswith", "endswith", "removeprefix"}
