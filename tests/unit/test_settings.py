"""Settings: from the environment, described, and refused by name without showing the value."""

from pathlib import Path

import pytest

from cli.main import configured
from cli.programs import environment
from shared import config_file
from shared.errors import ConfigurationError
from shared.settings import Settings, load, secrets


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


def test_a_wrong_file_is_refused_by_its_name_and_never_shows_a_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for text, complaint in (
        ('prot = "hush"', "no such setting: prot"),
        ("[redis]\nurl = 'hush'", "no such setting: redis"),
        ('port = "hush"', ": port: "),
        ("port = 1\nport = 2", "is no TOML"),
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
    monkeypatch.setenv("WANWORKS_CONFIG", str(tmp_path / "none.toml"))
    with pytest.raises(ConfigurationError, match=r"none\.toml cannot be read"):
        load()


def test_secrets_that_anybody_may_read_are_told_of(
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
    said(tmp_path, monkeypatch, 'lease_seconds = 7\nredis_url = "redis://:hush@h/0"')
    given = environment(load())
    assert (given["WANWORKS_LEASE_SECONDS"], given["WANWORKS_REDIS_URL"]) == ("7.0", "redis://:hush@h/0")
    assert "WANWORKS_CONFIG" not in given


def test_redis_by_tls_has_its_terms_in_the_url() -> None:
    plain = load(redis_url="redis://:p@h:1/2", redis_ca_file="/x.pem")
    assert plain.redis == "redis://:p@h:1/2"
    secured = load(redis_url="rediss://u:p%40@h:1/2?ssl_certfile=/c.pem", redis_ca_file="/x.pem")
    assert secured.redis == "rediss://u:p%40@h:1/2?ssl_cert_reqs=required&ssl_certfile=/c.pem&ssl_ca_certs=/x.pem"
    assert load(redis_url="rediss://h:1/2").redis == "rediss://h:1/2?ssl_cert_reqs=required"
