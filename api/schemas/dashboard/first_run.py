"""What an installation needs before its first video: what its hosts have, which models fit, the disk and the hub."""

from typing import Annotated, Literal

from pydantic import Field

from api.schemas.fields import ResponseModel


class ModelFit(ResponseModel):
    """One model with its default size on the best device of one node. Sizes are in GB of 10^9 bytes."""

    model_id: str
    node: str
    device: str
    fits: Annotated[bool, Field(description="Whether the device and its host have the memory.")]
    quantization: Annotated[str | None, Field(description="The first that fits. Null: none does.")]
    layout: Annotated[
        str | None, Field(description="Where the weights are while a job runs: see Hardware in the docs.")
    ]
    device_gb: float | None
    host_gb: float | None
    seconds: Annotated[float | None, Field(description="Of one video with the defaults. Null: not known.")]
    basis: Annotated[
        Literal["measured", "derived", "none"],
        Field(
            description="`measured`: by jobs of this installation. `derived`: from published seconds of one step on "
            "another card by arithmetic. `none`: this device is in neither."
        ),
    ]
    download_gb: float
    copies_gb: Annotated[
        float, Field(description="At most, for copies of the weights that the settings ask for (derived).")
    ]
    disk_free_gb: float | None
    room: Annotated[
        Literal["enough", "without_copies", "short", "unknown"],
        Field(description="Whether the node's disk has room for the files, and for the copies too."),
    ]
    available: bool
    downloading: Annotated[str | None, Field(description="The job that downloads it.")]


class Hub(ResponseModel):
    """The model hub, as the host that answers sees it, some seconds ago."""

    url: str
    reachable: bool
    detail: Annotated[str | None, Field(description="Why it is not reachable.")]


class FirstDownload(ResponseModel):
    """What a job of a model that no node has would do about its files."""

    model_id: str
    download_gb: Annotated[
        float, Field(description="By the catalogue; of a preset whose base is there, its own files.")
    ]
    state: Annotated[
        Literal["starts", "going", "refused"],
        Field(
            description="`starts`: the job starts the download. `going`: one is queued or running. `refused`: the job "
            "would wait until somebody acts; `why_not` says why."
        ),
    ]
    job_id: Annotated[str | None, Field(description="The download that is queued, running or paused.")]
    reason: Annotated[
        Literal["paused", "damaged", "setting", "ended", "no_node", "hub", "no_room"] | None,
        Field(description="Why it is refused: `setting` is `download_on_demand`."),
    ]
    why_not: str | None


class FirstRun(ResponseModel):
    """Whether a job that is submitted now would run, and else what is missing."""

    ready: Annotated[bool, Field(description="A model is available and fits a device that accepts jobs.")]
    why_not: str | None
    any_model: Annotated[bool, Field(description="Whether any node has any model.")]
    best: Annotated[str | None, Field(description="The most capable model that fits and has room.")]
    models: list[ModelFit]
    first_downloads: Annotated[list[FirstDownload], Field(description="For each model that no node has.")]
    hub: Hub
