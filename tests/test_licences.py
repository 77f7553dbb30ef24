from __future__ import annotations

import re

from tests import licences

# Each lets a service be run, changed and handed on; of the LGPL and the MPL nothing is changed here.
ALLOWED = re.compile(
    r"MIT|BSD|Apache|PSF|Python Software Foundation|LGPL|Lesser General Public|MPL|Mozilla|ISC|0BSD|Unlicense"
)


def rows() -> dict[str, str]:
    found = re.findall(r"^\| ([\w.-]+) \| (.+) \|$", licences.PAGE.read_text(), re.MULTILINE)
    return {name: licence for name, licence in found if name != "package"}


def test_the_page_of_licences_says_what_the_installed_packages_say() -> None:
    installed = dict(licences.licences())
    assert installed
    # Pins for other systems may stand there too.
    assert {name: rows().get(name) for name in installed} == installed
    assert set(rows()) <= set(licences.pinned())


def test_every_licence_lets_the_service_be_used_and_handed_on() -> None:
    assert {name: licence for name, licence in rows().items() if not ALLOWED.search(licence)} == {}
