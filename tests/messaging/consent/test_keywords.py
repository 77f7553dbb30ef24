import tomllib

import pytest

from messaging.consent.keywords import WORDS_FILE, fold, read_keyword, reply_to
from utils.segments import measure
from utils.settings import Settings

DEFAULT = Settings()
LANGUAGES = tomllib.loads(WORDS_FILE.read_text(encoding="utf-8"))
MEANINGS = ("stop", "start", "help")


def meaning_of(text: str, settings: Settings = DEFAULT) -> str:
    return read_keyword(text, settings).meaning


@pytest.mark.parametrize(
    "text",
    [
        "STOP",
        "stop",
        " Stop. ",
        "STOP!!!",
        '"STOP"',
        "ＳＴＯＰ",
        "STOP ALL",
        "Stop-All",
        "stopall",
        "stop\u200b",
        "\u202aSTOP\u202c",
        "Unsubscribe",
        "END",
        "Quit",
        "cancel",
        "STOP\n",
        "STOP " + "!" * 200,
        "\n" * 100 + "stop",
        "stop \N{SPEAK-NO-EVIL MONKEY}",
    ],
)
def test_a_whole_message_that_says_stop_is_a_stop(text: str) -> None:
    assert meaning_of(text) == "stop"


@pytest.mark.parametrize("text", ["START", "start.", "Unstop"])
def test_start_and_unstop_mean_start(text: str) -> None:
    assert meaning_of(text) == "start"


@pytest.mark.parametrize(
    "text",
    [
        "STOP 12345",
        "please stop",
        "stop it",
        "don't stop",
        "nonstop",
        "stopp",
        "",
        "...",
        "restart",
        "S T O P",
        "STOP " * 50,
        "STOP" + "!" * 2000,
    ],
)
def test_anything_else_is_a_message(text: str) -> None:
    assert meaning_of(text) == "message"


@pytest.mark.parametrize(
    ("text", "meaning", "language"),
    [
        ("Arrêt", "stop", "french"),
        ("ARRET!", "stop", "french"),
        ("désabonner", "stop", "french"),
        ("COMEÇAR", "start", "portuguese"),
        ("comecar", "start", "portuguese"),
        ("إيقاف", "stop", "arabic"),
        ("ايقاف", "stop", "arabic"),
        ("تــوقف", "stop", "arabic"),
        ("አቁም።", "stop", "amharic"),
        ("dúró", "stop", "yoruba"),
        ("Duro", "stop", "yoruba"),
        ("kwụsị", "stop", "igbo"),
        ("Msaada", "help", "swahili"),
        ("hagarika", "stop", "kinyarwanda"),
        # Of two languages: it tells none.
        ("misa", "stop", None),
    ],
)
def test_words_of_other_languages_count_with_and_without_their_accents(
    text: str, meaning: str, language: str | None
) -> None:
    assert read_keyword(text, DEFAULT) == (meaning, language)


def test_no_word_of_the_file_means_two_things() -> None:
    meant: dict[str, set[str]] = {}
    for table in LANGUAGES.values():
        for meaning in MEANINGS:
            for word in table.get(meaning, ()):
                meant.setdefault(fold(word), set()).add(meaning)
    assert {word: meanings for word, meanings in meant.items() if len(meanings) > 1} == {}
    assert "" not in meant


def test_every_reply_of_the_file_says_the_word_that_undoes_it() -> None:
    undone_by = {"stop_reply": ("START",), "start_reply": ("STOP",), "help_reply": ("STOP", "START")}
    for table in LANGUAGES.values():
        for name, words in undone_by.items():
            assert all(word in table.get(name, f"{words}") for word in words)
            assert measure(table.get(name, "")).parts <= 1


def test_own_words_of_the_operator_count_too_and_the_careful_meaning_first() -> None:
    own = Settings(stop_words=("Hapana Asante", "2"), start_words=("2", "yes"))
    assert meaning_of("hapana  asante!", own) == "stop"
    assert meaning_of("2", own) == "stop"
    assert meaning_of("YES", own) == "start"
    assert meaning_of("YES") == "message"


def test_a_reply_is_in_the_language_of_the_word_or_the_operator_s_own() -> None:
    assert reply_to(read_keyword("acha", DEFAULT), DEFAULT).startswith("Hutapokea")
    assert reply_to(read_keyword("gyae", DEFAULT), DEFAULT).startswith("You will get no more")
    own = Settings(stop_reply="Bye", help_reply="")
    assert reply_to(read_keyword("acha", own), own) == "Bye"
    assert reply_to(read_keyword("help", own), own) == ""
