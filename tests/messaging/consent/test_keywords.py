import tomllib

import pytest

from messaging.consent.keywords import WORDS_FILE, fold, read_keyword, reply_to
from utils.segments import measure
from utils.settings import Settings

DEFAULT = Settings()
LANGUAGES = tomllib.loads(WORDS_FILE.read_text(encoding="utf-8"))
MEANINGS = ("stop", "start", "help", "join")


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
        "STOP STOP STOP",
        "STOP " * 50,
        "STOP SMS",
        "Stop messages",
        "please stop",
        "STOP please!",
        "Pls stop, thanks.",
        "unsub",
        "Unsub please",
        "stop all sms",
        "STOP tafadhali",
        "Acha tafadhali",
        "acha please",
        "S'il vous plaît arrêtez",
        "stop acha",
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
        "join us",
        "I want to join",
        "nonstop",
        "stopp",
        "",
        "...",
        "restart",
        "S T O P",
        "please",
        "please send sms",
        "weekend",
        "HELP 12345",
        "START please",
    ],
)
def test_anything_else_is_a_message(text: str) -> None:
    assert meaning_of(text) == "message"


@pytest.mark.parametrize(
    "text",
    [
        "STOP 12345",
        "stop it",
        "don't stop",
        "Please stop sending me these, I have moved",
        "I want to UNSUBSCRIBE from this list",
        "STOP START",
        "Acha svp",
        "nataka kuacha: acha!",
        "STOP" + "!" * 2000,
        "stop " * 400,
    ],
)
def test_a_text_that_holds_a_stop_word_and_more_is_for_a_person_to_read(text: str) -> None:
    assert meaning_of(text) == "possible_opt_out"


STOPS = [(language, word) for language, table in LANGUAGES.items() for word in table.get("stop", ())]


@pytest.mark.parametrize(("language", "word"), STOPS)
def test_repetition_punctuation_and_politeness_change_nothing_in_any_language(
    language: str, word: str
) -> None:
    for text in (
        f"{word}.",
        f"{word.upper()}!!",
        f"{word} {word}",
        f"\u00ab{word}\u00bb, {word}!",
        f"please {word}",
    ):
        assert meaning_of(text) == "stop", text
    for polite in LANGUAGES[language].get("beside", ()):
        for text in (f"{polite} {word}", f"{word}, {polite}!", f"STOP {polite}"):
            assert meaning_of(text) == "stop", text


def test_every_language_with_a_stop_word_has_words_of_politeness() -> None:
    assert [
        language for language, table in LANGUAGES.items() if "stop" in table and "beside" not in table
    ] == []


def test_a_word_of_politeness_means_nothing_alone() -> None:
    for table in LANGUAGES.values():
        assert [word for word in table["beside"] if meaning_of(word) != "message"] == []


def test_plain_letters_are_read_as_all_others_are() -> None:
    for text in ("STOP_all", "don't-STOP", " a\tb\0c\x7f9 ", "".join(map(chr, range(128)))):
        assert fold(text) == fold(text + "\u200b")


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
        ("Jiunge!", "join", "swahili"),
        ("S'abonner", "join", "french"),
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
    undone_by["join_reply"] = ("STOP",)
    for table in LANGUAGES.values():
        for name, words in undone_by.items():
            assert all(word in table.get(name, f"{words}") for word in words)
            assert measure(table.get(name, "")).parts <= 1


def test_own_words_of_the_operator_count_too_and_the_careful_meaning_first() -> None:
    own = Settings(stop_words=("Hapana Asante", "2"), start_words=("2", "yes"))
    assert meaning_of("hapana  asante!", own) == "stop"
    assert meaning_of("2", own) == "stop"
    assert meaning_of("hapana asante, please", own) == "stop"
    assert meaning_of("Is it hapana asante then", own) == "possible_opt_out"
    # A figure says too little beside other words.
    assert meaning_of("2 messages", own) == meaning_of("I have 2 children", own) == "message"
    assert meaning_of("YES", own) == "start"
    assert meaning_of("YES") == "message"


def test_a_reply_is_in_the_language_of_the_word_or_the_operator_s_own() -> None:
    assert reply_to(read_keyword("acha", DEFAULT), DEFAULT).startswith("Hutapokea")
    assert reply_to(read_keyword("gyae", DEFAULT), DEFAULT).startswith("You will get no more")
    own = Settings(stop_reply="Bye", help_reply="")
    assert reply_to(read_keyword("acha", own), own) == "Bye"
    assert reply_to(read_keyword("help", own), own) == ""
