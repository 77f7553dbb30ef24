"""Which version this is, as SemVer writes it. `pyproject.toml` names the same, which a test compares."""

VERSION = "1.0.0-rc.1"
