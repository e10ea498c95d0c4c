import pytest

from rabtriever.errors import InputError
from rabtriever.training.config import DistillConfig


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("list_weight", -1.0),
        ("minutes", -1.0),
        ("new_document_gain", 1.5),
        ("predictor", "cubic"),
        ("teacher_calls", -1),
        ("pairs_per_query", 0),
        ("exploration", 2.0),
        ("dropout", 1.0),
        ("temperature", 0.0),
        ("learning_rate", float("nan")),
        ("label_weight", -1.0),
        ("max_labelled_queries", -1),
    ],
)
def test_bad_options_are_named(field, value):
    with pytest.raises(InputError, match=f"^{field} ") as caught:
        DistillConfig(**{field: value})
    assert caught.value.param == field
