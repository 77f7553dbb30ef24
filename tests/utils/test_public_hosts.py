from __future__ import annotations

import pytest

from utils.public_hosts import AddressNotAllowed, check_addresses, resolve_host

PUBLIC = ["8.8.8.8", "196.216.2.1", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
PRIVATE = [
    "127.0.0.1",
    "127.255.255.254",
    "10.0.0.5",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "198.18.0.1",
    "192.0.2.1",
    "192.88.99.1",
    "::1",
    "fd00::1",
    "fec0::1",
    "2001:db8::1",
    "3fff::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a00:1",
    "2002:7f00:1::",
    "2002:c0a8:101::1",
]
NEVER = [
    "0.0.0.0",
    "0.1.2.3",
    "169.254.169.254",
    "fd00:ec2::254",
    "fd20:ce::254",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "::ffff:192.0.0.192",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "fe80::1",
    "224.0.0.1",
    "ff02::1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
]


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_taken(address: str) -> None:
    check_addresses([address], allow_private=False)


@pytest.mark.parametrize("address", PRIVATE + NEVER)
def test_an_address_that_is_not_public_is_refused(address: str) -> None:
    with pytest.raises(AddressNotAllowed):
        check_addresses([address], allow_private=False)


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.5", "192.168.1.1", "100.64.0.1", "::1", "fd00::1"])
def test_the_setting_allows_private_addresses(address: str) -> None:
    check_addresses([address], allow_private=True)


@pytest.mark.parametrize("address", NEVER)
def test_no_setting_allows_a_metadata_service_or_an_address_that_is_nobodys(address: str) -> None:
    with pytest.raises(AddressNotAllowed):
        check_addresses([address], allow_private=True)


def test_one_private_address_among_public_ones_is_enough_to_refuse() -> None:
    with pytest.raises(AddressNotAllowed):
        check_addresses(["8.8.8.8", "10.0.0.1"], allow_private=False)


@pytest.mark.parametrize("host", ["2130706433", "0x7f000001", "0x7f.1", "017700000001", "127.1", "localhost"])
def test_disguised_spellings_of_loopback_are_seen_through(host: str) -> None:
    with pytest.raises(AddressNotAllowed):
        check_addresses(resolve_host(host, 80), allow_private=False)
