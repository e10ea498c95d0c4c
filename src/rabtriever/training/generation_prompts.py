"""How an LLM is asked for requests: instructions and examples of each style, our own."""

from __future__ import annotations

LINES = 5  # of an answer
INTRODUCTION = (
    "You are given the description of something that helps people. Write five messages of five people who need exactly "
    "this and have never heard of it, numbered, one a line, in the language of the description. "
)
INSTRUCTIONS = {
    "situation": "Each tells of a concrete situation or problem and stops there: it asks for nothing, names no "
    "solution and uses none of the description's words.",
    "command": "Each is a terse command.",
    "question": "Each is an indirect question in everyday words.",
}
EXAMPLES: dict[str, dict[str, tuple[str, ...]]] = {
    "Locksmith: Opens doors whose key was lost or broke off, day and night.": {
        "situation": (
            "I went to take out the trash and the wind slammed it shut behind me.",
            "Half of it is still stuck in there and the kids are inside.",
            "grandma can't get into her flat again",
            "My purse was stolen and I am standing in front of my house.",
            "The new tenant moved in today but nobody gave her anything to get in with.",
        ),
        "command": (
            "Let me back in",
            "Send someone, I'm locked out",
            "unlock flat 4",
            "Open up my garage",
            "Get rid of this padlock",
        ),
        "question": (
            "Is there anybody who could help me get into my own apartment?",
            "What do people do when they left everything inside?",
            "do you know who deals with a stuck cylinder on a sunday",
            "Could somebody come over tonight, I can't get in?",
            "How would I enter my office if my bag is gone?",
        ),
    },
    "Refund times: How long a bank takes to return a payment that was cancelled.": {
        "situation": (
            "I sent the shoes back two weeks ago and my account still looks the same.",
            "They promised me my forty euros on Monday, and there is nothing.",
            "the concert was called off in May and I am still out of pocket",
            "The shop charged me twice and apologized, that was last Friday.",
            "Our landlord says he reversed it but we see no trace of it.",
        ),
        "command": (
            "Check on my money",
            "tell me when I'm paid back",
            "Find the missing 40 euros",
            "Look up my reversal",
            "Say when it arrives",
        ),
        "question": (
            "Is it normal to wait ten days after sending something back?",
            "when would I see the amount on my account",
            "Should I already have my money again?",
            "Would it be there before the weekend?",
            "Any idea how long I have to be patient with the airline?",
        ),
    },
}
EXAMPLE_TEXTS = [text for styles in EXAMPLES.values() for texts in styles.values() for text in texts]


def conversation(style: str, document: str) -> list[dict[str, str]]:
    """Returns the messages that ask for five requests in a style; the document comes last, all before it is shared."""
    messages = [{"role": "system", "content": INTRODUCTION + INSTRUCTIONS[style]}]
    for example, requests in EXAMPLES.items():
        lines = "\n".join(f"{number}. {text}" for number, text in enumerate(requests[style], start=1))
        messages += [{"role": "user", "content": example}, {"role": "assistant", "content": lines}]
    return [*messages, {"role": "user", "content": document}]
