"""Settings: from the environment, described, and refused by name without showing the value."""

import pytest

from shared.errors import ConfigurationError
from shared.settings import Settings, load


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
