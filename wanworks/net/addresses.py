"""Hosts in URLs: the IP address that one spells, whether it is this host, and whether it is public.

Nothing here uses a resolver. Only names with a fixed meaning are classified.
"""

import ipaddress
import re
import socket

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# What inet_aton and getaddrinfo accept: one to four parts, each decimal, octal (0177) or hexadecimal (0x7f).
_NUMBER = re.compile(r"0[xX][0-9a-fA-F]*|[0-9]+")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_LOCAL_NAMES = frozenset(
    {"localhost", "localhost4", "localhost6", "ip6-localhost", "ip6-loopback", "ipv6-localhost", "ipv6-loopback"}
)
# The cloud providers' metadata servers, which are 169.254.169.254 in each of their networks.
_METADATA_NAMES = frozenset({"metadata.google.internal", "metadata", "instance-data", "instance-data.ec2.internal"})


def literal(host: str) -> Address | None:
    """Return the address that a host spells, in any spelling that resolvers accept; None for a name."""
    text = host.strip("[]").removesuffix(".").partition("%")[0]
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        pass
    if all(_NUMBER.fullmatch(part) for part in text.split(".")):
        try:
            return ipaddress.IPv4Address(socket.inet_aton(text))
        except OSError:
            return None
    return None


def plain(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 address embeds, or the address itself."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address.sixtofour is not None:
            return address.sixtofour
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def is_public(address: Address) -> bool:
    """Return whether an address is public. Takes a `plain` one."""
    return address.is_global and not address.is_multicast and not address.is_reserved


def is_loopback(host: str) -> bool:
    """Return whether a host is loopback, by address or name."""
    name = host.strip("[]").removesuffix(".").lower()
    if name in _LOCAL_NAMES or name.endswith((".localhost", ".localdomain")):
        return True
    address = literal(name)
    return address is not None and plain(address).is_loopback


def known(host: str) -> tuple[Address, ...]:
    """Return the addresses of a name with a fixed meaning; empty for other names."""
    name = host.strip("[]").removesuffix(".").lower()
    if name in _METADATA_NAMES:
        return (ipaddress.IPv4Address("169.254.169.254"),)
    if is_loopback(name) and literal(name) is None:
        return (ipaddress.IPv4Address("127.0.0.1"), ipaddress.IPv6Address("::1"))
    return ()


def is_this_host(host: str) -> bool:
    """Return whether a URL's host is this machine: loopback, one of its own addresses, or its own name."""
    if is_loopback(host):
        return True
    name = host.strip("[]").removesuffix(".").lower()
    address = literal(name)
    if address is None:
        own = socket.gethostname().lower()
        return bool(own) and name in (own, own.partition(".")[0])
    address = plain(address)
    if address.is_unspecified:
        return True
    if address.is_multicast:
        return False
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))  # the kernel binds only to this machine's own addresses
            return True
    except OSError:
        return False
