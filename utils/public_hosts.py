"""Which addresses a URL that somebody typed may lead to: those of the public internet, unless a setting says more.

The check is of addresses, never of names or of the URL's text: `2130706433`, `0x7f.1` and a name with a
private record all resolve to what they hide. The caller connects to the very address that was checked, for
a second look-up may answer otherwise (DNS rebinding).
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from utils.errors import ServiceError

Address = IPv4Address | IPv6Address
Resolve = Callable[[str, int], Sequence[str]]

_HANDED_OUT = IPv6Network("2000::/3")
# A gateway turns these into the IPv4 address in their last four bytes.
_TRANSLATED = (IPv6Network("64:ff9b::/96"), IPv6Network("::/96"))
# Metadata and host services of clouds that are not link-local: AWS and Google on IPv6, Alibaba, Azure, Oracle. The
# last two count as public for Python.
_CLOUD_SERVICES = frozenset(
    map(
        ip_address,
        ("fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "168.63.129.16", "192.0.0.192"),
    )
)
# Nobody's, though Python calls them global: the anycast relays of 6to4 (RFC 7526), and IPv6's second block for
# examples (RFC 9637), which older releases do not know.
_WITHDRAWN = (IPv4Network("192.88.99.0/24"), IPv6Network("3fff::/20"))


class AddressNotAllowed(ServiceError):
    code = "address_not_allowed"


def resolve_host(host: str, port: int) -> Sequence[str]:
    """Every address of `host`. Raises OSError where it has none, UnicodeError for what is no name."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]).partition("%")[0] for *_, address in found))


def check_addresses(addresses: Sequence[str], *, allow_private: bool) -> None:
    """One bad address of several is enough: which one is taken would be up to whoever owns the name.

    Raises AddressNotAllowed.
    """
    for text in addresses:
        if not is_allowed(ip_address(text), allow_private=allow_private):
            raise AddressNotAllowed(
                f"{text} is not an address of the public internet; FORWARD_ALLOW_PRIVATE=true allows private ones"
            )


def is_allowed(address: Address, *, allow_private: bool) -> bool:
    inner = _unwrap(address)
    if _is_never_a_receiver(inner):
        return False
    return allow_private or _is_public(inner)


def _is_public(address: Address) -> bool:
    # Outside 2000::/3 IPv6 has handed out nothing; Python calls some of it global, like the old site-local block.
    is_handed_out = isinstance(address, IPv4Address) or address in _HANDED_OUT
    return is_handed_out and address.is_global and not any(address in network for network in _WITHDRAWN)


def _unwrap(address: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for."""
    if isinstance(address, IPv4Address):
        return address
    inside = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
    if inside is None and int(address) > 1 and any(address in network for network in _TRANSLATED):
        inside = IPv4Address(int(address) & 0xFFFFFFFF)
    return inside or address


def _is_never_a_receiver(address: Address) -> bool:
    """Also not with the setting: nobody listens there but a cloud's metadata service."""
    if address in _CLOUD_SERVICES:
        return True
    if address.is_loopback:
        return False
    return (
        address.is_link_local
        or address.is_multicast
        or address.is_unspecified
        or address.is_reserved
        or (isinstance(address, IPv4Address) and int(address) < 1 << 24)
    )
