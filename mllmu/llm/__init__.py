"""One client for every LLM endpoint that speaks the OpenAI chat protocol: used by the judge and by the source ``llm``.

``Client.ask_all`` puts many calls and yields checked objects; docs/how-to/llm.md says what it promises about retries,
budgets, the cache, and the key. Imports no torch.
"""

from mllmu.llm.client import Call, Client, Message, Preview, Unanswered
from mllmu.llm.endpoint import ReplyCache
from mllmu.llm.schema import fence, parse_object
from mllmu.llm.settings import Budget, EndpointSettings

__all__ = [
    "Budget", "Call", "Client", "EndpointSettings", "Message", "Preview", "ReplyCache", "Unanswered",
    "fence", "parse_object",
]  # fmt: skip
