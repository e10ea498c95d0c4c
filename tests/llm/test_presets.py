import copy

import pytest
from tiny import chat_tokenizer

from rabtriever.choices import PRESETS
from rabtriever.errors import InputError
from rabtriever.llm.presets import make_template
from rabtriever.llm.prompt import Prompt, PromptTemplate

QUERY, DOCUMENT = "show rain", "find the city"


def whole_prompt(prompt):
    first = prompt.template.query_first
    query = prompt.query_ids([QUERY], with_bos=first)[0]
    document = prompt.document_ids([DOCUMENT], with_bos=not first)[0]
    return query + document if first else document + query


@pytest.fixture
def chat(tokenizer):
    return chat_tokenizer(tokenizer)


def test_plain_is_the_default_prompt_after_the_task(tokenizer):
    assert make_template("plain", tokenizer) == PromptTemplate()
    template = make_template("plain", tokenizer, task="Find the tool.")
    assert template.document == "Find the tool.\nDocument: {document}\n" and template.query == PromptTemplate().query


def test_chat_reads_what_the_chat_template_renders(chat):
    options = {"task": "You match requests to tools.", "document_name": "Tool", "query_name": "Request"}
    prompt = Prompt(make_template("chat", chat, **options), chat)
    messages = [
        {"role": "system", "content": "You match requests to tools. Answer only yes or no."},
        {
            "role": "user",
            "content": f"Tool: {DOCUMENT}\nRequest: {QUERY}\nIs this tool the right one for the request?",
        },
    ]
    rendered = chat.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = whole_prompt(prompt)
    assert chat.decode(ids) == rendered
    assert ids.count(chat.bos_token_id) == 1 and ids.count(chat.eos_token_id) == 2  # special tokens, not their letters
    assert chat.convert_ids_to_tokens(list(prompt.choice_ids)) == ["Yes", "No"]
    # The texts' boundary is a boundary of tokens: one cache of a document serves every query.
    assert chat.decode(prompt.document_ids([DOCUMENT])[0]).endswith(f"Tool: {DOCUMENT}\n")


def test_an_llm_without_a_system_message_is_told_in_the_user_message(tokenizer):
    refuses = "{% if messages[0].role == 'system' %}{{ raise_exception('no system message') }}{% endif %}"
    only_user = chat_tokenizer(tokenizer, refuses + "[user] {{ messages[0].content }}[assistant]")
    template = make_template("chat", only_user, task="Find the tool.")
    assert template.document == "[user] Find the tool. Answer only yes or no.\n\nDocument: {document}\n"


def test_a_thinking_llm_is_asked_not_to_think(tokenizer):
    thinks = "[user] {{ messages[-1].content }}[assistant]{% if not enable_thinking %}<think></think>{% endif %}"
    assert make_template("chat", chat_tokenizer(tokenizer, thinks)).query.endswith("[assistant]<think></think>")


def test_a_prompt_is_the_same_tomorrow(tokenizer):
    dated = "{{ strftime_now('%d %b %Y') }} {{ messages[-1].content }}"
    assert make_template("chat", chat_tokenizer(tokenizer, dated)).document.startswith("26 Jul 2024 Document: ")


def test_published_rerankers_read_the_query_first(chat):
    qwen3 = chat.decode(whole_prompt(Prompt(make_template("qwen3-reranker", chat, task="Find tools"), chat)))
    asked = f"<Instruct>: Find tools\n<Query>: {QUERY}\n<Document>: {DOCUMENT}<|im_end|>\n<|im_start|>assistant\n"
    assert qwen3.startswith("<s><|im_start|>system\nJudge") and qwen3.endswith(asked + "<think>\n\n</think>\n\n")
    bge = chat.decode(whole_prompt(Prompt(make_template("bge-reranker-v2-gemma", chat), chat)))
    assert bge.startswith(f"<s>A: {QUERY}\nB: {DOCUMENT}\nGiven a query A") and bge.endswith("'Yes' or 'No'.")


@pytest.mark.parametrize("preset", PRESETS)
def test_a_saved_template_needs_no_preset(chat, preset):
    template = make_template(preset, chat, task="Find the tool.")
    assert PromptTemplate.from_dict(template.to_dict()) == template
    assert "Find the tool." in template.document + template.query


def test_what_is_wrong_is_named(tokenizer, chat):
    with pytest.raises(InputError, match="preset 'talk': choose one of plain, chat"):
        make_template("talk", chat)
    with pytest.raises(InputError, match="no chat template"):
        make_template("chat", tokenizer)
    with pytest.raises(InputError, match="task is blank"):
        make_template("chat", chat, task=" ")
    broken, silent = copy.deepcopy(chat), copy.deepcopy(chat)
    broken.chat_template, silent.chat_template = "{{ raise_exception('no such thing') }}", "nothing"
    with pytest.raises(InputError, match="chat template fails .*no such thing"):
        make_template("chat", broken)
    with pytest.raises(InputError, match="changes the message"):
        make_template("chat", silent)
    with pytest.raises(InputError, match="exactly once"):
        make_template("chat", chat, task="Say {document}.")
