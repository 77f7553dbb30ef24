"""The tables of the simulator's one SQLite file.

``posts`` has one row for every POST to the send endpoint, ``texts`` one for every recipient AT looked at: those with
``is_received`` are the handset ledger. ``known`` has the texts whose report the service has applied, as far as the page
has asked. ``callbacks`` holds only what is still owed to the service. ``totals`` has one row of counters so that no
page view counts a million rows.
"""

TABLES = """
CREATE TABLE IF NOT EXISTS posts (
    id INTEGER PRIMARY KEY,
    arrived_at REAL NOT NULL,
    username TEXT,
    sender TEXT,
    text TEXT,
    recipients INTEGER NOT NULL,
    accepted INTEGER NOT NULL,
    result TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS posts_by_arrival ON posts (arrived_at);

CREATE TABLE IF NOT EXISTS texts (
    id INTEGER PRIMARY KEY,
    post_id INTEGER NOT NULL,
    number TEXT NOT NULL,
    message_id TEXT,
    refusal INTEGER,
    is_received INTEGER NOT NULL,
    report TEXT,
    reported TEXT,
    reported_at REAL
);

CREATE TABLE IF NOT EXISTS known (text_id INTEGER PRIMARY KEY);

CREATE TABLE IF NOT EXISTS inbound (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    callback_id TEXT NOT NULL,
    number TEXT NOT NULL,
    recipient TEXT NOT NULL,
    text TEXT NOT NULL,
    link_id TEXT,
    sent_at REAL NOT NULL,
    acknowledged_at REAL
);
CREATE INDEX IF NOT EXISTS inbound_by_number ON inbound (number);

CREATE TABLE IF NOT EXISTS callbacks (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    body TEXT NOT NULL,
    due_at REAL NOT NULL,
    expires_at REAL NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    last_result TEXT,
    text_id INTEGER,
    inbound_id INTEGER,
    word TEXT
);
CREATE INDEX IF NOT EXISTS callbacks_by_due ON callbacks (due_at);
CREATE INDEX IF NOT EXISTS callbacks_tried ON callbacks (text_id, inbound_id) WHERE attempts > 0;

CREATE TABLE IF NOT EXISTS blacklist (
    sender TEXT NOT NULL,
    number TEXT NOT NULL,
    shown_sender TEXT NOT NULL,
    blocked_at REAL NOT NULL,
    PRIMARY KEY (sender, number)
);

CREATE TABLE IF NOT EXISTS faults (name TEXT PRIMARY KEY, setting TEXT NOT NULL);

CREATE TABLE IF NOT EXISTS totals (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    posts INTEGER NOT NULL DEFAULT 0,
    recipients INTEGER NOT NULL DEFAULT 0,
    accepted INTEGER NOT NULL DEFAULT 0,
    received INTEGER NOT NULL DEFAULT 0,
    billed_parts INTEGER NOT NULL DEFAULT 0,
    inbound INTEGER NOT NULL DEFAULT 0,
    callback_attempts INTEGER NOT NULL DEFAULT 0,
    callbacks_acknowledged INTEGER NOT NULL DEFAULT 0,
    callbacks_given_up INTEGER NOT NULL DEFAULT 0
);
INSERT OR IGNORE INTO totals (id) VALUES (1);
"""

EMPTIED_BY_RESET = ("posts", "texts", "known", "inbound", "callbacks", "blacklist", "faults", "totals")
