"""Every setting: name, default and description. `wanworks settings` prints them."""

import math
import socket
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self, get_args
from urllib.parse import parse_qsl, urlencode, urlsplit

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from shared import daily_window, patterns, setting_checks
from shared.errors import ConfigurationError
from shared.net.outbound import Allowed
from shared.net.standard_webhooks import key_of
from shared.public_path import normalised
from wanworks import config_file
from wanworks.net.urls import ForbiddenAddress, check_url


class Settings(BaseSettings):
    """The settings of one process.

    They are read from the file named by ``WANWORKS_CONFIG``, if any. ``WANWORKS_*`` environment variables override the
    file, and command-line options override both.
    """

    model_config = SettingsConfigDict(env_prefix="WANWORKS_", frozen=True, extra="ignore")

    # paths and addresses
    home: Path = Field(Path("~/.wanworks"), description="Folder of all data of this node.")
    database_url: SecretStr | None = Field(
        None, description="PostgreSQL URL (postgresql+psycopg://...). Unset: SQLite in the home folder."
    )
    redis_url: SecretStr | None = Field(
        None, description="Redis URL; rediss:// for TLS. Unset: `wanworks up` starts a Redis itself."
    )
    redis_ca_file: Path | None = Field(
        None, description="PEM file of CA certificates that verify the Redis server (rediss://). Unset: the system's."
    )
    models_path: Path | None = Field(None, description="Model storage, a Hugging Face cache. Unset: home/models.")
    loras_path: Path | None = Field(None, description="Folder of LoRA files, by name. Unset: home/loras.")
    lora_max_mb: int = Field(
        2000, ge=1, le=100_000, description="Largest file of a LoRA that is uploaded or fetched, in MB (10^6 bytes)."
    )
    lora_copies_gb: float = Field(
        50.0, ge=0, le=100_000, description="Disk for a node's copies of LoRAs from a bucket, in GB (10^9 bytes)."
    )
    store_path: Path | None = Field(None, description="Artifacts and inputs, shared by all nodes. Unset: home/store.")
    store_url: str | None = Field(
        None,
        pattern=patterns.BUCKET,
        description="A bucket instead of the directory: s3://BUCKET or s3://BUCKET/PREFIX.",
    )
    store_endpoint: str | None = Field(
        None,
        pattern=patterns.SERVER,
        description="Address of the bucket's server, unless it is Amazon's: https://HOST[:PORT].",
    )
    store_public_endpoint: str | None = Field(
        None,
        pattern=patterns.SERVER,
        description="Address of the bucket's server for clients, if it differs.",
    )
    store_region: str | None = Field(
        None,
        pattern=patterns.REGION,
        description="The bucket's region. Unset: taken from the AWS configuration.",
    )
    store_key_id: str | None = Field(
        None, description="Access key for the bucket. Unset: taken from the AWS configuration."
    )
    store_secret: SecretStr | None = Field(None, validate_default=True, description="Secret of the access key.")
    store_addressing: str = Field(
        "auto",
        pattern=patterns.one_of("auto", "path", "virtual"),
        description="Bucket name in the `path` or in the host name (`virtual`). `auto`: virtual at Amazon, else path.",
    )
    store_redirect: bool = Field(
        True, description="Clients fetch artifacts from the bucket by signed links. False: through the API."
    )
    store_link_seconds: int = Field(3600, ge=1, le=604_800, description="How long such a link is valid.")
    store_part_mb: int = Field(
        16,
        ge=6,
        le=1000,
        description="Part size of uploads to the bucket; files of at least twice this size are sent in parts.",
    )
    store_patience_seconds: float = Field(
        300.0, ge=0, le=86_400, description="How long a worker tries to upload a file while the bucket is unavailable."
    )
    catalogue: str = Field("default", description="`default`, `demo`, or a TOML file that adds or replaces models.")

    # this node and its ports
    node: str = Field(
        default_factory=lambda: socket.gethostname().split(".")[0],
        pattern=patterns.NODE,
        description="Name of this node, unique in the installation.",
    )
    devices: str = Field("auto", description="`auto`, `cpu:N` for N CPU devices, or `cuda:0,1`.")
    host: str = Field("127.0.0.1", description="Address that the API binds to.")
    port: int = Field(8000, ge=0, le=65535, description="Port of the API; 0 for a free one.")
    allowed_origins: str = Field(
        "",
        pattern=patterns.ORIGINS,
        description="Further origins whose pages may use the API, as https://HOST[:PORT], comma-separated.",
    )
    public_path: str = Field(
        "",
        description="Path under which a proxy serves the API, such as /wan. The proxy may strip it or keep it.",
    )
    flower_port: int = Field(5555, ge=0, le=65535, description="Port of Flower; 0 for a free one.")
    flower_host: str = Field("127.0.0.1", description="Address that Flower binds to; the API forwards its pages.")
    flower_url: str | None = Field(
        None, pattern=patterns.URL, description="URL at which the API reaches Flower. Unset: on the same host."
    )
    flower_user: str = Field("wanworks", description="User name for Flower.")
    flower_password: SecretStr | None = Field(
        None, description="Password for Flower. Unset: generated once and kept in the home folder."
    )

    # jobs
    lease_seconds: float = Field(
        60.0, ge=1, le=3600, description="How long an attempt counts as alive without a renewal."
    )
    heartbeat_seconds: float = Field(
        10.0, ge=0.1, description="How often a running attempt renews its lease; at most a third of the lease."
    )
    max_failures: int = Field(5, ge=1, le=100, description="Crashes and expired leases after which a job fails.")
    retry_backoff_seconds: float = Field(
        2.0, ge=0, le=3600, description="Delay after the first crash; it doubles with each crash."
    )
    max_attempts_limit: int = Field(20, ge=1, le=100, description="Greatest `max_attempts` that a request may name.")
    retry_backoff_limit_seconds: float = Field(
        3600.0, ge=0, le=86_400, description="Greatest `retry_backoff_seconds` that a request may name."
    )
    cancel_grace_seconds: float = Field(
        30.0, gt=0, le=3600, description="A cancelled job's process is killed if it has not stopped after this time."
    )
    unplaced_limit_hours: float = Field(
        24.0, gt=0, le=87_600, description="A job fails if nothing has been able to run it for this long."
    )
    finishing_limit_seconds: float = Field(
        120.0, ge=1, le=86_400, description="A process that has not finished this long after its job's end is killed."
    )
    overlap_finishing: bool = Field(
        True,
        description="A process of its own encodes, checks and stores a video while the device runs the next job. "
        "False: the device waits for that.",
    )
    preview_seconds: float = Field(
        3.0, ge=0, description="How often a generation that denoises publishes a preview. 0: no previews."
    )
    checkpoint_seconds: float = Field(
        60.0, ge=0, le=86_400, description="How often a generation writes a checkpoint to its node's disk. 0: only "
        "when it is asked to yield its device."
    )  # fmt: skip
    checkpoints_in_store: bool = Field(
        False, description="Copy each checkpoint to the store too, so that a job can continue on another node."
    )
    preemption: bool = Field(
        True, description="A `critical` job takes the device of a `low` one if no device is free for it soon."
    )
    preemption_wait_seconds: float = Field(
        10.0, ge=0, le=86_400, description="So long a `critical` job waits for a device before it takes one."
    )
    loading_limit_seconds: float = Field(1800.0, ge=1, le=86_400, description="Time limit for loading a model.")
    encoding_limit_seconds: float = Field(300.0, ge=1, le=86_400, description="Time limit for encoding a prompt.")
    step_limit_seconds: float = Field(
        600.0, ge=1, le=86_400, description="Time limit for one step, decode chunk or mux."
    )

    # scheduling
    dispatch_seconds: float = Field(
        2.0, ge=0.1, le=60, description="How often the dispatcher makes a pass without a wake-up."
    )
    redispatch_seconds: float = Field(
        15.0,
        ge=1,
        le=3600,
        description="A dispatch message that an idle device has not answered for this long is sent again.",
    )
    device_silence_seconds: float = Field(
        30.0, ge=1, le=3600, description="A device without a heartbeat for this long is not used."
    )
    beat: str = Field(
        "auto",
        pattern=patterns.one_of("auto", "file", "redbeat"),
        description="Where beat keeps its schedule: a `file` in the home folder, for one beat; `redbeat` in Redis, for "
        "several of which one leads. `auto`: redbeat with PostgreSQL.",
    )
    beat_takeover_seconds: float = Field(
        30.0,
        ge=5,
        le=3600,
        description="With redbeat: another beat takes over when the leader was silent for this long.",
    )
    presence_seconds: float = Field(15.0, ge=0.1, le=3600, description="How often a node checks which models it holds.")
    sample_seconds: float = Field(
        5.0, ge=0.1, le=3600, description="How often a device's use, memory, temperature and power are recorded."
    )
    low_priority_window: str = Field(
        "",
        description="When jobs of low priority start: HH:MM-HH:MM and a time zone, such as 22:00-07:00 Europe/Berlin. "
        "A key may have a window of its own. Empty: at any time. The dispatcher's setting counts for all.",
    )

    download_slots: int = Field(2, ge=1, le=32, description="Downloads that run at once on a node.")
    prepare_downloads: str = Field(
        "auto",
        pattern=patterns.COPIES,
        description="Copies of the weights that a download writes, so that loading converts nothing: `bf16`, `int8`, "
        "`fp8`, several of them joined by commas, `none`, or `auto`: bf16 on a node with a CUDA device.",
    )
    keep_sources: bool = Field(
        True,
        description="Keep published weights that have a bf16 copy. False: remove them, which halves a model's size; "
        "a repair then downloads them again.",
    )
    download_on_demand: bool = Field(
        False, description="A job whose model no node holds starts the download; always on with the demo catalogue."
    )

    # the model hub
    hub_url: str = Field(
        "https://huggingface.co",
        pattern=patterns.URL,
        description="URL that models are downloaded from; `wanworks hub` works too.",
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
        60.0, ge=1, le=300, description="A request to the hub is repeated after this time without data."
    )

    # alerts
    alert_seconds: float = Field(15.0, ge=0.1, le=3600, description="How often the alert rules are evaluated.")
    alert_temperature_celsius: float = Field(
        87.0, gt=0, description="An alert opens if a device is at least this hot for two minutes."
    )
    alert_memory_percent: float = Field(
        98.0, gt=0, le=100, description="Memory use of a device that opens an alert after ten minutes."
    )
    alert_queue_minutes: float = Field(30.0, gt=0, description="An alert opens if a job that can run waits longer.")
    alert_stuck_minutes: float = Field(
        10.0, gt=0, description="Time without progress after which a running job opens an alert."
    )
    alert_failure_percent: float = Field(
        25.0,
        gt=0,
        le=100,
        description="Share of failed generations in the last hour, of at least four, that opens an alert.",
    )
    alert_slower_ratio: float = Field(
        1.5, gt=1, description="Ratio of a model's latest generation times to earlier ones that opens an alert."
    )
    alert_disk_percent: float = Field(90.0, gt=0, le=100, description="Use of the model storage that opens an alert.")
    alert_disk_hours: float = Field(
        24.0, gt=0, description="An alert opens if the model storage will be full within this time."
    )
    alert_stalled_seconds: float = Field(
        120.0, gt=0, description="Time without data after which a download opens an alert."
    )
    alert_webhook_url: str | None = Field(
        None, pattern=patterns.URL, description="URL that alerts are sent to when they open and resolve."
    )
    alert_webhook_secret: SecretStr | None = Field(
        None,
        validate_default=True,
        description="Key that signs alert messages (Standard Webhooks): whsec_ and base64. Required with the URL.",
    )

    # webhooks of jobs, and other URLs in requests
    webhook_secret: SecretStr | None = Field(
        None, description="Key that signs messages to jobs' webhooks: whsec_ and base64. Unset: generated once."
    )
    webhook_progress_seconds: float = Field(
        10.0,
        ge=0.1,
        le=86_400,
        description="Minimum time between progress messages to a webhook, for jobs that request them.",
    )
    outbound_allow: str = Field(
        "",
        description="Private hosts, addresses and networks that URLs of webhooks and images may name, comma-separated.",
    )

    # traces
    otlp_endpoint: str | None = Field(
        None,
        pattern=patterns.COLLECTOR,
        description="OpenTelemetry collector for traces, OTLP over HTTP (http://HOST:4318). Unset: no traces.",
    )
    otlp_headers: SecretStr | None = Field(
        None, description="Headers for the collector as NAME=VALUE, comma-separated, values percent-encoded."
    )
    trace_sample_ratio: float = Field(
        1.0, ge=0, le=1, description="Share of new traces that are kept; a request's traceparent overrides it."
    )

    # retention
    retention_days: float = Field(
        30.0, gt=0, le=36_500, description="How long finished jobs and their artifacts are kept."
    )
    audit_days: float = Field(365.0, gt=0, le=36_500, description="How long entries of the audit are kept.")
    min_free_disk_mb: int = Field(500, ge=0, description="No new jobs are accepted with less free space than this.")

    # generation
    admission: str = Field(
        "registered",
        pattern=patterns.one_of("registered", "any"),
        description="`registered` refuses a job that fits the memory of no registered device; `any` lets it wait for "
        "one, for clusters that start devices on demand.",
    )
    memory_profile: str = Field(
        "auto",
        pattern=patterns.LAYOUT,
        description="Where weights are during a job: on the device (`full`), taking turns (`text-offload`, `offload`) "
        "or streamed (`stream`). `auto` plans it for each job.",
    )
    torch_alloc_conf: str = Field(
        "expandable_segments:True",
        description="`PYTORCH_ALLOC_CONF` of GPU workers whose environment has none; empty: torch's own default.",
    )
    warm_models: int = Field(1, ge=1, description="Loaded models kept on a CPU device; a GPU keeps all that fit.")
    default_speed: Literal["exact", "balanced"] = Field("exact", description="The speed tier of requests without one.")
    compile_at_start: str = Field(
        "auto",
        pattern=patterns.one_of("auto", "on", "off"),
        description="Compile the blocks of downloaded models for their default sizes when a worker starts, for the "
        "speed tiers. `auto`: on a GPU. What is compiled is kept in the home folder.",
    )
    prompt_cache_mb: int = Field(256, ge=0, description="Memory for prompt embeddings on each device.")

    log_level: str = Field(
        "INFO", pattern=patterns.one_of("DEBUG", "INFO", "WARNING", "ERROR"), description="Lowest level that is logged."
    )
    log_format: str = Field(
        "auto",
        pattern=patterns.one_of("auto", "json", "text"),
        description="`json` lines, `text`, or `auto`: text on a terminal, else json.",
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
        """Refuse booleans in the settings file, which pydantic would read as 1 and 0."""
        if isinstance(value, bool) and cls.model_fields[info.field_name or ""].annotation is not bool:
            raise ValueError("must not be true or false")
        return value

    @field_validator("*")
    @classmethod
    def _finite(cls, value: Any) -> Any:
        """Refuse infinity and NaN, because comparisons with them are silently false."""
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
    def _empty_is_unset(cls, value: Any) -> Any:
        """Treat an empty value as unset, so that a container's default can be removed."""
        return None if value == "" else value

    @field_validator("store_url")
    @classmethod
    def _one_store(cls, url: str | None, info: ValidationInfo) -> str | None:
        if url is not None and info.data.get("store_path") is not None:
            raise ValueError("cannot be set together with WANWORKS_STORE_PATH: the store is a directory or a bucket")
        return url

    @field_validator("store_endpoint", "store_public_endpoint", "store_key_id")
    @classmethod
    def _only_with_bucket(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and "store_url" in info.data and info.data["store_url"] is None:
            raise ValueError("is for a bucket, but WANWORKS_STORE_URL is not set")
        return value

    @field_validator("store_secret")
    @classmethod
    def _key_and_secret(cls, secret: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        secret = None if secret is not None and not secret.get_secret_value() else secret
        if (secret is None) != (info.data.get("store_key_id") is None):
            raise ValueError("must be set together with WANWORKS_STORE_KEY_ID, or neither")
        return secret

    @field_validator("public_path")
    @classmethod
    def _valid_public_path(cls, text: str) -> str:
        return normalised(text)

    @field_validator("low_priority_window")
    @classmethod
    def _window(cls, text: str) -> str:
        return str(daily_window.parse(text)) if text else text

    @field_validator("outbound_allow")
    @classmethod
    def _outbound_hosts(cls, text: str) -> str:
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
                raise ValueError("must be set together with WANWORKS_ALERT_WEBHOOK_URL, because messages are signed")
            return None
        key_of(secret.get_secret_value())
        return secret

    @model_validator(mode="after")
    def _no_contradictions(self) -> Self:
        """Refuse settings that contradict each other."""
        if problems := setting_checks.contradictions(self):
            raise ValueError("; ".join(problems))
        return self

    @cached_property
    def device_heartbeat_seconds(self) -> float:
        """Seconds between heartbeats of devices and nodes: at least three within `device_silence_seconds`."""
        return min(5.0, self.device_silence_seconds / 3)

    @cached_property
    def reading_seconds(self) -> float:
        """Seconds for which a device's newest sample counts as current, because samples may be late."""
        return max(self.device_silence_seconds, 3 * self.sample_seconds)

    @cached_property
    def downloads_on_demand(self) -> bool:
        """Whether jobs start downloads. In the demo they always do: its models are tiny and come from a local hub."""
        return self.download_on_demand or self.catalogue == "demo"

    @cached_property
    def database(self) -> str:
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{self.home / 'wanworks.db'}"

    @cached_property
    def several_beats(self) -> bool:
        """Whether beats may run on several hosts, of which one leads."""
        return self.beat == "redbeat" or (self.beat == "auto" and not self.database.startswith("sqlite"))

    @cached_property
    def redis(self) -> str | None:
        """Redis's URL with all TLS options, as client libraries accept it. It contains the password."""
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
    """Return the settings from the file and the environment, overridden by `overrides` other than None.

    Raises ConfigurationError, which names each wrong setting, its source (variable or file), and its value if it
    is a number.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    setting_checks.refuse_old_names()
    try:
        return Settings(**given)
    except ValidationError as error:
        problems = (setting_checks.describe(item, given, Settings.model_fields, secrets()) for item in error.errors())
        raise ConfigurationError("; ".join(problems)) from None


def secrets() -> frozenset[str]:
    """Return the names of the settings that hold secrets."""
    fields = Settings.model_fields.items()
    return frozenset(name for name, field in fields if SecretStr in (field.annotation, *get_args(field.annotation)))
