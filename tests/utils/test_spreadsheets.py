from __future__ import annotations

import pytest

from utils.spreadsheets import harmless_cell


@pytest.mark.parametrize(
    "text", ["=1+1", "+1+1", "-2", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1", "+254 711", "+"]
)
def test_what_a_spreadsheet_would_compute_stands_behind_an_apostrophe(text: str) -> None:
    assert harmless_cell(text) == f"'{text}"


@pytest.mark.parametrize("text", ["", "Hello = you", "+254711000001", "12", " =1"])
def test_all_else_stays_as_it_is(text: str) -> None:
    assert harmless_cell(text) == text
