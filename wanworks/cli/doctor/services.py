"""Checks of what the stack talks to: the hub, Redis, the database, and its own ports."""

import httpx
import redis as redis_library

from shared.database.engine import Database
from shared.errors import Unavailable
from shared.settings import Settings
from wanworks.cli.doctor.check import Check
from wanworks.errors import ConfigurationError, WanworksError
from wanworks.net import proxies
from wanworks.supervise import embedded_redis, ports

_SECONDS = 8.0


def hub(settings: Settings, repo: str) -> Check:
    """Ask the hub about a model."""
    token = settings.hub_token.get_secret_value() if settings.hub_token is not None else None
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    url = f"{settings.hub_url.rstrip('/')}/api/models/{repo}"
    remedy = "check the network, HTTPS_PROXY and WANWORKS_HUB_URL; a mirror is another host's `wanworks hub`"
    try:
        with httpx.Client(transport=proxies.Transport(), timeout=_SECONDS, headers=headers) as client:
            answer = client.get(url, follow_redirects=True)
    except (httpx.HTTPError, httpx.InvalidURL, WanworksError) as error:
        return Check("hub", "problem", f"{settings.hub_url} cannot be reached: {error or type(error).__name__}", remedy)
    if answer.status_code in (401, 403):
        return Check(
            "hub", "problem", f"{settings.hub_url} refuses access to {repo}", "set WANWORKS_HUB_TOKEN to a valid token"
        )
    if answer.status_code == 404:
        return Check(
            "hub", "warning", f"{settings.hub_url} does not have {repo}", "check WANWORKS_HUB_URL and the catalogue"
        )
    if not answer.is_success:
        return Check("hub", "problem", f"{settings.hub_url} answers with HTTP {answer.status_code}", remedy)
    return Check("hub", "ok", f"{settings.hub_url} answers")


def redis(settings: Settings) -> Check:
    """Check the Redis of the settings, or whether an embedded one can be started."""
    if settings.redis is None:
        try:
            program = embedded_redis.server()
        except ConfigurationError as error:
            return Check(
                "redis", "problem", error.message, "install redis-server or valkey-server, or set WANWORKS_REDIS_URL"
            )
        return Check("redis", "ok", f"embedded: {program}")
    try:
        client = redis_library.Redis.from_url(settings.redis, socket_timeout=_SECONDS, socket_connect_timeout=_SECONDS)
        version = client.info("server")["redis_version"]
        policy = client.config_get("maxmemory-policy").get("maxmemory-policy", "noeviction")
    except (redis_library.RedisError, ValueError) as error:
        return Check(
            "redis", "problem", f"does not answer: {error}", "check WANWORKS_REDIS_URL, its password and the network"
        )
    if policy != "noeviction":
        found = f"{version}, but it removes keys when its memory is full ({policy})"
        return Check("redis", "warning", found, "set `maxmemory-policy noeviction`")
    return Check("redis", "ok", f"{version} answers")


def database(settings: Settings) -> Check:
    """Check whether the database answers."""
    kind = settings.database.partition("://")[0].partition("+")[0]
    opened = Database(settings.database)
    try:
        with opened.read() as session:
            session.connection().exec_driver_sql("SELECT 1")
    except Unavailable as error:
        return Check("database", "problem", f"{kind}: {error.message}", "check WANWORKS_DATABASE_URL and the network")
    finally:
        opened.close()
    return Check("database", "ok", f"{kind} answers")


def port(name: str, host: str, number: int, variable: str, *, running: bool) -> Check:
    """Check whether the port is free, or in use by the stack of this home, which `running` says."""
    if running:
        return Check(name, "ok", f"{number}, in use by the stack that runs on this home")
    if number == 0 or ports.is_free(host, number):
        return Check(name, "ok", f"{number or 'a free port'} on {host}")
    return Check(
        name, "problem", f"{number} on {host} is in use by another process", f"set {variable} to another port, or to 0"
    )
