"""The section ``report`` of a recipe."""

from pydantic import Field

from mllmu.core.plugins import Settings


class Report(Settings):
    """What the report shows."""

    title: str = Field("", description="title of the page; empty: the recipe's name; e.g. NPO on LLaVA")
    reference_rows: bool = False
    """also show the paper's numbers (LLaVA-1.5-7B, 5 % forgotten), in a table of their own"""
    num_examples: int = Field(6, ge=0, le=10_000, description="example questions with the replies of all models")
