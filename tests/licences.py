"""`make licences` writes docs/licences.md from what the installed packages say of themselves; a test compares."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, files, metadata

from utils.setting_types import REPOSITORY

PAGE = REPOSITORY / "docs" / "licences.md"
PINNED = re.compile(r"^([A-Za-z0-9_.-]+)==[^ ;]+( ;.*)?", re.MULTILINE)
CLASSIFIER = "License :: OSI Approved :: "
LONGEST = 60
MIT_TEXT = "Permission is hereby granted, free of charge, to any person obtaining a copy of this software"
INTRODUCTION = """# Licences

This service is under the [MIT licence](../LICENSE). These are the licences of the packages that it runs on
(`requirements.txt`), as each package states its own; `make licences` writes this table, and a test compares it with
what is installed. Of the sources here, Pico CSS is under MIT (`routes/static/vendor`, `simulator/static/vendor`).

| package | licence |
|---|---|
"""


def pinned() -> list[str]:
    text = (REPOSITORY / "requirements.txt").read_text(encoding="utf-8")
    return sorted({name.lower() for name, _ in PINNED.findall(text)})


def licences() -> Iterator[tuple[str, str]]:
    """Without those that are for another system and not installed here."""
    for name in pinned():
        try:
            yield name, licence_of(name)
        except PackageNotFoundError:
            continue


def licence_of(name: str) -> str:
    told = metadata(name)
    classes = [
        one.removeprefix(CLASSIFIER) for one in told.get_all("Classifier") or () if one.startswith(CLASSIFIER)
    ]
    written = (told.get("License") or "").strip()
    if told.get("License-Expression"):
        return str(told["License-Expression"])
    # Some have the whole text there.
    named = ", ".join(classes) or (written if "\n" not in written and len(written) < LONGEST else "")
    return named or ("MIT, by its licence file" if _has_mit_text(name) else "not stated")


def _has_mit_text(name: str) -> bool:
    found = [one for one in files(name) or () if one.name.upper().startswith("LICEN")]
    return any(MIT_TEXT in " ".join(one.read_text().split()) for one in found)


def page() -> str:
    return INTRODUCTION + "".join(f"| {name} | {licence} |\n" for name, licence in licences())


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
