"""Where the configuration says that PostgreSQL is, as the store reads it."""

import pytest
from pydantic import ValidationError
from sqlalchemy.engine import make_url

from warden.config.tree import Config
from warden.node.build import database_url
from warden.store.database import database_name, database_place
from warden.store.database import database_url as read_url


def config(host: str) -> Config:
    database = {"host": host, "port": 6432, "password": "not-to-be-shown"}
    return Config.model_validate({"database": database})


def test_one_host_is_asked_at_its_port() -> None:
    url = read_url(database_url(config("db.example.com")))
    assert (url.host, url.port, url.database) == ("db.example.com", 6432, "pbx_system")


@pytest.mark.parametrize("hosts", ["pg1,pg2", "192.0.2.1,2001:db8::2,pg3.example.com"])
def test_several_hosts_are_asked_at_the_same_port_each(hosts: str) -> None:
    url = read_url(database_url(config(hosts)))
    [_, options] = url.get_dialect()().create_connect_args(url)
    assert options["host"] == hosts.split(",")
    assert options["port"] == [6432] * len(hosts.split(","))
    assert database_place(url) == f"{hosts}/pbx_system"
    assert "not-to-be-shown" not in database_name(url)
    assert make_url(database_url(config(hosts))).password == "not-to-be-shown"


@pytest.mark.parametrize("hosts", ["pg1,", ",pg1", "pg1,,pg2", "pg1 pg2", "pg1,[::1]"])
def test_a_list_that_is_none_is_refused(hosts: str) -> None:
    with pytest.raises(ValidationError, match="with commas between"):
        config(hosts)
