"""The HTTP side of a real node: probes, tokens, extensions, and how errors are told."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import reduce

import httpx
import pytest

from pbx import Pbx

API = "/api/v1"


@pytest.fixture(scope="module")
def pbx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pbx]:
    pbx = Pbx(tmp_path_factory.mktemp("node"), pairs=20)
    with pbx.up():
        yield pbx


@pytest.fixture(scope="module")
def tokens(pbx: Pbx) -> dict[str, str]:
    """A token of each role, made as an operator makes them."""
    return {role: pbx.run("user", "token", f"a-{role}", "--role", role).stdout.strip() for role in ("viewer", "admin")}


def client_of(pbx: Pbx, token: str = "") -> httpx.Client:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return httpx.Client(base_url=f"http://127.0.0.1:{pbx.http_port}", headers=headers, trust_env=False, timeout=30)


@pytest.fixture
def stranger(pbx: Pbx) -> Iterator[httpx.Client]:
    with client_of(pbx) as client:
        yield client


@pytest.fixture
def admin(pbx: Pbx, tokens: dict[str, str]) -> Iterator[httpx.Client]:
    with client_of(pbx, tokens["admin"]) as client:
        yield client


@pytest.fixture
def viewer(pbx: Pbx, tokens: dict[str, str]) -> Iterator[httpx.Client]:
    with client_of(pbx, tokens["viewer"]) as client:
        yield client


def routes(client: httpx.Client) -> list[tuple[str, str]]:
    """Every method and path that the description names, with something in the place of parameters."""
    paths = client.get(f"{API}/openapi.json").json()["paths"]
    named = {"{number}": "1001", "{id}": "x", "{kind}": "route", "{name}": "x"}
    named["/explain"] = "/explain?caller=1001&dialled=1002"
    found = [(method.upper(), path) for path, methods in paths.items() for method in methods]
    return [(method, reduce(lambda text, name: text.replace(name, named[name]), named, path)) for method, path in found]


def problem(response: httpx.Response, status: int) -> dict[str, object]:
    """The problem that the response must be."""
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    told: dict[str, object] = response.json()
    assert told.keys() >= {"type", "title", "status", "detail", "instance"}
    assert (told["status"], told["instance"]) == (status, response.request.url.raw_path.decode().partition("?")[0])
    assert "Traceback" not in response.text
    return told


@contextmanager
def table_away(pbx: Pbx, name: str) -> Iterator[None]:
    """The database as it is to the node when a table cannot be read."""
    with closing(sqlite3.connect(pbx.data / "warden.sqlite", timeout=10)) as database:
        database.execute(f"ALTER TABLE {name} RENAME TO away")
        try:
            yield
        finally:
            database.execute(f"ALTER TABLE away RENAME TO {name}")


def until_healthy(client: httpx.Client, *, stored: bool) -> dict[str, object]:
    """What /health says as soon as all is stored, or something is not."""
    until = time.monotonic() + 15
    while True:
        said: dict[str, object] = client.get("/health").json()
        if (said["not_stored"] == []) is stored:
            return said
        assert time.monotonic() < until, said
        time.sleep(0.02)  # Only asking again tells.


# Probes


def test_a_running_node_is_alive_and_healthy_and_says_who_it_is(stranger: httpx.Client) -> None:
    assert stranger.get("/live").json() == {"status": "ok"}
    health = stranger.get("/health")
    assert health.status_code == 200
    said = health.json()
    assert (said["status"], said["reasons"], said["not_stored"]) == ("ok", [], [])
    assert (said["node"], said["seat"], said["epoch"], said["calls"]) == ("node1", "node1", 1, 0)
    assert said["seats"] == ["node1"]
    assert health.headers["Cache-Control"] == "no-store"
    for path in ("/live", "/health", "/metrics"):
        answer = stranger.head(path)
        assert (answer.status_code, answer.content) == (200, b"")


def test_status_says_what_health_says_and_more(viewer: httpx.Client) -> None:
    status, health = viewer.get(f"{API}/status").json(), viewer.get("/health").json()
    assert status.items() >= health.items()
    assert status["cluster"] == "pbx-cluster"
    assert status["uptime_s"] > 0
    assert status["started_at"].endswith("Z")


def test_a_node_by_itself_is_the_only_member_and_gives_its_seat_to_nobody(
    admin: httpx.Client, viewer: httpx.Client
) -> None:
    cluster = viewer.get(f"{API}/cluster").json()
    assert (cluster["clustered"], cluster["coordinator_error"], cluster["sentences"]) == (False, "", [])
    assert [(x["node"], x["seats"], x["clock_behind_s"]) for x in cluster["members"]] == [("node1", ["node1"], 0)]
    (seat,) = viewer.get(f"{API}/seats").json()["items"]
    assert (seat["name"], seat["address"], seat["holder"], seat["epoch"]) == ("node1", "127.0.0.1", "node1", 1)
    assert (seat["successors"], seat["held_here"], seat["calls_here"]) == (["node1"], True, 0)
    handover = f"{API}/seats/node1/handover"
    for answer, status in (
        (viewer.post(f"{API}/drain"), 403),
        (admin.post(f"{API}/drain"), 409),
        (viewer.post(handover, json={"to": "node2"}), 403),
        (admin.post(handover, json={"to": "node2"}), 409),
        (admin.post(f"{API}/seats/other/handover", json={"to": "node1"}), 404),
        (admin.post(handover, json={"too": "node2"}), 422),
    ):
        assert (answer.status_code, answer.json()["status"]) == (status, status)
    assert viewer.get("/health").json()["status"] == "ok"


# Tokens


def test_whatever_the_description_names_needs_a_token(stranger: httpx.Client) -> None:
    assert stranger.get(f"{API}/openapi.json").json()["openapi"].startswith("3.1")
    named = routes(stranger)
    assert len(named) == 33
    for method, path in [
        *named,
        ("GET", f"{API}/nothing-here"),
        ("POST", "/api/v2"),
        ("DELETE", f"{API}/openapi.jsox"),
    ]:
        answer = stranger.request(method, path, content=b"{not json")
        problem(answer, 401)
        assert answer.headers["WWW-Authenticate"] == 'Bearer realm="warden"'


@pytest.mark.parametrize(
    "said", ["Bearer", "Bearer x", "Basic YTpi", "bearer " + "x" * 600, "Token {admin}", "{admin}"]
)
def test_a_wrong_token_or_another_scheme_is_refused(stranger: httpx.Client, tokens: dict[str, str], said: str) -> None:
    problem(stranger.get(f"{API}/status", headers={"Authorization": said.format(**tokens)}), 401)


def test_a_viewer_may_look_at_everything_and_change_nothing(viewer: httpx.Client) -> None:
    for method, path in routes(viewer):
        answer = viewer.request(method, path, json={})
        if method == "GET":
            assert answer.status_code in (200, 404)
        else:
            problem(answer, 403)
            assert 'error="insufficient_scope"' in answer.headers["WWW-Authenticate"]


def test_a_token_is_good_at_once_and_a_revoked_one_soon_is_not(pbx: Pbx, stranger: httpx.Client) -> None:
    def status_of(token: str) -> int:
        return stranger.get(f"{API}/status", headers={"Authorization": f"bearer {token}"}).status_code

    token = pbx.run("user", "token", "leaving").stdout.strip()
    assert status_of(token) == 200
    assert pbx.run("user", "revoke", "leaving").returncode == 0
    until = time.monotonic() + 15
    while status_of(token) != 401:
        assert time.monotonic() < until, "still good"
        time.sleep(0.1)  # Only asking again tells.


# Extensions


def test_an_extension_is_made_found_changed_and_removed_and_its_secrets_are_never_told(
    pbx: Pbx, admin: httpx.Client
) -> None:
    number, password = "#7.a+b", "Pa55-und-mehr"
    made = admin.post(f"{API}/extensions", json={"number": number, "password": password, "name": "Zoë"})
    assert made.status_code == 201
    where = made.headers["Location"]
    assert where == f"{API}/extensions/%237.a+b"
    assert made.json().keys() == {"number", "name", "created_at", "srtp"}
    assert admin.get(where).json() == made.json()
    assert number in pbx.run("extension", "list").stdout
    problem(admin.post(f"{API}/extensions", json={"number": number, "password": password}), 409)

    renamed = admin.put(where, json={"name": "Zoe"})
    assert (renamed.status_code, renamed.json()) == (200, made.json() | {"name": "Zoe"})
    assert admin.put(where, json={"password": "Nochmal-anders"}).json() == renamed.json()
    assert made.json()["srtp"] == "optional"
    renamed = admin.put(where, json={"srtp": "required"})
    assert admin.put(where, json={"password": "Noch-ein-anderes"}).json()["srtp"] == "required"
    assert problem(admin.put(where, json={"srtp": "perhaps"}), 422)
    listed = admin.get(f"{API}/extensions")
    assert renamed.json() in listed.json()["items"]
    assert "ha1" not in listed.text

    assert admin.delete(where).status_code == 204
    for answer in (admin.get(where), admin.delete(where), admin.put(where, json={"name": "x"})):
        assert problem(answer, 404)["detail"] == f"extension {number}: there is none"
    log = pbx.stderr.read_text()
    assert password not in log
    assert [line for line in log.splitlines() if "extension removed" in line and "by=a-admin" in line]


def test_extensions_come_in_pages_by_number(admin: httpx.Client) -> None:
    numbers = ["2001", "2002", "2003", "2004", "2005"]
    for number in reversed(numbers):
        assert admin.post(f"{API}/extensions", json={"number": number, "password": "opens-sesame"}).status_code == 201
    seen, after = [], ""
    while True:
        page = admin.get(f"{API}/extensions", params={"limit": 2, "after": after}).json()
        seen.append([x["number"] for x in page["items"]])
        after = page["next"]
        if after is None:
            break
    assert seen == [["2001", "2002"], ["2003", "2004"], ["2005"]]
    for number in numbers:
        assert admin.delete(f"{API}/extensions/{number}").status_code == 204


# Errors


WRONG: list[tuple[dict[str, object], str]] = [
    ({}, "body.number"),
    ({"number": "77", "password": "opens-sesame", "nmae": "x"}, "body.nmae"),
    ({"number": "7 7", "password": "opens-sesame"}, "body.number"),
    ({"number": "7" * 65, "password": "opens-sesame"}, "body.number"),
    ({"number": 77, "password": "opens-sesame"}, "body.number"),
    ({"number": "77", "password": "short"}, "body.password"),
    ({"number": "77", "password": "x" * 129}, "body.password"),
    ({"number": "77", "password": "opens-sesame", "name": "a\r\nb"}, "body.name"),
    ({"number": "77", "password": "opens-sesame", "name": "a\x85b"}, "body.name"),
    ({"number": "77", "password": "opens-sesame", "name": "x" * 129}, "body.name"),
]


@pytest.mark.parametrize(("body", "where"), WRONG)
def test_a_wrong_field_is_named_and_what_it_held_is_not_repeated(
    admin: httpx.Client, body: dict[str, object], where: str
) -> None:
    answer = admin.post(f"{API}/extensions", json=body)
    faults = problem(answer, 422)["faults"]
    assert isinstance(faults, list)
    assert where in [fault["where"] for fault in faults]
    assert str(body.get("password")) not in answer.text


def test_a_password_that_anybody_would_guess_is_refused_in_words(admin: httpx.Client) -> None:
    answer = admin.post(f"{API}/extensions", json={"number": "12345678", "password": "12345678"})
    assert "first that an attacker tries" in str(problem(answer, 422)["detail"])


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/docs", 404),
        ("GET", f"{API}/extensions/", 404),
        ("GET", f"{API}/n%C3%B6%00", 404),
        ("GET", f"{API}/calls/none", 404),
        ("DELETE", f"{API}/calls/none", 404),
        ("GET", f"{API}/calls/{'x' * 65}", 422),
        ("GET", f"{API}/extensions/1%0A", 422),
        ("GET", f"{API}/extensions?limit=0", 422),
        ("GET", f"{API}/cdrs?limit=501", 422),
        ("GET", f"{API}/cdrs?limit={'9' * 5000}", 422),
        ("GET", f"{API}/cdrs?before=soon", 422),
        ("GET", f"{API}/cdrs?number=%00", 422),
        ("GET", f"{API}/cdrs?limt=5", 422),
        ("GET", f"{API}/status?verbose", 422),
        ("POST", "/health", 405),
    ],
)
def test_every_error_is_a_problem(admin: httpx.Client, method: str, path: str, status: int) -> None:
    problem(admin.request(method, path), status)


def test_a_method_that_is_not_there_is_answered_with_those_that_are(admin: httpx.Client) -> None:
    answer = admin.patch(f"{API}/extensions/1001")
    problem(answer, 405)
    assert answer.headers["Allow"] == "DELETE, GET, PUT"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 422),
        (b"\xff", 400),
        (b"[" * 16_000, 400),
        (b"9" * 5_000, 400),
        (b'{"name": "\\ud800"}', 422),
        (b'{"x": "' + b"x" * 17_000 + b'"}', 413),
    ],
)
def test_a_body_that_is_not_what_it_should_be_costs_a_problem(admin: httpx.Client, body: bytes, status: int) -> None:
    headers = {"Content-Type": "application/json"}
    problem(admin.post(f"{API}/extensions", content=body, headers=headers), status)
    # The same again in pieces of unknown number, without a Content-Length to go by.
    problem(
        admin.post(f"{API}/extensions", content=(body[i : i + 999] for i in range(0, len(body), 999)), headers=headers),
        status,
    )
    assert admin.get("/live").status_code == 200


# When the database is away


def test_without_the_directory_changes_wait_and_calls_do_not(admin: httpx.Client, pbx: Pbx) -> None:
    with table_away(pbx, "meta"):
        said = until_healthy(admin, stored=False)
        assert (said["status"], said["reasons"]) == ("ok", [])
        assert "directory (the last known is in use)" in str(said["not_stored"])
        assert admin.get("/health").status_code == 200
        for answer in (
            admin.get(f"{API}/extensions"),
            admin.post(f"{API}/extensions", json={"number": "3001", "password": "opens-sesame"}),
        ):
            assert "no such table" in str(problem(answer, 503)["detail"])
            assert int(answer.headers["Retry-After"]) > 0
        assert "pbx_database_up 0.0" in admin.get("/metrics").text
        assert admin.get(f"{API}/calls").status_code == 200
    until_healthy(admin, stored=True)
    assert "pbx_database_up 1.0" in admin.get("/metrics").text
    problem(admin.get(f"{API}/extensions/3001"), 404)


def test_without_the_tokens_those_already_known_stay_good(
    admin: httpx.Client, stranger: httpx.Client, pbx: Pbx
) -> None:
    assert admin.get(f"{API}/calls").status_code == 200
    with table_away(pbx, "api_tokens"):
        unknown = {"Authorization": "Bearer who-knows"}
        assert "tokens cannot be checked" in str(problem(stranger.get(f"{API}/calls", headers=unknown), 503)["detail"])
        assert admin.get(f"{API}/calls").status_code == 200
        # The command line on the same machine needs no database at all.
        assert pbx.status()["status"] == "ok"
    until = time.monotonic() + 15
    while stranger.get(f"{API}/calls", headers=unknown).status_code != 401:
        assert time.monotonic() < until, "the tokens are there again"
        time.sleep(0.1)  # Only asking again tells.
