"""Find free ports on this host."""

import random
import socket

# Below the kernel's range for outgoing connections (from 32768 on): a port that is chosen now must still be available
# after a restart.
_LOWEST, _HIGHEST = 20000, 32000


def free_port(host: str, keep: int | None = None) -> int:
    """Return a free port; `keep` if it is free."""
    candidates = [keep] if keep else []
    candidates += random.sample(range(_LOWEST, _HIGHEST), 200)
    return next(port for port in candidates if is_free(host, port))


def is_free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # like the servers: ignores TIME_WAIT
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
