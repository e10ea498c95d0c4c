import anyio
import pytest

from rabtriever.errors import InputError
from rabtriever.index.feedback import FeedbackStore
from rabtriever.mcp.feedback import Feedback
from rabtriever.mcp.vectors import Vectors
from rabtriever.retriever import Rabtriever
from rabtriever.serving.feedback_mode import FeedbackMode
from rabtriever.training.tune import tune

TOOLS = {"home.lamp": "turn the light on", "home.music": "play a song", "home.fail": "a recipe"}


@pytest.fixture
def vectors(sentence_encoders, make_tools, tmp_path):
    found = Vectors(tmp_path / "state", lambda: Rabtriever(sentence_encoders["bert"]))
    found.open()
    found.sync(make_tools(TOOLS))
    return found


def stored(vectors):
    return FeedbackStore(vectors.index.table.uri).read()


def test_a_call_after_a_search_that_showed_the_tool_is_a_choice(vectors):
    feedback = Feedback(FeedbackMode("texts"), vectors)
    shown = ["home.music", "home.lamp"]
    feedback.searched("one", "it is dark", shown)
    feedback.searched("one", "read to me", ["home.lamp", "home.music"])
    feedback.searched("two", "other", ["home.fail"])
    feedback.called("one", "home.lamp", True)  # the latest search that showed it
    feedback.called("one", "home.lamp", True)  # again: the same choice
    feedback.called("one", "home.fail", True)  # nobody showed it to this session
    feedback.called("two", "home.fail", False)
    feedback.called("nobody", "home.lamp", True)
    feedback.store()
    lamp, failed = stored(vectors)
    assert (lamp.query, lamp.id, lamp.shown, lamp.succeeded) == ("read to me", "home.lamp", (*shown[::-1],), True)
    assert (failed.query, failed.id, failed.succeeded) == ("other", "home.fail", False)
    encoder = vectors.index.retriever.encoder
    assert lamp.state == pytest.approx(encoder.encode_queries(["read to me"])[0].astype("float16"), abs=1e-3)


def test_digests_keep_no_text(vectors):
    feedback = Feedback(FeedbackMode("digests", {"RABTRIEVER_FEEDBACK_KEY": "k" * 16}), vectors)
    for _ in range(2):
        feedback.searched("one", "it is dark", ["home.lamp"])
        feedback.called("one", "home.lamp", True)
    feedback.store()
    first, second = stored(vectors)
    assert first.query is None and first.digest == second.digest and first.state is not None


def test_events_wait_for_the_model(vectors, make_tools):
    index, vectors.index = vectors.index, None
    feedback = Feedback(FeedbackMode("texts"), vectors)
    feedback.searched("one", "it is dark", ["home.lamp"])
    feedback.called("one", "home.lamp", True)
    feedback.store()
    vectors.index = index
    assert stored(vectors) == []
    feedback.store()
    assert len(stored(vectors)) == 1


def test_what_clients_do_becomes_labels_that_tune_learns(stubs, sentence_encoders):
    stubs.add("home", {tool.partition(".")[2]: text for tool, text in TOOLS.items()})
    vectors = Vectors(stubs.folder / "state", lambda: Rabtriever(sentence_encoders["bert"]))

    async def main():
        async with stubs.gateway(vectors=vectors, feedback=Feedback(FeedbackMode("texts"), vectors)) as (_, client):
            for n in range(12):
                request = {"request": f"it is so dark in room {n}"}
                await client.call_tool("search_tools", request)  # by words at first, or by meaning
                with anyio.fail_after(60):
                    while vectors.index is None or vectors.missing(_.catalogue.tools):
                        await anyio.sleep(0.01)
                found = (await client.call_tool("search_tools", request)).structured_content["tools"]
                assert {tool["name"] for tool in found} == set(TOOLS)
                await client.call_tool("call_tool", {"name": "home.lamp"})
            await client.call_tool("search_tools", {"request": "music"})  # a name: teaches nothing ...
            await client.call_tool("call_tool", {"name": "home.nothing"})  # ... nor does what is no tool

    anyio.run(main)
    events = stored(vectors)
    assert [event.query for event in events] == [f"it is so dark in room {n}" for n in range(12)]
    assert all(event.id == "home.lamp" and event.succeeded and set(event.shown) == set(TOOLS) for event in events)
    report = tune(vectors.index, events)
    assert report["labels"] == 12 and report["decided"] == 3


def test_modes_are_checked():
    with pytest.raises(InputError, match="RABTRIEVER_FEEDBACK_KEY is not set"):
        FeedbackMode("digests", {})
