"""Anthropic: Claude sees one tool, the search, and loads what it finds. The key is read from $ANTHROPIC_API_KEY."""

import anthropic
from home import FUNCTIONS, schema

from rabtriever import Index, Rabtriever
from rabtriever.integrations.tool_search import SEARCH_TOOL, anthropic_tool_result, anthropic_tools, tool_documents

functions = {function.__name__: function for function in FUNCTIONS}
tools = [{"name": name, "description": one.__doc__, "input_schema": schema(one)} for name, one in functions.items()]
index = Index.build(None, Rabtriever.from_pretrained("tools"), tool_documents(tools))


def answer(block):
    """Returns the result of a call: found tools, or what a tool said."""
    if block.name == SEARCH_TOOL:
        return anthropic_tool_result(index, block, k=3)
    return {"type": "tool_result", "tool_use_id": block.id, "content": functions[block.name](**block.input)}


client = anthropic.Anthropic()
messages = [{"role": "user", "content": "I knocked my soda over in the kitchen"}]
while True:
    message = client.messages.create(
        model="claude-sonnet-5", max_tokens=1024, tools=anthropic_tools(tools), messages=messages
    )
    messages.append({"role": "assistant", "content": message.content})
    results = [answer(block) for block in message.content if block.type == "tool_use"]
    if not results:
        break
    messages.append({"role": "user", "content": results})
print(message.content[0].text)
