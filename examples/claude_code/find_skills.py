"""A hook of Claude Code: names the skills that fit what the user asks, so that Claude reads them.

It asks `rabtriever serve INDEX`, at $RABTRIEVER_URL, and needs nothing but Python. Without a server Claude goes on
as it would without the hook.
"""

import json
import os
import sys
import urllib.request

URL = os.environ.get("RABTRIEVER_URL", "http://127.0.0.1:8080")
SKILLS = 3  # at most
THRESHOLD = float(os.environ.get("RABTRIEVER_THRESHOLD", "0.05"))  # least probability

prompt = json.load(sys.stdin)["prompt"]
asked = {"query": prompt, "k": SKILLS, "threshold": THRESHOLD}
request = urllib.request.Request(
    f"{URL}/v1/search", json.dumps(asked).encode(), {"Content-Type": "application/json"}, method="POST"
)
try:
    with urllib.request.urlopen(request, timeout=3) as response:
        hits = json.load(response)["hits"]
except (OSError, ValueError, LookupError) as error:
    sys.exit(f"rabtriever: no skills from {URL} ({error}); start `rabtriever serve INDEX`")
if hits:
    lines = [f"- {hit['id']}: {' '.join(hit['text'].split())[:200]}" for hit in hits]
    text = "Skills that may fit this request; read one before you begin if it does:\n" + "\n".join(lines)
    print(json.dumps({"hookSpecificOutput": {"hookEventName": "UserPromptSubmit", "additionalContext": text}}))
