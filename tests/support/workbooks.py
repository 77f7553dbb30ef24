"""Excel workbooks as small as they can be, for tests: a dependency that writes them would serve nothing else."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
LINKS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
PACKAGE = "http://schemas.openxmlformats.org/package/2006"
DATE = "date"

Cell = str | float | tuple[str, float]


def workbook(sheets: Mapping[str, Sequence[Sequence[Cell]]], more: str = "") -> bytes:
    """Numbers as numbers, texts as texts, `(DATE, serial)` as a date. `more`: rows as XML, below the others."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in _parts(sheets, more).items():
            packed.writestr(name, '<?xml version="1.0" encoding="UTF-8"?>' + content)
    return written.getvalue()


def _parts(sheets: Mapping[str, Sequence[Sequence[Cell]]], more: str) -> dict[str, str]:
    numbered = list(enumerate(sheets.items(), 1))
    kinds = "application/vnd.openxmlformats-officedocument.spreadsheetml"
    parts = [("/xl/workbook.xml", "sheet.main"), ("/xl/styles.xml", "styles")]
    parts += [(f"/xl/worksheets/sheet{n}.xml", "worksheet") for n, _ in numbered]
    listed = "".join(
        f'<Override PartName="{name}" ContentType="{kinds}.{kind}+xml"/>' for name, kind in parts
    )
    links = "".join(
        f'<Relationship Id="rId{n}" Type="{LINKS}/worksheet" Target="worksheets/sheet{n}.xml"/>'
        for n, _ in numbered
    )
    named = "".join(
        f'<sheet name="{escape(name)}" sheetId="{n}" r:id="rId{n}"/>' for n, (name, _) in numbered
    )
    rels = "application/vnd.openxmlformats-package.relationships+xml"
    found = {
        "[Content_Types].xml": f'<Types xmlns="{PACKAGE}/content-types">'
        f'<Default Extension="rels" ContentType="{rels}"/>{listed}</Types>',
        "_rels/.rels": f'<Relationships xmlns="{PACKAGE}/relationships"><Relationship Id="rId1"'
        f' Type="{LINKS}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook xmlns="{MAIN}" xmlns:r="{LINKS}"><sheets>{named}</sheets></workbook>',
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{PACKAGE}/relationships">{links}<Relationship'
        f' Id="rId99" Type="{LINKS}/styles" Target="styles.xml"/></Relationships>',
        "xl/styles.xml": f'<styleSheet xmlns="{MAIN}"><cellXfs><xf numFmtId="0"/><xf numFmtId="14"/></cellXfs>'
        "</styleSheet>",
    }
    for n, (_, rows) in numbered:
        lines = "".join(f"<row>{''.join(map(_cell, row))}</row>" for row in rows)
        found[f"xl/worksheets/sheet{n}.xml"] = (
            f'<worksheet xmlns="{MAIN}"><sheetData>{lines}{more}</sheetData></worksheet>'
        )
    return found


def _cell(cell: Cell) -> str:
    if isinstance(cell, tuple):
        return f'<c s="1"><v>{cell[1]!r}</v></c>'
    if isinstance(cell, str):
        return f'<c t="inlineStr"><is><t xml:space="preserve">{escape(cell)}</t></is></c>' if cell else "<c/>"
    return f"<c><v>{cell!r}</v></c>"
