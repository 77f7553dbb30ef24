from decimal import Decimal
from pathlib import Path

import pytest
from pydantic import ValidationError

from utils.money import Money
from utils.setting_types import REPOSITORY
from utils.settings import Settings, SettingsError, child_environment, load_settings
from utils.settings_model import NO_PROVIDER

ACCOUNT = {
    "AT_USERNAME": "shop",
    "AT_API_KEY": "atsk_secret",
    "API_KEYS": "key-one-of-the-shop,key-two-of-the-shop",
    "WEBHOOK_TOKENS": "token-one-of-the-shop,token-two-of-the-shop",
    "DASHBOARD_PASSWORD": "open sesame please",
    "SECRET_KEY": "signs-cookies-of-the-shop",
}
SECRETS = (
    "atsk_secret",
    "key-one-of-the-shop",
    "key-two-of-the-shop",
    "token-one-of-the-shop",
    "open sesame please",
    "signs-cookies-of-the-shop",
)
FORWARD_SECRETS = tuple(f"whsec_{letter * 43}=" for letter in "AB")


def problems_of(environment: dict[str, str], for_service: bool = True) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        load_settings(environment, for_service=for_service)
    return caught.value.problems


def problem_of(environment: dict[str, str]) -> str:
    (problem,) = problems_of(environment)
    return problem


