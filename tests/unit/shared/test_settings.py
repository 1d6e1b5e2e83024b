"""Settings: from the environment, described, and refused by name without showing the value."""

from pathlib import Path
from typing import get_args

import pytest

from shared.errors import ConfigurationError
from shared.settings import Settings, load, secrets
from wanworks import config_file
from wanworks.cli.main import configured
from wanworks.supervise.programs import environment


def test_every_setting_is_described() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_the_environment_and_overrides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANWORKS_PORT", "1234")
    monkeypatch.setenv("WANWORKS_HOME", "~/somewhere")
    assert load().port == 1234
    assert load().home.is_absolute()
    assert load(port=99, node=None).port == 99
    assert load().database == f"sqlite:///{load().home}/wanworks.db"


def test_a_bad_value_names_its_variable_and_never_the_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANWORKS_LEASE_SECONDS", "-3")
    monkeypatch.setenv("WANWORKS_NODE", "no/such name")
    with pytest.raises(ConfigurationError) as refused:
        load()
    assert "WANWORKS_LEASE_SECONDS" in str(refused.value)
    assert "WANWORKS_NODE" in str(refused.value)
    assert "no/such" not in str(refused.value)


def test_secrets_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANWORKS_REDIS_URL", "redis://:hush@127.0.0.1/0")
    assert "hush" not in repr(load())


def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, mode: int = 0o600) -> Path:
    """A file of settings that the environment names."""
    file = tmp_path / "node.toml"
    file.write_text(text)
    file.chmod(mode)
    monkeypatch.setenv("WANWORKS_CONFIG", str(file))
    return file


def test_a_file_is_overridden_by_variables_and_those_by_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said(tmp_path, monkeypatch, 'port = 1\nflower_port = 2\nnode = "n1"\nredis_url = "redis://:hush@h/0"\n')
    monkeypatch.setenv("WANWORKS_FLOWER_PORT", "3")
    settings = load(node="n2")
    assert (settings.port, settings.flower_port, settings.node) == (1, 3, "n2")
    assert settings.redis == "redis://:hush@h/0"
    assert settings.model_fields_set >= {"port", "flower_port", "node", "redis_url"}


def test_a_wrong_file_is_refused_by_its_name_and_shows_no_value_but_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for text, complaint in (
        ('prot = "hush"', "no such setting: prot"),
        ("[redis]\nurl = 'hush'", "no such setting: redis"),
        ('port = "hush"', ": port: must be a whole number"),
        ("port = 1\nport = 2", "is not valid TOML"),
        ("port = hush", "line 1"),
        ("redis_url = 7", ": redis_url: "),
    ):
        file = said(tmp_path, monkeypatch, text)
        with pytest.raises(ConfigurationError) as refused:
            load()
        assert complaint in str(refused.value)
        assert str(file) in str(refused.value)
        assert "hush" not in str(refused.value)
    monkeypatch.setenv("WANWORKS_PORT", "many")
    said(tmp_path, monkeypatch, "port = 1")
    with pytest.raises(ConfigurationError, match=r"^WANWORKS_PORT: "):
        load()
    monkeypatch.setenv("WANWORKS_PORT", "70000")
    with pytest.raises(ConfigurationError, match=r"^WANWORKS_PORT: must be at most 65535, not 70000$"):
        load()
    monkeypatch.setenv("WANWORKS_CONFIG", str(tmp_path / "none.toml"))
    with pytest.raises(ConfigurationError, match=r"none\.toml cannot be read"):
        load()


def test_an_old_name_is_refused_with_the_new_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "wanworks.toml"
    file.write_text("rering_seconds = 60\n")
    monkeypatch.setenv("WANWORKS_CONFIG", str(file))
    with pytest.raises(ConfigurationError, match=f"{file}: rering_seconds is now redispatch_seconds"):
        load()
    monkeypatch.delenv("WANWORKS_CONFIG")
    monkeypatch.setenv("WANWORKS_RERING_SECONDS", "60")
    with pytest.raises(ConfigurationError, match="WANWORKS_RERING_SECONDS is now WANWORKS_REDISPATCH_SECONDS: rename"):
        load()


