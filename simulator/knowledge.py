"""What the service makes of reports: it answers 200 when it has stored one, and applies it a moment later.

Asked only when somebody looks at the page, and only for the newest: at full speed the service is left alone.
"""

from .service_line import ServiceLine
from .state import Simulator

ASKED_AT_ONCE = 50
LOOKED_THROUGH = 5000
TIMEOUT_SECONDS = 1.0

NOT_KNOWN = """
SELECT texts.id, texts.message_id, texts.reported FROM texts LEFT JOIN known ON known.text_id = texts.id
WHERE texts.id > (SELECT coalesce(max(id), 0) FROM texts) - ? AND reported IS NOT NULL AND known.text_id IS NULL
ORDER BY texts.id DESC LIMIT ?
"""


def learn(simulator: Simulator) -> None:
    """Notes the texts whose report has been applied. Nothing where the service does not answer."""
    rows = simulator.store.rows(NOT_KNOWN, (LOOKED_THROUGH, ASKED_AT_ONCE))
    if not rows:
        return
    config = simulator.config
    line = ServiceLine(config.service_url, config.token, TIMEOUT_SECONDS)
    applied = line.applied_reports([row["message_id"] for row in rows])
    line.close()
    known = [(row["id"],) for row in rows if (row["message_id"], row["reported"]) in applied]
    if known:
        with simulator.store.write() as connection:
            connection.executemany("INSERT OR IGNORE INTO known (text_id) VALUES (?)", known)
