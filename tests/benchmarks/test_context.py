import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from quality.context import dialogue, steps_done, strategies

from rabtriever.data import with_context


@pytest.mark.parametrize(
    ("parts", "text", "request_alone", "composed"),
    [
        (steps_done, "Instruction: Tidy up.\nDone so far: nothing", "Tidy up.", "Tidy up."),
        (steps_done, "Instruction: Tidy up.\nDone so far: a b; c", "Tidy up.", "Tidy up.\nDone so far: a b; c"),
        (dialogue, "Situation: s\nA: hello", "A: hello", "Situation: s\nA: hello"),
        (dialogue, "A: hello", "A: hello", "A: hello"),
        (strategies, "Situation: s\nA: hello", "Turn 4. A: hello", "Turn 4. A: hello\nDone so far: Question"),
    ],
)
def test_the_data_sets_queries_are_what_with_context_makes(parts, text, request_alone, composed):
    about = {"turn": 4, "prev_strategies": ["Others", "Question"]}
    assert parts(text, about).request == request_alone
    assert with_context(*parts(text, about)) == composed
