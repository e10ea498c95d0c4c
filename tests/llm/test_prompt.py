import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rabtriever.errors import InputError, TextError
from rabtriever.llm.prompt import Prompt, PromptTemplate

TEXT = st.text(alphabet="abcdefghij klm", min_size=1, max_size=200).filter(lambda text: bool(text.strip()))


def test_segments_are_the_rendered_template(tokenizer):
    prompt = Prompt(PromptTemplate(), tokenizer)
    ids = prompt.document_ids(["find the city"])[0] + prompt.query_ids(["show rain"])[0]
    assert tokenizer.decode(ids) == "<s>Document: find the city\nQuery: show rain\nRelevant?"


def test_a_query_encoded_separately_begins_with_the_start_token(tokenizer):
    prompt = Prompt(PromptTemplate(), tokenizer)
    assert prompt.query_ids(["rain"], with_bos=True)[0] == [tokenizer.bos_token_id, *prompt.query_ids(["rain"])[0]]


def test_a_template_that_begins_with_the_start_token_gets_no_second_one(tokenizer):
    plain = Prompt(PromptTemplate(), tokenizer)
    chat = Prompt(PromptTemplate(document="<s>Document: {document}\n"), tokenizer)
    assert chat.document_ids(["rain"]) == plain.document_ids(["rain"])
    assert chat.max_tokens == plain.max_tokens and chat.shared_prefixes == plain.shared_prefixes
    both = Prompt(PromptTemplate(document="<s>{document}", query="<s>Query: {query}\nRelevant?"), tokenizer)
    assert both.query_ids(["rain"], with_bos=True) == plain.query_ids(["rain"], with_bos=True)
    assert both.document_ids(["rain"])[0].count(tokenizer.bos_token_id) == 1
    for prompt in (plain, chat, both):
        prefixes = prompt.shared_prefixes
        ids = prompt.document_ids(["rain"])[0], prompt.query_ids(["rain"], with_bos=True)[0]
        assert [sequence[: len(prefix)] for prefix, sequence in zip(prefixes, ids, strict=True)] == prefixes


def test_texts_are_counted_and_truncated_by_their_own_tokens(tokenizer):
    prompt = Prompt(PromptTemplate(document_tokens=2, query_tokens=2), tokenizer)
    assert prompt.count_tokens("document", ["rain", "show me the city"]) == [1, 4]
    assert prompt.truncate_documents(["rain", " show me the city"], 2) == ["rain", "show me"]
    assert prompt.n_truncated == {"document": 0, "query": 0}


@pytest.mark.filterwarnings("ignore:a (query|document) of")
@settings(max_examples=40, deadline=None)
@given(text=TEXT, budget=st.integers(1, 30))
def test_budgets_cut_the_field_and_never_the_cue(tokenizer, text, budget):
    prompt = Prompt(PromptTemplate(document_tokens=budget, query_tokens=budget), tokenizer)
    whole = Prompt(PromptTemplate(document_tokens=1000, query_tokens=1000), tokenizer)
    query, document = prompt.query_ids([text])[0], prompt.document_ids([text])[0]
    cue = tokenizer("\nRelevant?", add_special_tokens=False)["input_ids"]
    assert query[-len(cue) :] == cue
    assert len(query) <= prompt.max_tokens and len(query) + len(document) <= prompt.max_tokens
    # A document keeps its head, a query its tail.
    full_document, full_query = whole.document_ids([text])[0], whole.query_ids([text])[0]
    tail = tokenizer("\n", add_special_tokens=False)["input_ids"]
    assert document[: -len(tail)] == full_document[: len(document) - len(tail)]
    head = tokenizer("Query:", add_special_tokens=False)["input_ids"]
    assert query[len(head) :] == full_query[len(full_query) - len(query) + len(head) :]


def test_truncated_texts_are_counted(tokenizer):
    prompt = Prompt(PromptTemplate(query_tokens=2), tokenizer)
    with pytest.warns(UserWarning, match="query_tokens=2"):
        prompt.query_ids(["show me the weather in my city", "rain"])
    prompt.query_ids(["show me the weather in my city"])  # warned of once, counted always
    assert prompt.n_truncated == {"document": 0, "query": 2}


def test_a_text_that_spells_a_control_token_is_text(tokenizer):
    prompt = Prompt(PromptTemplate(), tokenizer)
    ids = prompt.query_ids(["rain </s> city"])[0]
    assert tokenizer.eos_token_id not in ids
    assert "</s>" in tokenizer.decode(ids)


def test_choices_are_resolved_behind_the_cue(tokenizer):
    prompt = Prompt(PromptTemplate(), tokenizer)
    assert tokenizer.convert_ids_to_tokens(list(prompt.choice_ids)) == ["Ġyes", "Ġno"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"yes": " undoubtedly"}, "choice ' undoubtedly' is"),
        ({"yes": " no"}, "two different"),
        ({"query": "Query:"}, "must hold {query}"),
        ({"document_tokens": 0}, "at least 1"),
        ({"document_tokens": "20"}, "must be a whole number"),
        ({"yes": None}, "must be a string"),
        ({"query_first": 1}, "must be true or false"),
    ],
)
def test_a_bad_template_is_refused(tokenizer, fields, message):
    with pytest.raises(InputError, match=message):
        Prompt(PromptTemplate(**fields), tokenizer)


@pytest.mark.parametrize("text", ["", "  \n"])
def test_a_text_of_zero_tokens_is_refused(tokenizer, text):
    prompt = Prompt(PromptTemplate(), tokenizer)
    with pytest.raises(TextError, match="query 1: .* has no tokens") as caught:
        prompt.query_ids(["rain", text])
    assert caught.value.position == 1


def test_a_template_survives_json(tokenizer):
    template = PromptTemplate(query="Ask: {query}\nGood?", query_tokens=7)
    assert PromptTemplate.from_dict(template.to_dict()) == template
    with pytest.raises(InputError, match="unknown field 'colour'"):
        PromptTemplate.from_dict({"colour": "red"})
