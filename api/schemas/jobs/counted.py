"""The response to a generation with `count`."""

from typing import Annotated

from pydantic import Field, RootModel

from api.schemas.jobs.dry_run import DryRun
from api.schemas.jobs.jobs import Job


class CountedJob(Job):
    """The first of several jobs that differ in their seeds. `batch_id` is their batch."""

    job_ids: Annotated[list[str], Field(description="All of them, in the order of their seeds.")]


class NewGeneration(RootModel[CountedJob | Job]):
    """The queued job, or the first of several."""


class EarlierGeneration(RootModel[CountedJob | Job | DryRun]):
    """A job that was created earlier, or the first of several; or the result of a dry run."""
