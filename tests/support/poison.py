"""One body that the store refuses, whatever else is in its group."""

from __future__ import annotations

from sqlalchemy import text

from messaging.storage.database import Database


class Poison:
    """Makes the store refuse one body: whoever parks a report with this word meets an error of the database."""

    WORD = "Poison"
    # With this word the store says that it is itself in trouble, as it does where a disk is full.
    TROUBLE = "Trouble"

    def __init__(self, database: Database) -> None:
        self.database = database
        refuse = {
            True: [
                "CREATE TRIGGER poison BEFORE INSERT ON delivery_reports WHEN NEW.word = 'Poison'"
                " BEGIN SELECT RAISE(ABORT, 'poisoned'); END",
                "CREATE TRIGGER trouble BEFORE INSERT ON delivery_reports WHEN NEW.word = 'Trouble'"
                " BEGIN SELECT json('{'); END",
            ],
            False: [
                "CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS"
                " $$ BEGIN IF NEW.word = 'Poison' THEN RAISE 'poisoned'; END IF;"
                " IF NEW.word = 'Trouble' THEN RAISE 'trouble' USING ERRCODE = '53200'; END IF;"
                " RETURN NEW; END $$",
                "CREATE TRIGGER poison BEFORE INSERT ON delivery_reports"
                " FOR EACH ROW EXECUTE FUNCTION poison()",
            ],
        }
        self._run(*refuse[database.is_sqlite])

    def cure(self) -> None:
        if self.database.is_sqlite:
            self._run("DROP TRIGGER poison", "DROP TRIGGER trouble")
        else:
            self._run("DROP TRIGGER poison ON delivery_reports", "DROP FUNCTION poison")

    def _run(self, *statements: str) -> None:
        with self.database.write() as connection:
            for statement in statements:
                connection.execute(text(statement))
