"""The rules of the house: the order of packages, one reader of the environment, one importer of the SDK."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from utils.setting_types import REPOSITORY

# The packages from the inside out. A module may import its own package and those of an earlier line.
ORDER: tuple[tuple[str, ...], ...] = (
    ("utils",),
    ("messaging.storage", "messaging.statuses", "messaging.batch_statuses"),
    ("messaging.access",),
    ("messaging.forwarding", "messaging.costs"),
    ("messaging.consent", "messaging.messages"),
    ("messaging.reports", "messaging.batches", "messaging.conversations"),
    ("messaging.sending", "messaging.callbacks", "messaging.reply_handlers"),
    ("messaging.service",),
    ("messaging.operations",),
    ("routes", "cli", "worker", "replies"),
    ("app", "gunicorn.conf", "migrations"),
    ("benchmarks",),
    ("tests",),
)
PLACE = {name: place for place, names in enumerate(ORDER) for name in names}
TOPS = {"messaging", *(name for name in PLACE if not name.startswith("messaging."))}
OURS = {*TOPS, "simulator"}
NEVER = {
    "utils": {"flask", "sqlalchemy", "psycopg", "sqlite3", "alembic", "huey"},
    "messaging": {"flask", "requests", "africastalking"},
    "routes": {"sqlalchemy", "psycopg", "sqlite3", "africastalking"},
    "simulator": {"africastalking"},
}
LONGEST_VIEW = 9
# What a route or a command calls, that writes without `settled=True`, and why a lost commit there harms nobody.
UNSETTLED = {
    "claim_identity": "whose database this is: written again, it says the same",
    "find": "when a login was last seen",
    "flush": "only counts who was refused",
    "forget": "blanks once more what is blank already",
    "mark_read": "neither sends nor blocks",
    "replay": "what has taken effect does not do so again",
    "resend": "an event to the operator's own system, delivered at least once in any case",
    "resume": "lets those events go on",
}
ROUTE_DECORATORS = {"route", "get", "post", "put", "patch", "delete"}
ENVIRONMENT_NAMES = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}


def home_of(path: Path) -> str:
    """The top-level package or module."""
    parts = path.relative_to(REPOSITORY).parts
    return path.stem if len(parts) == 1 else parts[0]


def room_of(name: str) -> str | None:
    """The entry of ORDER that a dotted name belongs to; None for what is not ours."""
    parts = name.split(".")
    return next((room for room in (".".join(parts[:2]), parts[0], name) if room in PLACE), None)


def code_files() -> list[Path]:
    packages = [name for name in OURS if (REPOSITORY / name).is_dir()]
    nested = (path for name in packages for path in (REPOSITORY / name).rglob("*.py"))
    return sorted([*REPOSITORY.glob("*.py"), *nested])


FILES = code_files()
OUTSIDE_TESTS = [path for path in FILES if home_of(path) != "tests"]
APPLICATION = [path for path in FILES if home_of(path) not in {"tests", "benchmarks"}]
ROUTES = [path for path in FILES if home_of(path) == "routes"]


def name_of(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports_of(path: Path) -> Iterator[str]:
    """Every imported module in full; `from a import b` gives `a.b` too, for b may be a module."""
    package = path.relative_to(REPOSITORY).parent.parts
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def imported_homes(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports_of(path)}


def outward_imports(path: Path) -> set[str]:
    """The imports that point outwards, to another package of the same line or a later one."""
    if home_of(path) == "simulator":
        return (imported_homes(path) & OURS) - {"simulator"}
    room = room_of(".".join(path.relative_to(REPOSITORY).with_suffix("").parts))
    wrong = {name for name in imports_of(path) if is_outward(room, name)}
    # `from a.b import c` yields both a.b and a.b.c: the longer name says more.
    return {name for name in wrong if not any(longer.startswith(f"{name}.") for longer in wrong)}


def is_outward(room: str | None, name: str) -> bool:
    other = room_of(name)
    if room is None or other is None:
        return name.split(".")[0] == "simulator"
    return other != room and PLACE[other] >= PLACE[room]


def reads_environment(path: Path) -> bool:
    tree = tree_of(path)
    used = {
        node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and named(node.value) == "os"
    }
    imported = {name.removeprefix("os.") for name in imports_of(path) if name.startswith("os.")}
    return bool((used | imported) & ENVIRONMENT_NAMES) or "dotenv" in imported_homes(path)


def named(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def calls(path: Path, name: str) -> list[int]:
    nodes = (node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call))
    return [node.lineno for node in nodes if isinstance(node.func, ast.Name) and node.func.id == name]


def makes_blueprint(path: Path) -> bool:
    nodes = (node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call))
    return any(named(node.func).endswith("Blueprint") for node in nodes)


def stated_callers(path: Path) -> str:
    for node in tree_of(path).body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if "CALLERS" in {named(target) for target in targets} and isinstance(node, ast.Assign):
            return str(ast.literal_eval(node.value)).strip()
    return ""


def views_of(path: Path) -> Iterator[ast.FunctionDef]:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef) and any(
            is_route(decorator) for decorator in node.decorator_list
        ):
            yield node


def is_route(decorator: ast.expr) -> bool:
    is_call = isinstance(decorator, ast.Call) and isinstance(decorator.func, ast.Attribute)
    return is_call and named(decorator.func) in ROUTE_DECORATORS  # type: ignore[attr-defined]


def length_of(view: ast.FunctionDef) -> int:
    body = view.body[1:] if ast.get_docstring(view) is not None else view.body
    return (view.end_lineno or 0) - body[0].lineno + 1 if body else 0


def module(folder: Path, text: str) -> Path:
    path = folder / "module.py"
    path.write_text(text)
    return path


def test_every_module_has_its_place() -> None:
    inside = [path for path in FILES if home_of(path) != "simulator" and path.name != "__init__.py"]
    names = [".".join(path.relative_to(REPOSITORY).with_suffix("").parts) for path in inside]
    assert [name for name in names if room_of(name) is None] == []


@pytest.mark.parametrize("path", OUTSIDE_TESTS, ids=name_of)
def test_imports_point_inward_and_the_simulator_stands_alone(path: Path) -> None:
    assert outward_imports(path) == set()


@pytest.mark.parametrize("path", APPLICATION, ids=name_of)
def test_a_package_does_not_do_the_work_of_another(path: Path) -> None:
    assert imported_homes(path) & NEVER.get(home_of(path), set()) == set()


def test_only_sms_utils_imports_the_sdk() -> None:
    importers = [name_of(path) for path in APPLICATION if "africastalking" in imported_homes(path)]
    assert importers == ["utils/sms_utils.py"]


def test_only_settings_reads_the_environment() -> None:
    assert [name_of(path) for path in APPLICATION if reads_environment(path)] == ["utils/settings.py"]


@pytest.mark.parametrize("path", APPLICATION, ids=name_of)
def test_nothing_is_printed(path: Path) -> None:
    assert calls(path, "print") == []


@pytest.mark.parametrize("path", ROUTES, ids=name_of)
def test_every_blueprint_states_who_may_call_it(path: Path) -> None:
    if makes_blueprint(path):
        assert len(stated_callers(path)) > 5, 'write CALLERS = "who may call these routes" below the imports'


@pytest.mark.parametrize("path", ROUTES, ids=name_of)
def test_a_view_reads_calls_one_function_and_answers(path: Path) -> None:
    assert {view.name: length_of(view) for view in views_of(path) if length_of(view) > LONGEST_VIEW} == {}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import os\nos.environ['A']", True),
        ("import os\nos.getenv('A')", True),
        ("from os import environ", True),
        ("from dotenv import load_dotenv", True),
        ("import os\nos.path.join('a', 'b')", False),
        ("def app(environ): return environ['PATH_INFO']", False),
    ],
)
def test_the_search_for_readers_of_the_environment_finds_them(tmp_path: Path, text: str, found: bool) -> None:
    path = module(tmp_path, text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"{__name__}.REPOSITORY", tmp_path)
        assert reads_environment(path) is found


@pytest.mark.parametrize(
    ("home", "text", "found"),
    [
        ("utils", "from messaging.messages import queue", {"messaging.messages.queue"}),
        ("messaging/storage", "from messaging import statuses", {"messaging.statuses"}),
        ("messaging/batches", "def late():\n    import messaging.sending.claim", {"messaging.sending.claim"}),
        ("messaging/batches", "from messaging.reports import write", {"messaging.reports.write"}),
        ("messaging/batches", "from messaging.batches.rows import Row\nimport messaging.costs.prices", set()),
        ("messaging/sending", "import utils.errors\nfrom . import claim", set()),
        ("routes", "from app import create_app", {"app.create_app"}),
        ("routes", "from worker.process import Worker", {"worker.process.Worker"}),
        ("cli", "import simulator", {"simulator"}),
        ("simulator", "from utils import errors", {"utils"}),
        ("simulator", "from simulator.ledger import Ledger", set()),
    ],
)
def test_the_search_for_outward_imports_finds_them(
    tmp_path: Path, home: str, text: str, found: set[str]
) -> None:
    (tmp_path / home).mkdir(parents=True)
    path = module(tmp_path / home, text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"{__name__}.REPOSITORY", tmp_path)
        assert outward_imports(path) == found


def test_the_length_of_a_view_leaves_out_its_docstring_and_signature(tmp_path: Path) -> None:
    text = '@pages.get("/")\ndef show(\n    a,\n):\n    """Shows."""\n    b = a\n    return b\n\ndef other(): ...\n'
    (view,) = views_of(module(tmp_path, text))
    assert length_of(view) == 2


def writes_unsettled(function: ast.FunctionDef) -> bool:
    entered = (
        item.context_expr for node in ast.walk(function) if isinstance(node, ast.With) for item in node.items
    )
    writes = (one for one in entered if isinstance(one, ast.Call) and named(one.func) == "write")
    return any("settled" not in {keyword.arg for keyword in one.keywords} for one in writes)


def test_a_write_that_a_caller_hears_of_is_settled() -> None:
    """One whose commit is lost is called "not done" otherwise: whoever obeys sends twice."""
    functions = [
        node
        for path in APPLICATION
        if home_of(path) == "messaging"
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef)
    ]
    skins = [path for path in APPLICATION if home_of(path) in {"routes", "cli"}]
    called = {
        named(node.func) for path in skins for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call)
    }
    assert {one.name for one in functions if writes_unsettled(one)} & called == set(UNSETTLED)