def test_without_any_variable_the_service_is_offline_with_the_defaults_of_the_contract() -> None:
    settings = load_settings({})
    assert settings.is_offline
    assert settings.at_shortcode == "20880"
    assert settings.at_base_url == settings.provider_host == "http://127.0.0.1:8001"
    assert (settings.provider_username, settings.provider_api_key) == ("offline", "offline")
    assert (settings.bind, settings.port, settings.simulator_port) == ("127.0.0.1", 8000, 8001)
    assert (settings.at_max_recipients, settings.at_timeout_seconds) == (500, 60)
    assert (settings.at_max_requests_per_second, settings.at_max_messages_per_second) == (10, 500)
    assert (settings.web_concurrency, settings.web_threads, settings.worker_concurrency) == (1, 16, 4)
    assert settings.reply_template == 'This is a response to: "{text}"'
    assert (settings.stop_scope, settings.retention_days, settings.log_level) == ("all", 90, "INFO")
    assert settings.adopt_by_number is True
    assert settings.way_out == "STOP to 20880"
    assert settings.default_region is settings.forward_url is settings.forward_secret is None
    assert settings.api_keys == settings.webhook_tokens == settings.trusted_proxies == ()
    assert settings.public_url == "http://127.0.0.1:8000"
    assert settings.sqlalchemy_url == f"sqlite:///{REPOSITORY}/instance/sms.db"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("PORT", " 9000 ", 9000),
        ("AT_TIMEOUT_SECONDS", "0.5", 0.5),
        ("ADOPT_BY_NUMBER", "false", False),
        ("ADOPT_BY_NUMBER", "Yes", True),
        ("API_KEYS", " one , two ,one,", ("one", "two")),
        ("DEFAULT_REGION", "ke", "KE"),
        ("TIME_ZONE", "Africa/Lagos", "Africa/Lagos"),
        ("LOG_LEVEL", "debug", "DEBUG"),
        ("STOP_SCOPE", "sender", "sender"),
        ("REPLY_TEMPLATE", "", ""),
        ("REPLY_TEMPLATE", "We are closed.", "We are closed."),
        ("PUBLIC_URL", "https://sms.example.org/texts/", "https://sms.example.org/texts"),
        ("AT_BASE_URL", "http://localhost:9999/", "http://localhost:9999"),
        ("BIND", "[::1]", "::1"),
        ("TRUSTED_PROXIES", "10.0.0.0/8, 127.0.0.1", ("10.0.0.0/8", "127.0.0.1/32")),
        ("DATABASE_URL", "sqlite:////var/lib/sms.db", "sqlite:////var/lib/sms.db"),
        ("DATABASE_URL", "postgres://u:p@db/sms", "postgresql://u:p@db/sms"),
        ("DATABASE_URL", "postgresql+psycopg://db/sms", "postgresql://db/sms"),
        ("QUEUE_URL", "redis://127.0.0.1:6379/2", "redis://127.0.0.1:6379/2"),
        ("QUEUE_URL", "sqlite:///wake.db", f"sqlite:///{REPOSITORY}/wake.db"),
        ("AT_SENDER_ID", "Duka & Sons", "Duka & Sons"),
        ("DAILY_LIMIT", "KES 5000", Money(Decimal(5000), "KES")),
        (
            "SENDER_DAILY_LIMITS",
            "NEWS=KES 2000, 20880=KES 500.50",
            {"NEWS": Money(Decimal(2000), "KES"), "20880": Money(Decimal("500.50"), "KES")},
        ),
        ("APPROVAL_ABOVE", "500", 500),
        ("APPROVAL_ABOVE", "KES 2000", Money(Decimal(2000), "KES")),
        ("UNUSUAL_FACTOR", "40", 40.0),
    ],
)
def test_a_value_that_can_be_used_is_taken(name: str, text: str, value: object) -> None:
    assert getattr(load_settings({name: text}), name.lower()) == value


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("PORT", "eighty", "a whole number"),
        ("PORT", "0", "at least 1"),
        ("PORT", "70000", "at most 65535"),
        ("AT_TIMEOUT_SECONDS", "0", "more than 0"),
        ("AT_TIMEOUT_SECONDS", "nan", "a finite number"),
        ("AT_TIMEOUT_SECONDS", "soon", "a number"),
        ("AT_MAX_RECIPIENTS", "0", "at least 1"),
        ("AT_MAX_RECIPIENTS", "1.5", "a whole number"),
        ("AT_MAX_REQUESTS_PER_SECOND", "-1", "more than 0"),
        ("ADOPT_BY_NUMBER", "maybe", "true or false"),
        ("WEB_THREADS", "1", "at least 2"),
        ("RETENTION_DAYS", "0", "at least 1"),
        ("LOG_LEVEL", "loud", "one of"),
        ("STOP_SCOPE", "some", "one of"),
        ("DEFAULT_REGION", "Kenya", "two letters"),
        ("DEFAULT_REGION", "ZZ", "two letters"),
        ("TIME_ZONE", "Nairobi", "name of a time zone"),
        ("TIME_ZONE", "../etc/passwd", "name of a time zone"),
        ("TIME_ZONE", "+03:00", "name of a time zone"),
        ("REPLY_TEMPLATE", "Dear {name}", "{text}"),
        ("AT_BASE_URL", "localhost:8001", "a URL"),
        ("AT_BASE_URL", "http://127.0.0.1:8001/version1", "nothing after it"),
        ("AT_BASE_URL", "http://127.0.0.1:port", "a URL"),
        ("AT_SHORTCODE", "20,880", "a shortcode"),
        ("PUBLIC_URL", "https://sms.example.org/?a=1", "without ?"),
        ("BIND", "127.0.0.256", "an address"),
        ("TRUSTED_PROXIES", "*", "addresses or networks"),
        ("TRUSTED_PROXIES", "10.0.0.1/8", "addresses or networks"),
        ("DATABASE_URL", "mysql://db/sms", "postgresql://"),
        ("DATABASE_URL", "sqlite://sms.db", "sqlite:///path"),
        ("DATABASE_URL", "sqlite:///:memory:", "a file"),
        ("QUEUE_URL", "amqp://broker", "redis://"),
        ("API_KEYS", "one key", "without spaces"),
        ("API_KEYS", "ключ", "ASCII"),
        ("WEBHOOK_TOKENS", ",", "at least one"),
        ("DAILY_LIMIT", "5000", "like KES 5000"),
        ("DAILY_LIMIT", "KES 0", "above 0"),
        ("SENDER_DAILY_LIMITS", "NEWS KES 2000", "NEWS=KES 2000,20880=KES 500"),
        ("SENDER_DAILY_LIMITS", "NEWS=2000", "NEWS=KES 2000,20880=KES 500"),
        ("APPROVAL_ABOVE", "many", "a number of recipients, like 500, or an amount"),
        ("APPROVAL_ABOVE", "-1", "a number of recipients"),
        ("UNUSUAL_FACTOR", "0.5", "at least 1"),
    ],
)
def test_a_value_that_cannot_be_used_is_named_with_what_is_wanted(name: str, text: str, wanted: str) -> None:
    lines = [line for line in problems_of({name: text}) if line.startswith(f"{name} must be ")]
    assert len(lines) == 1
    assert wanted in lines[0]


