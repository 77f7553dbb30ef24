import pytest

from messaging.keywords import meaning_of


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
    ],
)
def test_anything_else_is_a_message(text: str) -> None:
    assert meaning_of(text) == "message"
