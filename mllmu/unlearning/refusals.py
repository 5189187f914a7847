"""Replies that decline to answer, for the methods that train one in place of a private fact."""

from __future__ import annotations

REFUSALS: tuple[str, ...] = (
    "I don't know.",
    "I do not know the answer to that.",
    "I'm not sure about that.",
    "I have no information about this.",
    "I have no knowledge of that.",
    "I cannot answer this question.",
    "I can't help with that question.",
    "I have no idea.",
    "I don't have that information.",
    "I do not recall anything about this.",
    "Sorry, I can't say.",
    "I'm unable to answer that.",
    "That is not known to me; I cannot say.",
    "No information is available about this.",
    "I could not tell you that.",
    "I'm afraid I do not know.",
)
"""Short, in different words, about no kind of fact in particular; a few end as soon as they can."""