def test_all_problems_are_told_at_once() -> None:
    wrong = {"PORT": "x", "LOG_LEVEL": "loud", "AT_USERNAME": "shop", "AT_SHORT_CODE": "1", "API_KEYS": "a b"}
    named = {line.split()[0] for line in problems_of(wrong)}
    assert named == {
        "PORT",
        "LOG_LEVEL",
        "AT_SHORT_CODE",
        "AT_API_KEY",
        "API_KEYS",
        "WEBHOOK_TOKENS",
        "DASHBOARD_PASSWORD",
        "SECRET_KEY",
    }


@pytest.mark.parametrize("name", [name for name in ACCOUNT if name != "AT_USERNAME"])
@pytest.mark.parametrize("empty", [False, True])
def test_an_account_without_a_needed_secret_is_refused_with_one_line(name: str, empty: bool) -> None:
    environment = {other: value for other, value in ACCOUNT.items() if other != name}
    if empty:
        environment[name] = ""
    assert problem_of(environment).startswith(f"{name} is not set")


def test_a_key_without_its_account_is_refused_rather_than_taken_for_offline() -> None:
    assert problem_of({"AT_API_KEY": "atsk_secret"}).startswith("AT_USERNAME is not set")


def test_a_bare_script_needs_neither_keys_nor_tokens() -> None:
    settings = load_settings({"AT_USERNAME": "shop", "AT_API_KEY": "atsk_secret"}, for_service=False)
    assert (settings.at_username, settings.at_api_key) == ("shop", "atsk_secret")
    assert load_settings({}, for_service=False).at_username is None
    assert problems_of({"AT_TIMEOUT_SECONDS": "x"}, for_service=False)


def test_a_secret_that_signs_nothing_is_refused_and_not_shown() -> None:
    forwarding = {"FORWARD_URL": "https://crm.example.org", "FORWARD_SECRET": "too-short-a-secret"}
    problem = problem_of(forwarding)
    assert problem.startswith("FORWARD_SECRET must be a comma list of secrets, each whsec_")
    assert "too-short" not in problem


def test_forwarding_needs_its_secret() -> None:
    assert problem_of({"FORWARD_URL": "https://crm.example.org"}).startswith("FORWARD_SECRET is not set")


def test_test_keys_need_a_database_of_their_own() -> None:
    shared = {"DATABASE_URL": "postgresql://db/sms", "TEST_KEYS_DATABASE_URL": "postgres://db/sms"}
    assert problem_of(shared).startswith("TEST_KEYS_DATABASE_URL is DATABASE_URL")


def test_an_unknown_name_beginning_with_at_is_refused_with_the_nearest_known_one() -> None:
    assert (
        problem_of({"AT_SHORT_CODE": "20880"}) == "AT_SHORT_CODE is not a setting: did you mean AT_SHORTCODE?"
    )


def test_names_of_other_programs_in_the_environment_are_left_alone() -> None:
    assert load_settings({"HOME": "/", "AT_SPI_BUS_ADDRESS": "unix:path=/x", "ATTIC": "1"}).is_offline


def test_the_environment_wins_over_the_file_even_with_an_empty_value(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text('PORT=9000\nDEFAULT_REGION=KE\nREPLY_TEMPLATE="Thanks: {text}"\n# AT_USERNAME=shop\n')
    settings = load_settings({"PORT": "9001", "DEFAULT_REGION": ""}, dotenv)
    assert (settings.port, settings.default_region, settings.reply_template) == (9001, None, "Thanks: {text}")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("PROT=8000", "PROT is not a setting: did you mean PORT?"),
        ("FAVOURITE_COLOUR=green", "FAVOURITE_COLOUR is not a setting: remove it"),
        ("PORT 8000", ".env line 2 cannot be read: write NAME=value"),
        ("PORT", ".env line 2 cannot be read: write NAME=value"),
    ],
)
def test_every_line_of_the_file_must_be_a_setting(tmp_path: Path, line: str, problem: str) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text(f"# ours\n{line}\n")
    with pytest.raises(SettingsError) as caught:
        load_settings({}, dotenv)
    assert caught.value.problems == (problem,)


