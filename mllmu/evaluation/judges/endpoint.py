"""A language model behind an OpenAI-compatible endpoint as judge."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from statistics import median

from pydantic import Field

from mllmu.evaluation.judges import Case, Judge, JudgeSession, Rating, Verdict, messages
from mllmu.llm import Call, Client, EndpointSettings, Preview, Unanswered

MAX_REASON = 300


class EndpointJudge(Judge, EndpointSettings):
    """Judge by any OpenAI-compatible chat endpoint, with the rubric of ``rubric.yaml``: 1 to 10 points and a reason.

    With several votes the median counts, and a reply of which at least one vote could be read is judged; with none it
    is not judged (value None), counted, and never silently left out. Votes are asked with different seeds, and are
    only worth their price if ``temperature`` is above 0.

    The client keeps its promises about retries, budget, cache and key: see docs/how-to/llm.md.

    Source: the factuality score of MLLMU-Bench, https://arxiv.org/abs/2410.22108; the rubric is restated.
    """

    source = "https://arxiv.org/abs/2410.22108"

    max_tokens: int | None = Field(200, ge=1, le=10**6, description="most tokens a verdict may have; null: not sent")
    votes: int = Field(1, ge=1, le=15, description="how often each reply is judged; the median counts")

    def calls(self, cases: Sequence[Case]) -> list[Call]:
        """The calls for some cases, all votes of a case next to each other."""
        seeds: list[int | None] = [None] if self.votes == 1 else list(range(1, self.votes + 1))
        return [Call(messages(case), seed) for case in cases for seed in seeds]

    def preview(self, cases: Sequence[Case], num_prompts: int) -> Preview:
        found = Preview.of(self, Rating, self.calls(cases), num_prompts * self.votes)
        return found._replace(prompts=found.prompts[:: self.votes])

    @contextmanager
    def session(self) -> Iterator[JudgeSession]:
        with Client(self, Rating) as client:
            yield JudgeSession(partial(self._judge, client), client.budget.facts, client.budget.figures)

    def _judge(self, client: Client[Rating], cases: Sequence[Case]) -> Iterator[Verdict]:
        votes: defaultdict[int, list[Rating | Unanswered]] = defaultdict(list)
        for index, answer in client.ask_all(self.calls(cases)):
            number = index // self.votes
            votes[number].append(answer)
            if len(votes[number]) == self.votes:
                yield verdict(cases[number], votes.pop(number))


def verdict(case: Case, votes: Sequence[Rating | Unanswered]) -> Verdict:
    """The median of the readable votes, with the reason of the vote nearest to it; None if no vote is readable."""
    ratings = [vote for vote in votes if isinstance(vote, Rating)]
    failures = sorted(vote.reason for vote in votes if isinstance(vote, Unanswered))
    if not ratings:
        return Verdict(sample_id=case.sample_id, value=None, reason=failures[0][:MAX_REASON])
    points = float(median(rating.score for rating in ratings))
    nearest = min(ratings, key=lambda rating: (abs(rating.score - points), rating.score, rating.reason))
    lost = f" ({len(failures)} of {len(votes)} votes could not be read)" if failures else ""
    return Verdict(sample_id=case.sample_id, value=points, reason=nearest.reason[:MAX_REASON] + lost)
