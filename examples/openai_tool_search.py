"""OpenAI: the model sees one tool, the search, and loads what it finds. The key is read from $OPENAI_API_KEY."""

import json

import openai
from home import FUNCTIONS, schema

from rabtriever import Index, Rabtriever
from rabtriever.integrations.tool_search import openai_search_output, openai_search_tool, tool_documents

functions = {function.__name__: function for function in FUNCTIONS}
tools = [
    {"type": "function", "name": name, "description": one.__doc__, "parameters": schema(one)}
    for name, one in functions.items()
]
index = Index.build(None, Rabtriever.from_pretrained("tools"), tool_documents(tools))


def answer(item):
    """Returns the output of a call: found tools, or what a tool said."""
    if item.type == "tool_search_call":
        return openai_search_output(index, tools, item, k=3)
    output = functions[item.name](**json.loads(item.arguments))
    return {"type": "function_call_output", "call_id": item.call_id, "output": output}


client = openai.OpenAI()
items = [{"role": "user", "content": "I knocked my soda over in the kitchen"}]
while True:
    response = client.responses.create(model="gpt-5.4", input=items, tools=[openai_search_tool()], store=False)
    items += response.output
    outputs = [answer(item) for item in response.output if item.type in ("tool_search_call", "function_call")]
    if not outputs:
        break
    items += outputs
print(response.output_text)