def test_secrets_that_other_users_may_read_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = said(tmp_path, monkeypatch, 'hub_token = "hush"', 0o644)
    assert config_file.exposed(secrets()) == file
    configured(file)
    assert f"chmod 600 {file}" in capsys.readouterr().err
    file.chmod(0o600)
    assert config_file.exposed(secrets()) is None
    said(tmp_path, monkeypatch, "port = 1", 0o644)
    assert config_file.exposed(secrets()) is None
    assert {"redis_url", "database_url", "hub_token", "webhook_secret"} <= secrets()


def test_processes_are_given_what_the_file_said_and_not_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said(tmp_path, monkeypatch, 'lease_seconds = 70\nredis_url = "redis://:hush@h/0"')
    given = environment(load())
    assert (given["WANWORKS_LEASE_SECONDS"], given["WANWORKS_REDIS_URL"]) == ("70.0", "redis://:hush@h/0")
    assert "WANWORKS_CONFIG" not in given


def test_redis_by_tls_has_its_terms_in_the_url() -> None:
    plain = load(redis_url="redis://:p@h:1/2", redis_ca_file="/x.pem")
    assert plain.redis == "redis://:p@h:1/2"
    secured = load(redis_url="rediss://u:p%40@h:1/2?ssl_certfile=/c.pem", redis_ca_file="/x.pem")
    assert secured.redis == "rediss://u:p%40@h:1/2?ssl_cert_reqs=required&ssl_certfile=/c.pem&ssl_ca_certs=/x.pem"
    assert load(redis_url="rediss://h:1/2").redis == "rediss://h:1/2?ssl_cert_reqs=required"


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"lease_seconds": 5}, ("HEARTBEAT_SECONDS (10)", "LEASE_SECONDS (5)", "1.67 or less", "30 or more")),
        ({"heartbeat_seconds": 20.1}, ("HEARTBEAT_SECONDS (20.1)", "LEASE_SECONDS (60)", "20 or less")),
        ({"alert_stalled_seconds": 30}, ("ALERT_STALLED_SECONDS (30)", "QUIET_SOCKET_SECONDS (60)", "raise the first")),
        (
            {"store_url": "s3://bucket", "store_patience_seconds": 700},
            ("STORE_PATIENCE_SECONDS (700)", "STEP_LIMIT_SECONDS (600)", "lower the first"),
        ),
        ({"port": 5555}, ("PORT (5555)", "FLOWER_PORT (5555)", "change one of them")),
        ({"port": 7000, "flower_port": 7000, "host": "0.0.0.0"}, ("PORT (7000)", "FLOWER_PORT (7000)")),
    ],
)
def test_settings_that_contradict_each_other_are_refused_both_by_name(
    values: dict[str, object], named: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        load(**values)
    for words in named:
        assert words in str(refused.value)
    assert "Value error" not in str(refused.value)


def test_settings_that_agree_are_taken() -> None:
    load(lease_seconds=30, heartbeat_seconds=10)
    load(lease_seconds=1, heartbeat_seconds=0.3)
    load(port=0, flower_port=0)
    load(port=7000, flower_port=7000, host="10.0.0.1")
    load(port=7000, flower_port=7000, flower_url="http://flower:5555")
    load(store_patience_seconds=700)


NUMBERS = [
    name for name, field in Settings.model_fields.items() if float in (field.annotation, *get_args(field.annotation))
]


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e400"])
def test_what_is_no_finite_number_is_refused(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"WANWORKS_{name.upper()}", value)
    with pytest.raises(ConfigurationError, match=f"WANWORKS_{name.upper()}: "):
        load()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dispatch_seconds", 61), ("dispatch_seconds", 0.01), ("device_silence_seconds", 0.5), ("lease_seconds", 0.5),
        ("retention_days", 1e9), ("audit_days", 1e9), ("audit_days", 0), ("quiet_socket_seconds", 600),
        ("alert_seconds", 0.001),
        ("alert_webhook_url", "http://a..b/"), ("alert_webhook_url", "http://u:p@hooks.example/"),
    ],
)  # fmt: skip
def test_what_could_not_work_is_refused(name: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=f"WANWORKS_{name.upper()}: "):
        load(**{name: value})


@pytest.mark.parametrize(("silence", "every"), [(30, 5.0), (15, 5.0), (3, 1.0), (1, 1 / 3)])
def test_a_heartbeat_comes_three_times_within_the_silence(silence: float, every: float) -> None:
    assert load(device_silence_seconds=silence).device_heartbeat_seconds == every
