"""The dialplan over HTTP: what is put is gone by at once, what would break it is refused with the reason."""

from collections.abc import Iterator

import httpx
import pytest

from pbx import Pbx

API = "/api/v1"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    pbx = Pbx(tmp_path_factory.mktemp("node"), pairs=20)
    pbx.add_extensions("1001", "1002")
    with pbx.up():
        headers = {"Authorization": f"Bearer {(pbx.data / 'operator.token').read_text()}"}
        url = f"http://127.0.0.1:{pbx.http_port}{API}"
        with httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=30) as client:
            yield client


def test_items_are_put_shown_listed_explained_and_removed(client: httpx.Client) -> None:
    group = client.put("/dialplan/group/sales", json={"members": [{"number": "1002"}]})
    assert group.status_code == 200
    assert group.json()["warnings"] == ["group sales: nothing leads to it"]
    route = client.put("/dialplan/route/sales", json={"pattern": "600", "to": "group:sales"}).json()
    assert (route["kind"], route["body"], route["warnings"]) == ("route", {"pattern": "600", "to": "group:sales"}, [])
    assert client.get("/dialplan/route/sales").json() == route
    assert client.get("/dialplan/group", params={"limit": 1}).json()["next"] is None
    assert client.get("/dialplan/check").json() == {"items": []}
    lines = client.get("/dialplan/explain", params={"caller": "1001", "dialled": "600"}).json()["lines"]
    assert lines[-1] == {"depth": 0, "text": "group sales: rings all its members: 1002"}
    refused = client.delete("/dialplan/group/sales")
    assert (refused.status_code, refused.headers["Content-Type"]) == (409, "application/problem+json")
    assert "route sales: leads to group:sales" in refused.json()["detail"]
    assert [client.delete(f"/dialplan/{kind}/sales").status_code for kind in ("route", "group", "group")] == [
        204,
        204,
        404,
    ]


def test_settings_are_those_of_an_extension_and_a_circle_is_refused(client: httpx.Client) -> None:
    assert client.get("/extensions/1001/settings").json()["body"] == {}
    put = client.put("/extensions/1001/settings", json={"always": "1002"})
    assert put.status_code == 200
    assert client.get("/dialplan/user/1001").json()["body"] == {"always": "1002"}
    refused = client.put("/extensions/1002/settings", json={"always": "1001"})
    assert refused.status_code == 409
    assert "leads in a circle: user 1001 always to user 1002" in refused.json()["detail"]
    assert client.put("/extensions/1009/settings", json={}).status_code == 404
    assert (
        client.put("/extensions/1001/settings", json={"allways": "1002"})
        .json()["detail"]
        .startswith("user 1001: 'allways' is not known here; class, always, busy")
    )
    assert client.get("/dialplan/explain", params={"caller": "1", "dialled": "2", "time": "x"}).status_code == 422


def test_a_trunk_is_put_with_a_password_that_nobody_is_shown_and_goes_to_work_at_once(client: httpx.Client) -> None:
    wanted = {"targets": ["127.0.0.1:9"], "username": "account-1", "password": "open sesame", "register": True}
    put = client.put("/dialplan/trunk/carrier", json=wanted)
    assert put.json()["body"] == wanted | {"password": "***"}
    assert "open sesame" not in client.get("/dialplan/trunk").text
    (trunk,) = client.get("/trunks").json()["items"]
    assert (trunk["name"], trunk["registered"], trunk["channels"]) == ("carrier", False, 0)
    refused = client.put("/dialplan/outbound/all", json={"trunks": ["another"]})
    assert (refused.status_code, "its trunk another is not there" in refused.json()["detail"]) == (409, True)
    assert client.put("/dialplan/outbound/all", json={"trunks": ["carrier"]}).status_code == 200
    assert client.delete("/dialplan/trunk/carrier").status_code == 409
    assert client.delete("/dialplan/outbound/all").status_code == 204
    assert client.delete("/dialplan/trunk/carrier").status_code == 204
    assert client.get("/trunks").json() == {"items": []}
