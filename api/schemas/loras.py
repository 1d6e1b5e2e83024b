"""Requests and responses of the library of LoRAs."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from api.schemas.fields import RequestModel, ResponseModel, Time
from shared import patterns
from wanworks.net.urls import ForbiddenAddress, check_url
from wanworks.requests import LORA_NAME, PLAIN, Rule, lora_name

LoraName = Annotated[str, Field(max_length=128, examples=["film-grain"]), Rule(lora_name, f"^{LORA_NAME.pattern}$")]
Expert = Annotated[
    Literal["both", "high", "low"],
    Field(description="The experts that the file is for: `both` (also for models with one), or one half of a pair."),
]
Description = Annotated[str, Field(max_length=1000), PLAIN]


def _url(value: str | None) -> str | None:
    if value is not None:
        try:
            check_url(value)
        except ForbiddenAddress as error:
            raise ValueError(error.message[0].lower() + error.message[1:]) from None
    return value


class UploadQuery(BaseModel):
    """What is uploaded: the body is the file."""

    model_config = ConfigDict(extra="forbid")

    name: LoraName
    expert: Expert = "both"
    description: Description = ""


class FetchRequest(RequestModel):
    """Fetch a LoRA's file from the hub (`repo` and `file`) or from a `url`."""

    name: LoraName
    expert: Expert = "both"
    description: Description = ""
    repo: Annotated[str, Field(max_length=200, pattern=patterns.REPO, examples=["maker/film-grain"])] | None = None
    file: (
        Annotated[str, Field(max_length=300, pattern=patterns.REPO_FILE, description="Its path in `repo`.")] | None
    ) = None
    revision: Annotated[str, Field(pattern=patterns.NAME)] = "main"
    url: (
        Annotated[str, Field(max_length=2000, description="A public http(s) address."), AfterValidator(_url)] | None
    ) = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.url is None) == (self.repo is None):
            raise ValueError("give either `url`, or `repo` and `file`")
        if (self.repo is None) != (self.file is None):
            raise ValueError("`repo` and `file` belong together")
        return self


class LoraChange(RequestModel):
    """What to change. Fields that are left out stay."""

    description: Description | None = None
    shared: Annotated[bool, Field(strict=True, description="Whether every key may use it.")] | None = None
    shared_with: (
        Annotated[
            list[Annotated[str, Field(max_length=64), PLAIN]], Field(max_length=100, description="Names of keys.")
        ]
        | None
    ) = None


class LoraFile(ResponseModel):
    """One file of a LoRA."""

    expert: Expert
    sha256: str
    bytes: int
    keys: Annotated[int, Field(description="How many keys it has.")]
    rank: Annotated[int | None, Field(description="The largest rank of its pairs. Null: its header does not tell.")]
    base: Annotated[str | None, Field(description="The size of the models that it fits: `14B`, `5B` or `1.3B`.")]
    experts: Annotated[list[str], Field(description="The experts that its own keys name; empty: none.")]
    source: Literal["upload", "hub", "url"]
    origin: Annotated[str, Field(description="Where it was fetched from.")]


class Lora(ResponseModel):
    """One LoRA. Requests name it in `loras`."""

    id: Annotated[str | None, Field(description="Null: a file in the operator's folder, which the API cannot change.")]
    name: str
    description: str
    source: Annotated[Literal["library", "folder"], Field(description="Where it is kept.")]
    files: list[LoraFile]
    bytes: Annotated[int | None, Field(description="Of all files. Null: of the folder.")]
    mine: Annotated[bool, Field(description="Whether this key added it.")]
    owner: Annotated[
        str | None, Field(description="The name of the key that added it; null: it was added without one.")
    ]
    shared: bool
    shared_with: Annotated[list[str], Field(description="Names of keys. Only its owner and `admin` see them.")]
    created_at: Time | None


class Loras(ResponseModel):
    """All LoRAs that the caller may use, by name."""

    data: list[Lora]
