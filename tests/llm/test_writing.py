"""Answers of an LLM: what transformers would generate, by itself or in a batch, and by which seed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from rabtriever.errors import InputError
from rabtriever.kernels import why_no_llvm
from rabtriever.llm.loading import LoadedLLM, load_llm
from rabtriever.llm.writing import TorchDecoder, Writer

TEMPLATE = (
    "{% for message in messages %}<s>{{ message.role }} {{ message.content }}{% endfor %}"
    "{% if add_generation_prompt %}<s>find{% endif %}"
)
QUESTIONS = ("please show the weather", "music", "where is my flight for the city")
CONVERSATIONS = [
    [{"role": "system", "content": "what is the tool for"}, {"role": "user", "content": question}]
    for question in QUESTIONS
]
SEEDS = [3, 1, 2]
BACKENDS = ["torch", pytest.param("int8", marks=pytest.mark.skipif(why_no_llvm() is not None, reason="no LLVM"))]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RABTRIEVER_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(llm_folder: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> Path:
    """The tiny Llama with a chat template."""
    shutil.copytree(llm_folder, tmp_path / "chat")
    (tmp_path / "chat" / "chat_template.jinja").write_text(TEMPLATE)
    return tmp_path / "chat"


def load(folder: Path, backend: str = "torch") -> LoadedLLM:
    options: dict[str, Any] = {"dtype": "float32"} if backend == "torch" else {}
    return load_llm(str(folder), device="cpu", backend=backend, **options)


def complete(writer: Writer, rows: list[int], max_lines: int = 99) -> list[str]:
    return writer.complete([CONVERSATIONS[row] for row in rows], [SEEDS[row] for row in rows], max_lines, 12)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gemma3_text"])
def test_without_chance_it_writes_what_transformers_generates(
    llm_folders: dict[str, Path], tmp_path: Path, architecture: str
) -> None:
    shutil.copytree(llm_folders[architecture], tmp_path / "chat")
    (tmp_path / "chat" / "chat_template.jinja").write_text(TEMPLATE)
    llm = load(tmp_path / "chat")
    expected = []
    for messages in CONVERSATIONS:
        text = llm.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = torch.tensor([llm.tokenizer(text, add_special_tokens=False)["input_ids"]])
        found = llm.model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12)
        expected.append(llm.tokenizer.decode(found[0, ids.shape[1] :], skip_special_tokens=True))
    found = complete(Writer(llm, temperature=1e-4), [0, 1, 2])
    assert [answer.removesuffix("\n") for answer in found] == [answer.removesuffix("\n") for answer in expected]


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_answer_depends_on_its_seed_alone_not_on_the_batch(folder: Path, backend: str) -> None:
    writer = Writer(load(folder, backend))
    together = complete(writer, [0, 1, 2])
    assert [complete(writer, [row])[0] for row in range(3)] == together
    assert complete(writer, [2, 0]) == [together[2], together[0]]
    others = writer.complete(CONVERSATIONS, [7, 8, 9], 99, 12)
    assert all(a != b for a, b in zip(together, others, strict=True))


@pytest.mark.skipif(why_no_llvm() is not None, reason="no LLVM")
def test_the_int8_engine_predicts_what_torch_does(folder: Path) -> None:
    from rabtriever.llm.int8.decoding import Int8Decoder

    prompts = [[0, 40, 41, 42, 50, 60], [0, 40, 41, 42, 51]]
    exact, fast = TorchDecoder(load(folder)), Int8Decoder(load(folder, "int8"), prompts[0])
    for decoder in (exact, fast):
        decoder.first = decoder.start(prompts, 4, 3)  # type: ignore[attr-defined]
        decoder.second = decoder.step([1], [77])  # type: ignore[attr-defined]
    for name, n in (("first", 2), ("second", 1)):
        a, b = getattr(exact, name), getattr(fast, name)
        assert a.shape == b.shape == (n, load(folder).config.vocab_size)
        assert torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1] > 0.99
    whole = TorchDecoder(load(folder)).start([[*prompts[1], 77]], 0, 1)  # at once, not token by token
    torch.testing.assert_close(exact.second, whole, atol=1e-4, rtol=1e-4)  # type: ignore[attr-defined]


def test_an_answer_ends_after_its_lines_and_a_line_that_was_cut_off_has_no_end(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer(load(folder))
    newline, word = (writer.llm.tokenizer(text, add_special_tokens=False)["input_ids"][0] for text in ("\n", "rain"))
    script = iter([word, newline, word, newline, word])
    monkeypatch.setattr(writer, "_draw", lambda logits, generators: [next(script)])
    assert writer.complete(CONVERSATIONS[:1], [0], max_lines=2, max_tokens=12)[0].count("\n") == 2
    monkeypatch.setattr(writer, "_draw", lambda logits, generators: [word])
    assert "\n" not in writer.complete(CONVERSATIONS[:1], [0], max_lines=2, max_tokens=3)[0]
    monkeypatch.setattr(writer, "_draw", lambda logits, generators: [writer.llm.tokenizer.eos_token_id])
    assert writer.complete(CONVERSATIONS[:1], [0], max_lines=2, max_tokens=12) == ["\n"]


@pytest.mark.parametrize(("refused", "answers"), [("message.role == 'system'", True), ("true", False)])
def test_a_system_message_that_a_template_refuses_joins_the_users(folder: Path, refused: str, answers: bool) -> None:
    fault = "{% for message in messages if " + refused + " %}{{ raise_exception('no') }}{% endfor %}"
    (folder / "chat_template.jinja").write_text(fault + TEMPLATE)
    writer = Writer(load(folder))
    if not answers:
        with pytest.raises(InputError, match="its chat template fails .*; give another LLM"):
            complete(writer, [0])
        return
    joined = "<s>user what is the tool for\n\nplease show the weather<s>find"
    assert writer._text(CONVERSATIONS[0]) == joined and len(complete(writer, [0])) == 1


def test_an_llm_without_a_chat_template_is_refused(llm_folder: Path) -> None:
    with pytest.raises(InputError, match="no chat template.*give an instruct LLM"):
        Writer(load(llm_folder))
