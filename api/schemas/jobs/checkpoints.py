"""Fields of jobs and results about checkpoints of a generation, and about giving its device to a critical job."""

from typing import Annotated

from pydantic import Field

PreemptedField = Annotated[
    int, Field(description="How often it has given its device to a critical job, at most twice.")
]
CheckpointStep = Annotated[
    int | None, Field(description="The completed steps of its latest checkpoint; null: none, or it has ended.")
]
ResumedFromStep = Annotated[
    int | None, Field(description="The completed steps with which its latest attempt began; null: none.")
]
