"""Every setting, once: a name, a default and a sentence. `wanworks settings` prints this table."""

import math
import os
import socket
from collections.abc import Collection, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Self, get_args
from urllib.parse import parse_qsl, urlencode, urlsplit

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from shared.errors import ConfigurationError
from shared.net.outbound import Allowed
from shared.net.standard_webhooks import key_of
from shared.public_path import normalised
from wanworks import config_file
from wanworks.net.urls import ForbiddenAddress, check_url

_RENAMED = {"rering_seconds": "redispatch_seconds"}
"""Settings that had another name in an earlier release, and their names now."""


class Settings(BaseSettings):
    """Read from the file that ``WANWORKS_CONFIG`` names, if any; ``WANWORKS_*`` environment variables override it, and
    command-line options override both.
    """

    model_config = SettingsConfigDict(env_prefix="WANWORKS_", frozen=True, extra="ignore")

    # where things are
    home: Path = Field(Path("~/.wanworks"), description="Folder of everything this node keeps.")
    database_url: SecretStr | None = Field(
        None, description="PostgreSQL URL (postgresql+psycopg://...). Unset: SQLite in the home folder."
    )
    redis_url: SecretStr | None = Field(
        None, description="Redis URL; rediss:// for TLS. Unset: `wanworks up` starts one of its own."
    )
    redis_ca_file: Path | None = Field(
        None, description="Certificates that prove Redis's, in PEM; with rediss://. Unset: this machine's own."
    )
    models_path: Path | None = Field(None, description="Model storage, a Hugging Face cache. Unset: home/models.")
    loras_path: Path | None = Field(None, description="Folder of LoRA files, by name. Unset: home/loras.")
    store_path: Path | None = Field(None, description="Artifacts and inputs, seen by every node. Unset: home/store.")
    store_url: str | None = Field(
        None,
        pattern=r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9_-][A-Za-z0-9._-]*)*/?$",
        description="A bucket instead of the directory: s3://BUCKET or s3://BUCKET/PREFIX.",
    )
    store_endpoint: str | None = Field(
        None,
        pattern=r"^https?://[^\s/@?#]+/?$",
        description="Address of the bucket's server, where it is not Amazon's: https://HOST[:PORT].",
    )
    store_public_endpoint: str | None = Field(
        None,
        pattern=r"^https?://[^\s/@?#]+/?$",
        description="Its address as clients reach it, where that is another.",
    )
    store_region: str | None = Field(
        None, pattern=r"^[A-Za-z0-9-]{1,64}$", description="The bucket's region. Unset: as AWS settings say."
    )
    store_key_id: str | None = Field(None, description="Access key for the bucket. Unset: found as AWS tools find it.")
    store_secret: SecretStr | None = Field(None, validate_default=True, description="The access key's secret.")
    store_addressing: str = Field(
        "auto",
        pattern="^(auto|path|virtual)$",
        description="Bucket in the path or in the host's name; `auto`: in the name at Amazon, else the path.",
    )
    store_redirect: bool = Field(
        True, description="Clients fetch artifacts from the bucket, by signed links. False: through the API."
    )
    store_link_seconds: int = Field(3600, ge=1, le=604_800, description="How long such a link is good.")
    store_part_mb: int = Field(
        16, ge=6, le=1000, description="Files of twice this and more go to the bucket in parts of this size."
    )
    store_patience_seconds: float = Field(
        300.0, ge=0, le=86_400, description="How long a worker tries to send a file to a bucket that is away."
    )
    catalogue: str = Field("default", description="`default`, `demo`, or a TOML file that adds or replaces models.")

    # who this node is and where it listens
    node: str = Field(
        default_factory=lambda: socket.gethostname().split(".")[0],
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$",
        description="Name of this node, unique in the installation.",
    )
    devices: str = Field("auto", description="`auto`, `cpu:N` for N CPU devices, or `cuda:0,1`.")
    host: str = Field("127.0.0.1", description="Address that the API binds to.")
    port: int = Field(8000, ge=0, le=65535, description="Port of the API; 0 takes a free one.")
    allowed_origins: str = Field(
        "",
        pattern=r"^(https?://[^\s,/]+(,\s*https?://[^\s,/]+)*)?$",
        description="Origins besides its own whose pages may use the API, as https://HOST[:PORT], comma-separated.",
    )
    public_path: str = Field(
        "",
        description="Path under which a proxy shows the API to clients, such as /wan; it may take it off or leave it.",
    )
    flower_port: int = Field(5555, ge=0, le=65535, description="Port of Flower; 0 takes a free one.")
    flower_host: str = Field("127.0.0.1", description="Address that Flower binds to; the API passes its pages on.")
    flower_url: str | None = Field(
        None, pattern=r"^https?://[^\s]+$", description="Where the API finds Flower. Unset: on its own host."
    )
    flower_user: str = Field("wanworks", description="User name for Flower.")
    flower_password: SecretStr | None = Field(None, description="Password for Flower. Unset: made once, in the home.")

    # jobs
    lease_seconds: float = Field(
        60.0, ge=1, le=3600, description="How long an attempt is believed alive without a renewal."
    )
    heartbeat_seconds: float = Field(
        10.0, ge=0.1, description="How often a running attempt renews its lease; at most a third of it."
    )
    max_failures: int = Field(5, ge=1, le=100, description="Crashes and lapsed leases after which a job fails.")
    retry_backoff_seconds: float = Field(
        2.0, ge=0, le=3600, description="Wait after the first crash; doubles with each."
    )
    cancel_grace_seconds: float = Field(
        30.0, gt=0, le=3600, description="After this, a cancelled job's process is killed."
    )
    unplaced_limit_hours: float = Field(
        24.0, gt=0, le=87_600, description="A job fails once nothing that could run it was there for this long."
    )
    finishing_limit_seconds: float = Field(
        120.0, ge=1, le=86_400, description="A process that is not done this long after its job's end is killed."
    )
    loading_limit_seconds: float = Field(
        1800.0, ge=1, le=86_400, description="A model that loads for longer is given up."
    )
    encoding_limit_seconds: float = Field(
        300.0, ge=1, le=86_400, description="Prompt encoding that takes longer is given up."
    )
    step_limit_seconds: float = Field(
        600.0, ge=1, le=86_400, description="A step, decode chunk or mux beyond this is given up."
    )

    # scheduling
    dispatch_seconds: float = Field(
        2.0, ge=0.1, le=60, description="How often the dispatcher looks without being nudged."
    )
    redispatch_seconds: float = Field(
        15.0, ge=1, le=3600, description="A bell out for longer at an idle device is rung again."
    )
    device_silence_seconds: float = Field(
        30.0, ge=1, le=3600, description="A device unheard of for this long is not used."
    )
    beat: str = Field(
        "auto",
        pattern="^(auto|file|redbeat)$",
        description="What beat remembers: a `file` in the home, for one; `redbeat` in Redis, for several of which one "
        "leads. `auto`: redbeat with PostgreSQL.",
    )
    beat_takeover_seconds: float = Field(
        30.0, ge=5, le=3600, description="With redbeat: another beat leads when the first was silent for this long."
    )
    presence_seconds: float = Field(15.0, ge=0.1, le=3600, description="How often a node looks which models it holds.")
    sample_seconds: float = Field(
        5.0, ge=0.1, le=3600, description="How often a device's use, memory, temperature and power are recorded."
    )

    download_slots: int = Field(2, ge=1, le=32, description="Downloads that run at once on a node.")
    download_on_demand: bool = Field(
        False, description="A job whose model no node holds starts the download; always so with the demo catalogue."
    )

    # the model hub
    hub_url: str = Field(
        "https://huggingface.co",
        pattern=r"^https?://[^\s]+$",
        description="Where models come from; `wanworks hub` too.",
    )
    hub_token: SecretStr | None = Field(
        None, description="Token for gated and private models. HF_TOKEN and saved logins are not read."
    )
    download_limit_mbps: float | None = Field(
        None,
        gt=0,
        le=1_000_000,
        description="Bandwidth of all downloads of this node, in 10^6 bits/s. Unset: no limit.",
    )
    quiet_socket_seconds: float = Field(
        60.0, ge=1, le=300, description="A hub that sends nothing for this long is asked again."
    )

    # alerts
    alert_seconds: float = Field(15.0, ge=0.1, le=3600, description="How often the alert rules are asked.")
    alert_temperature_celsius: float = Field(87.0, gt=0, description="A device this hot for two minutes is too hot.")
    alert_memory_percent: float = Field(
        98.0, gt=0, le=100, description="A device's memory this full for ten minutes is nearly full."
    )
    alert_queue_minutes: float = Field(30.0, gt=0, description="A job that waits for longer has waited too long.")
    alert_stuck_minutes: float = Field(10.0, gt=0, description="A running job without progress for this long is stuck.")
    alert_failure_percent: float = Field(
        25.0, gt=0, le=100, description="Share of failed generations in the last hour, of at least four."
    )
    alert_slower_ratio: float = Field(
        1.5, gt=1, description="A model's latest generations take this many times as long as those before."
    )
    alert_disk_percent: float = Field(90.0, gt=0, le=100, description="Model storage this full is nearly full.")
    alert_disk_hours: float = Field(24.0, gt=0, description="Model storage that will be full within this time.")
    alert_stalled_seconds: float = Field(120.0, gt=0, description="A download without a byte for this long stalls.")
    alert_webhook_url: str | None = Field(
        None, pattern=r"^https?://[^\s]+$", description="Where alerts are sent as they open and resolve."
    )
    alert_webhook_secret: SecretStr | None = Field(
        None,
        validate_default=True,
        description="Key that signs them (Standard Webhooks): whsec_ and base64. Needed with the URL.",
    )

    # webhooks of jobs, and what else is fetched because a request says so
    webhook_secret: SecretStr | None = Field(
        None, description="Key that signs messages to jobs' webhooks: whsec_ and base64. Unset: the installation's own."
    )
    webhook_progress_seconds: float = Field(
        10.0,
        ge=0.1,
        le=86_400,
        description="How often at most a webhook is told of progress, where a job asks for that.",
    )
    outbound_allow: str = Field(
        "",
        description="Private hosts, addresses and networks that webhooks and pictures' URLs may name, comma-separated.",
    )

    # traces
    otlp_endpoint: str | None = Field(
        None,
        pattern=r"^https?://[^\s?#]+$",
        description="OpenTelemetry collector that traces go to by OTLP over HTTP (http://HOST:4318). Unset: no traces.",
    )
    otlp_headers: SecretStr | None = Field(
        None, description="Headers for it, a key say, as NAME=VALUE, comma-separated, values percent-encoded."
    )
    trace_sample_ratio: float = Field(
        1.0, ge=0, le=1, description="Share of traces begun here that are kept; a request's own traceparent decides."
    )

    # what is kept
    retention_days: float = Field(
        30.0, gt=0, le=36_500, description="Finished jobs and their artifacts are kept this long."
    )
    audit_days: float = Field(365.0, gt=0, le=36_500, description="Entries of the audit are kept this long.")
    min_free_disk_mb: int = Field(500, ge=0, description="Below this much free space no new job is accepted.")

    # generation
    memory_profile: str = Field("auto", description="`auto` picks by free memory, or a profile's name.")
    warm_models: int = Field(1, ge=1, description="Loaded models kept on a CPU device; a GPU keeps what fits.")
    prompt_cache_mb: int = Field(256, ge=0, description="Memory for prompt embeddings on each device.")

    log_level: str = Field("INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$", description="How much is logged.")
    log_format: str = Field(
        "auto", pattern="^(auto|json|text)$", description="`json` lines, `text`, or `auto`: text on a terminal alone."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, InitSettingsSource(settings_cls, config_file.values(cls.model_fields))

    @field_validator("*", mode="before")
    @classmethod
    def _no_boolean_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """A file of settings has booleans, and pydantic would take them for 1 and 0."""
        if isinstance(value, bool) and cls.model_fields[info.field_name or ""].annotation is not bool:
            raise ValueError("must not be true or false")
        return value

    @field_validator("*")
    @classmethod
    def _finite(cls, value: Any) -> Any:
        """No waiting, share or age may be infinite, or no number at all: comparisons with those are silently false."""
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError("must be a finite number")
        return value

    @field_validator("home", "models_path", "loras_path", "store_path", "redis_ca_file")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        return path.expanduser().absolute() if path is not None else None

    @field_validator(
        "store_path", "store_url", "store_endpoint", "store_public_endpoint", "store_key_id", mode="before"
    )
    @classmethod
    def _nothing(cls, value: Any) -> Any:
        """A container's own setting can be taken back by an empty one."""
        return None if value == "" else value

    @field_validator("store_url")
    @classmethod
    def _one_store(cls, url: str | None, info: ValidationInfo) -> str | None:
        if url is not None and info.data.get("store_path") is not None:
            raise ValueError("cannot be set beside WANWORKS_STORE_PATH: the store is a directory or a bucket")
        return url

    @field_validator("store_endpoint", "store_public_endpoint", "store_key_id")
    @classmethod
    def _of_a_bucket(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and "store_url" in info.data and info.data["store_url"] is None:
            raise ValueError("is for a bucket, and WANWORKS_STORE_URL names none")
        return value

    @field_validator("store_secret")
    @classmethod
    def _key_and_secret(cls, secret: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        secret = None if secret is not None and not secret.get_secret_value() else secret
        if (secret is None) != (info.data.get("store_key_id") is None):
            raise ValueError("and WANWORKS_STORE_KEY_ID are given together or not at all")
        return secret

    @field_validator("public_path")
    @classmethod
    def _sub_path(cls, text: str) -> str:
        return normalised(text)

    @field_validator("outbound_allow")
    @classmethod
    def _places(cls, text: str) -> str:
        Allowed.of(text)
        return text

    @field_validator("otlp_headers")
    @classmethod
    def _headers(cls, secret: SecretStr | None) -> SecretStr | None:
        pairs = secret.get_secret_value().split(",") if secret is not None else ()
        if not all(name.strip() and value.strip() for name, _, value in (pair.partition("=") for pair in pairs)):
            raise ValueError("must be NAME=VALUE, comma-separated")
        return secret

    @field_validator("webhook_secret")
    @classmethod
    def _job_webhook_key(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is not None:
            key_of(secret.get_secret_value())
        return secret

    @field_validator("alert_webhook_url")
    @classmethod
    def _address(cls, url: str | None) -> str | None:
        if url is not None:
            try:
                check_url(url)
            except ForbiddenAddress as error:
                raise ValueError(f"{error.message[0].lower()}{error.message[1:]}") from None
        return url

    @field_validator("alert_webhook_secret")
    @classmethod
    def _webhook_key(cls, secret: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if secret is None:
            if info.data.get("alert_webhook_url") is not None:
                raise ValueError("is needed with WANWORKS_ALERT_WEBHOOK_URL: what is sent is signed")
            return None
        key_of(secret.get_secret_value())
        return secret

    @model_validator(mode="after")
    def _agree(self) -> Self:
        """Refuses settings that are right by themselves and wrong together: names both, their values and the remedy."""
        said = [sentence for wrong, sentence in _contradictions(self) if wrong]
        if said:
            raise ValueError("; ".join(said))
        return self

    @cached_property
    def device_heartbeat_seconds(self) -> float:
        """How often devices and nodes say that they are alive: three times within the silence that is believed."""
        return min(5.0, self.device_silence_seconds / 3)

    @cached_property
    def reading_seconds(self) -> float:
        """For how long a device's newest reading stands for the present: some samples may be late."""
        return max(self.device_silence_seconds, 3 * self.sample_seconds)

    @cached_property
    def database(self) -> str:
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{self.home / 'wanworks.db'}"

    @cached_property
    def several_beats(self) -> bool:
        """Whether beats may run on several hosts, one of them leading."""
        return self.beat == "redbeat" or (self.beat == "auto" and not self.database.startswith("sqlite"))

    @cached_property
    def redis(self) -> str | None:
        """Redis's URL as every client library takes it, with all that TLS needs to know. It holds the password."""
        if self.redis_url is None:
            return None
        url = urlsplit(self.redis_url.get_secret_value())
        if url.scheme != "rediss":
            return url.geturl()
        query = {"ssl_cert_reqs": "required", **dict(parse_qsl(url.query))}
        if self.redis_ca_file is not None:
            query["ssl_ca_certs"] = str(self.redis_ca_file)
        return url._replace(query=urlencode(query, safe="/")).geturl()

    @cached_property
    def models_dir(self) -> Path:
        return self.models_path or self.home / "models"

    @cached_property
    def loras_dir(self) -> Path:
        return self.loras_path or self.home / "loras"

    @cached_property
    def store_dir(self) -> Path:
        return self.store_path or self.home / "store"


def load(**overrides: Any) -> Settings:
    """Settings from the file and the environment, with `overrides` (None is ignored) on top.

    Raises ConfigurationError naming the setting and where it stands, its variable or the file, never its value.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    _refuse_old_names()
    try:
        return Settings(**given)
    except ValidationError as error:
        problems = (_problem(item, given) for item in error.errors())
        raise ConfigurationError("; ".join(problems)) from None


def _refuse_old_names() -> None:
    """Raise ConfigurationError if a setting is given under the name that it had in an earlier release."""
    variables = {f"WANWORKS_{old.upper()}": f"WANWORKS_{new.upper()}" for old, new in _RENAMED.items()}
    found = [f"{old} is now {new}" for old, new in variables.items() if old in os.environ]
    in_file = config_file.read()
    found += [f"{config_file.path()}: {old} is now {new}" for old, new in _RENAMED.items() if old in in_file]
    if found:
        raise ConfigurationError(f"{'; '.join(found)}: rename it")


def secrets() -> frozenset[str]:
    """The names of the settings that nobody else may read."""
    fields = Settings.model_fields.items()
    return frozenset(name for name, field in fields if SecretStr in (field.annotation, *get_args(field.annotation)))


def _contradictions(settings: Settings) -> Iterator[tuple[bool, str]]:
    """Pairs of settings: whether they contradict each other, and what to say then."""

    def said(name: str) -> str:
        return f"WANWORKS_{name.upper()} ({getattr(settings, name):g})"

    lease, heartbeat = settings.lease_seconds, settings.heartbeat_seconds
    yield (
        heartbeat > lease / 3,
        f"{said('heartbeat_seconds')} must be at most a third of {said('lease_seconds')}, or one late renewal costs a "
        f"running job its lease: set the first to {lease / 3:.3g} or less or the second to {3 * heartbeat:.3g} or more",
    )
    yield (
        settings.alert_stalled_seconds < settings.quiet_socket_seconds,
        f"{said('alert_stalled_seconds')} must not be less than {said('quiet_socket_seconds')}, or a download counts "
        "as stalled before a quiet hub is asked again: raise the first or lower the second",
    )
    yield (
        settings.store_url is not None and settings.store_patience_seconds > settings.step_limit_seconds,
        f"{said('store_patience_seconds')} must not be more than {said('step_limit_seconds')}, or a job is given up "
        "while it waits for the bucket: lower the first or raise the second",
    )
    yield (
        settings.port == settings.flower_port != 0 and settings.flower_url is None and _meet(settings),
        f"{said('port')} and {said('flower_port')} are one port of one host: give another to one of them, or 0, which "
        "takes a free one",
    )


def _meet(settings: Settings) -> bool:
    """Whether the API and Flower bind to the same address, or one of them to all."""
    places = {settings.host, settings.flower_host}
    return len(places) == 1 or not places.isdisjoint({"0.0.0.0", "::"})


def _problem(item: ErrorDetails, given: Collection[str]) -> str:
    """One thing that is wrong. Of settings that contradict each other the sentence names them itself."""
    message = item["msg"].removeprefix("Value error, ")
    return f"{_place(str(item['loc'][0]), given)}: {item['msg']}" if item["loc"] else message


def _place(name: str, given: Collection[str]) -> str:
    """Where the value of that setting was read."""
    variable = f"WANWORKS_{name.upper()}"
    if name in given or variable in os.environ or name not in config_file.values(Settings.model_fields):
        return variable
    return f"{config_file.path()}: {name}"
