"""What is kept of the queries that feedback is about."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from rabtriever.choices import FEEDBACK_MODES
from rabtriever.data import FeedbackEvent
from rabtriever.errors import InputError
from rabtriever.serving.auth import MIN_KEY_LENGTH

KEY = "RABTRIEVER_FEEDBACK_KEY"


class FeedbackMode:
    """What is kept of a query: its text, or a digest that only the key's owner can make of it.

    Args:
        name: One of :data:`rabtriever.choices.FEEDBACK_MODES`.
        environment: Where the key of digests is.

    Raises:
        InputError: the name is unknown, or digests are asked for without a key.
    """

    def __init__(self, name: str, environment: Mapping[str, str] = os.environ) -> None:
        if name not in FEEDBACK_MODES:
            raise InputError(f"--feedback {name}: choose one of {', '.join(FEEDBACK_MODES)}", param="feedback")
        key = environment.get(KEY, "") if name == "digests" else ""
        if name == "digests" and len(key) < MIN_KEY_LENGTH:
            fault = f"has {len(key)} characters" if key else "is not set"
            remedy = f"set it to {MIN_KEY_LENGTH} or more, as of `openssl rand -hex 16`"
            raise InputError(f"--feedback digests: ${KEY} {fault}; {remedy}", param="feedback")
        self.on, self._key = name != "off", key.encode("utf-8", "surrogateescape")

    def apply(self, event: FeedbackEvent, state: np.ndarray) -> FeedbackEvent:
        """Returns an event as it is to be stored, with the embedding, float16 (H,), of its query."""
        if not self._key:
            return replace(event, state=state)
        digest = hmac.new(self._key, (event.query or "").encode(), hashlib.sha256).hexdigest()
        return replace(event, query=None, digest=digest, state=state)
