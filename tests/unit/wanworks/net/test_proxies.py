"""Which requests use the environment's proxies, in every spelling of the variables."""

import socket

import pytest

from shared.errors import ConfigurationError
from wanworks.net import proxies
from wanworks.net.proxies import complaints, http_proxy_for, proxy_for, variable_for

DEAD = "http://proxy.example:3128"
NAMES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
@pytest.mark.parametrize("excepted", [None, "", "::1/128", "example.com", "not a list/of:anything"])
@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:8000/x", "http://localhost:8000", "http://[::1]:8000", "http://127.9.9.9", "http://0.0.0.0:80",
     "http://LocalHost.", "http://127.1", "http://2130706433", "http://[::ffff:127.0.0.1]:1", "http://a.localhost"],
)  # fmt: skip
def test_nothing_that_goes_to_this_host_uses_a_proxy(
    monkeypatch: pytest.MonkeyPatch, variable: str, excepted: str | None, url: str
) -> None:
    monkeypatch.setenv(variable, DEAD)
    if excepted is not None:
        monkeypatch.setenv("NO_PROXY", excepted)
    assert proxy_for(url) is None


def test_this_hosts_own_name_uses_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", DEAD)
    assert proxy_for(f"http://{socket.gethostname()}:8000") is None
    assert proxy_for("http://another-host:8000") == DEAD


def test_the_variable_of_the_scheme_comes_first_and_lower_case_before_upper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://all:1")
    monkeypatch.setenv("HTTPS_PROXY", "http://upper:2")
    monkeypatch.setenv("https_proxy", "http://lower:3")
    assert proxy_for("https://huggingface.co") == "http://lower:3"
    assert variable_for("https://huggingface.co") == "https_proxy"
    assert proxy_for("http://huggingface.co") == "http://all:1"
    assert variable_for("http://huggingface.co") == "ALL_PROXY"
    monkeypatch.setenv("https_proxy", "")  # an empty one takes the other back
    assert proxy_for("https://huggingface.co") == "http://all:1"


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("proxy:3128", "http://proxy:3128"),
        ("socks://proxy:1080/", "socks5h://proxy:1080"),
        ("socks5://proxy:1080", "socks5://proxy:1080"),
        ("HTTPS://Proxy:443/path", "https://proxy:443"),
        ("http://me:s%40cret@proxy:3128", "http://me:s%40cret@proxy:3128"),
        ("http://[fd00::9]:3128", "http://[fd00::9]:3128"),
    ],
)
def test_addresses_of_proxies_as_people_write_them(monkeypatch: pytest.MonkeyPatch, value: str, read: str) -> None:
    monkeypatch.setenv("ALL_PROXY", value)
    assert proxy_for("https://huggingface.co") == read
    assert complaints() == []


@pytest.mark.parametrize(
    "value", ["http://", "http://proxy:port", "http://a b:1", "ftp://proxy:1", "socks4://proxy:1", "http://[::1:3128"]
)
def test_a_variable_that_cannot_be_read_is_named_and_its_value_is_not(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", value.replace("://", "://me:secret@"))
    with pytest.raises(ConfigurationError, match=r"^HTTPS_PROXY: .*use http://HOST:PORT") as caught:
        proxy_for("https://huggingface.co")
    assert "secret" not in str(caught.value)
    assert complaints() == [caught.value.message]
    assert proxy_for("https://127.0.0.1") is None  # it harms only what would use it


@pytest.mark.parametrize(
    ("excepted", "host"),
    [
        ("*", "huggingface.co"),
        ("a.example, *", "huggingface.co"),
        ("huggingface.co", "huggingface.co"),
        ("huggingface.co", "cdn.HuggingFace.co"),
        (".huggingface.co", "huggingface.co"),
        ("*.huggingface.co", "cdn.huggingface.co"),
        ("10.0.0.0/8", "10.9.8.7"),
        ("a.example 10.1.2.3", "10.1.2.3"),
        ("::1/128,fd12::/16", "[fd12::5]"),
        ("[fd12::5]", "[fd12::5]"),
        ("hub.example:443", "hub.example"),
    ],
)
def test_exceptions_as_people_write_them(monkeypatch: pytest.MonkeyPatch, excepted: str, host: str) -> None:
    monkeypatch.setenv("HTTPS_PROXY", DEAD)
    monkeypatch.setenv("NO_PROXY", excepted)
    assert proxy_for(f"https://{host}/x") is None
    assert complaints() == []
    for other in ("nothuggingface.co", "11.0.0.1", "[fd34::1]", "hub.example:8443"):
        if excepted not in ("*", "a.example, *"):
            assert proxy_for(f"https://{other}/x") == DEAD


def test_an_invalid_no_proxy_entry_is_reported_and_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", DEAD)
    monkeypatch.setenv("NO_PROXY", "10.0.0.0/99,huggingface.co")
    assert complaints() == [
        "NO_PROXY: '10.0.0.0/99' is neither a host, a domain, an address nor a network; it is ignored"
    ]
    assert proxy_for("https://huggingface.co") is None


def test_what_speaks_to_http_proxies_alone_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks://proxy:1080")
    with pytest.raises(ConfigurationError, match=r"^ALL_PROXY: traces cannot go through a SOCKS proxy; set"):
        http_proxy_for("https://collector.example", "traces")
    assert http_proxy_for("http://localhost:4318", "traces") is None


def test_a_socks_proxy_can_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks://proxy.example:1080")
    with proxies.Transport() as transport:
        assert transport._routes.to("https://huggingface.co") is not transport._routes.to("http://127.0.0.1")