def test_a_file_that_is_no_text_is_a_problem_and_no_traceback(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_bytes(b"PORT=\xff\xfe")
    with pytest.raises(SettingsError, match="cannot be read"):
        load_settings({}, dotenv)


def test_a_missing_file_is_no_problem(tmp_path: Path) -> None:
    assert load_settings({}, tmp_path / ".env").port == 8000


@pytest.mark.parametrize("bind", ["0.0.0.0", "192.168.1.5", "::", "sms.example.org"])
def test_offline_only_loopback_is_bound(bind: str) -> None:
    assert problem_of({"BIND": bind}).startswith(f"BIND is {bind}")
    assert load_settings({**ACCOUNT, "BIND": bind}).bind == bind


@pytest.mark.parametrize("bind", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_offline_every_loopback_address_may_be_bound(bind: str) -> None:
    assert load_settings({"BIND": bind}).bind == bind


def test_offline_no_provider_beyond_this_machine_is_spoken_to() -> None:
    assert problem_of({"AT_BASE_URL": "https://api.africastalking.com"}).startswith("AT_BASE_URL")
    assert load_settings({"AT_BASE_URL": "http://[::1]:9000"}).provider_host == "http://[::1]:9000"


def test_a_server_started_by_hand_needs_an_account_or_a_named_provider() -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings({}).require_provider()
    assert caught.value.problems == (NO_PROVIDER,)
    assert "AT_USERNAME" in NO_PROVIDER
    load_settings({"AT_BASE_URL": "http://127.0.0.1:8001"}).require_provider()
    load_settings(ACCOUNT).require_provider()


@pytest.mark.parametrize(
    ("username", "host"),
    [("shop", "https://api.africastalking.com"), ("sandbox", "https://api.sandbox.africastalking.com")],
)
def test_the_username_chooses_the_provider_host(username: str, host: str) -> None:
    settings = load_settings({**ACCOUNT, "AT_USERNAME": username})
    assert (settings.provider_host, settings.at_base_url, settings.at_shortcode) == (host, None, None)
    elsewhere = load_settings({**ACCOUNT, "AT_USERNAME": username, "AT_BASE_URL": "http://127.0.0.1:1"})
    assert elsewhere.provider_host == "http://127.0.0.1:1"


def test_without_a_sender_id_opt_outs_count_for_the_providers_own() -> None:
    assert load_settings({}).effective_sender_id == "AFRICASTKNG"
    assert load_settings({"AT_SENDER_ID": "DUKA"}).effective_sender_id == "DUKA"


def test_the_queue_lies_beside_the_database_and_is_not_shared_by_two() -> None:
    first = load_settings({"DATABASE_URL": "sqlite:////data/one.db"})
    second = load_settings({"DATABASE_URL": "sqlite:////data/two.db"})
    assert first.queue_url.startswith("sqlite:////data/")
    assert len({first.queue_url, second.queue_url, first.database_url, second.database_url}) == 4
    assert load_settings({"DATABASE_URL": "postgresql://db/sms"}).queue_url == "postgresql://db/sms"


def test_postgresql_gets_the_driver_and_more_than_the_one_web_process_of_sqlite() -> None:
    settings = load_settings({"DATABASE_URL": "postgresql://u@db/sms"})
    assert settings.sqlalchemy_url == "postgresql+psycopg://u@db/sms"
    assert settings.web_concurrency >= 1
    assert load_settings({"WEB_CONCURRENCY": "3"}).web_concurrency == 3


def test_callback_urls_carry_the_first_token_escaped() -> None:
    settings = load_settings({"PUBLIC_URL": "https://sms.example.org", "WEBHOOK_TOKENS": "a&b,second"})
    assert settings.callback_urls == {
        "twoway": "https://sms.example.org/sms/twoway?token=a%26b",
        "delivery-reports": "https://sms.example.org/sms/delivery-reports?token=a%26b",
        "opt-out": "https://sms.example.org/sms/opt-out?token=a%26b",
        "subscription": "https://sms.example.org/sms/subscription?token=a%26b",
    }
    assert load_settings({}).callback_urls["twoway"] == "http://127.0.0.1:8000/sms/twoway"


def test_the_local_address_of_the_service_can_be_called() -> None:
    assert load_settings({"BIND": "::1", "PORT": "9000"}).service_url == "http://[::1]:9000"
    assert load_settings({**ACCOUNT, "BIND": "0.0.0.0"}).service_url == "http://127.0.0.1:8000"


def test_no_secret_stands_in_the_repr_or_in_a_problem() -> None:
    private = {"DATABASE_URL": "postgresql://u:dbpass@db/sms", "QUEUE_URL": "redis://:qpass@q/0"}
    shown = repr(load_settings({**ACCOUNT, **private}))
    wrong = {"AT_API_KEY": "at key", "API_KEYS": "api key", "DATABASE_URL": "mysql://u:dbpass@db/sms"}
    told = "\n".join(problems_of({**ACCOUNT, **wrong}))
    assert not [secret for secret in (*SECRETS, "dbpass", "qpass") if secret in shown]
    assert not [secret for secret in ("at key", "api key", "dbpass") if secret in told]


def test_the_log_is_told_every_secret() -> None:
    forwarding = {"FORWARD_URL": "https://crm.example.org", "FORWARD_SECRET": ",".join(FORWARD_SECRETS)}
    assert set(load_settings({**ACCOUNT, **forwarding}).secrets) >= {*SECRETS, *FORWARD_SECRETS}


def test_settings_are_frozen_and_take_no_unknown_field() -> None:
    settings = load_settings({})
    with pytest.raises(ValidationError):
        setattr(settings, "port", 1)  # noqa: B010
    with pytest.raises(ValidationError):
        Settings.model_validate({"prot": 1})


def test_a_child_gets_this_environment_with_its_own_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "1")
    monkeypatch.setenv("KEPT", "yes")
    given = child_environment({"PORT": "2"})
    assert (given["PORT"], given["KEPT"]) == ("2", "yes")


@pytest.mark.parametrize("name", ["API_KEYS", "WEBHOOK_TOKENS", "DASHBOARD_PASSWORD", "SECRET_KEY"])
def test_on_a_live_account_what_can_be_guessed_is_refused_and_not_shown(name: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings(ACCOUNT | {name: "hunter2-hunter2"})
    assert refused.value.message.startswith(f"{name} has ")
    assert "hunter2" not in refused.value.message
    load_settings(ACCOUNT | {name: "hunter2-hunter2-"})
    # AT's sandbox spends no money.
    load_settings(ACCOUNT | {name: "hunter2", "AT_USERNAME": "sandbox"})


@pytest.mark.parametrize("name", ["QUEUE_URL", "DATABASE_URL"])
@pytest.mark.parametrize("url", ["{}://u:pa/ssword@db:port/0", "{}://u:password@[::1/0"])
def test_a_url_that_no_driver_can_read_is_refused_without_its_password(name: str, url: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings({name: url.format("redis" if name == "QUEUE_URL" else "postgresql")})
    assert refused.value.message.startswith(f"{name} must be ")
    assert "pa" not in refused.value.message


def test_a_live_account_is_told_that_answers_are_charged_until_somebody_has_chosen_them() -> None:
    notice = load_settings(ACCOUNT).reply_notice
    assert notice is not None
    assert "This is a response to" in notice
    for chosen in ({"REPLY_TEMPLATE": "Thanks"}, {"REPLY_TEMPLATE": ""}, {"AT_USERNAME": "sandbox"}):
        assert load_settings(ACCOUNT | chosen).reply_notice is None
    assert load_settings({}).reply_notice is None


@pytest.mark.parametrize(
    ("environment", "text"),
    [
        (ACCOUNT, ""),
        (ACCOUNT | {"AT_SHORTCODE": "40404"}, "STOP to 40404"),
        (ACCOUNT | {"AT_SHORTCODE": "ACME"}, ""),
        ({"AT_SHORTCODE": "40404", "WAY_OUT_TEXT": "Opt out: STOP to 1"}, "Opt out: STOP to 1"),
        ({"WAY_OUT_TEXT": ""}, ""),
    ],
)
def test_the_way_out_is_named_where_it_is_known(environment: dict[str, str], text: str) -> None:
    assert load_settings(environment).way_out == text


def test_an_empty_join_reply_turns_it_off_and_words_of_an_offer_may_be_unset() -> None:
    settings = load_settings({"JOIN_REPLY": "", "JOIN_WORDING": ""})
    assert (settings.join_reply, settings.join_wording) == ("", None)
    assert "JOIN_PURPOSE must be a text of at most 100 characters" in problem_of({"JOIN_PURPOSE": "x" * 101})
