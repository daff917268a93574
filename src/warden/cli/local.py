"""Nodes asked over their HTTP ports: the one that runs here on the same data folder, with the operator's token, and the
others of its cluster, with one signed by the cluster's secret.
"""

import http.client
import time
from collections.abc import Mapping
from http import HTTPStatus
from ipaddress import ip_address
from typing import Final, TypeVar
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct
from pydantic import BaseModel, ValidationError

from warden.config.tree import Config
from warden.core.address import Address
from warden.core.errors import WardenError
from warden.node.build import OPERATOR_TOKEN, node_key
from warden.web.auth import make_node_token
from warden.web.models import Cluster

ANSWER_S: Final = 5.0
"""A node that needs longer to say how it is is not well."""
ANSWER_BYTES_MAX: Final = 1024 * 1024
REFUSALS: Final = frozenset((HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, HTTPStatus.SERVICE_UNAVAILABLE))
"""Answers whose words are meant for the operator. A stranger that gives one in other words is found out."""

Model = TypeVar("Model", bound=BaseModel)


class _Problem(Struct):
    detail: str


class RunningNode:
    """Every method raises `WardenError` with a sentence for the operator. `whose` says where the token is from."""

    def __init__(self, where: Address, token: str, whose: str, answer_s: float = ANSWER_S) -> None:
        self._answer_s = answer_s
        self._where = where
        self._token = token
        self._whose = whose

    def get(self, path: str, model: type[Model]) -> Model:
        """What `/api/v1/PATH` says."""
        return self._ask("GET", path, None, model)

    def post(self, path: str, body: Mapping[str, str | bool] | None, model: type[Model]) -> Model:
        """Have something done; what is said of it."""
        return self._ask("POST", path, body, model)

    def delete(self, path: str, model: type[Model]) -> Model:
        """Have something undone; what is said of it."""
        return self._ask("DELETE", path, None, model)

    def _ask(self, method: str, path: str, body: Mapping[str, str | bool] | None, model: type[Model]) -> Model:
        code, said = _answer(self._where, self._token, method, f"/api/v1/{path}", body, self._answer_s)
        if code == HTTPStatus.UNAUTHORIZED:
            raise WardenError(f"the node at {self._where} does not know the token {self._whose}")
        try:
            if code in (HTTPStatus.OK, HTTPStatus.CREATED, HTTPStatus.ACCEPTED):
                return model.model_validate_json(said)
            if code in REFUSALS:
                raise WardenError(msgspec.json.decode(said, type=_Problem).detail)
        except (ValidationError, msgspec.MsgspecError):
            pass
        raise WardenError(f"what listens on {self._where} is no Warden that can be understood: it answered with {code}")


class LocalNode(RunningNode):
    """The node on this machine."""

    def __init__(self, config: Config, answer_s: float = ANSWER_S) -> None:
        """Raises `WardenError` where no node has run on the data folder."""
        super().__init__(_address(config), _token(config), f"in {config.data_dir}: is it another one's?", answer_s)


def members(config: Config, local: LocalNode) -> tuple[Cluster, dict[str, RunningNode]]:
    """The cluster as the node here sees it, and its live nodes by name; itself alone where it is in none."""
    cluster, key, nodes = local.get("cluster", Cluster), node_key(config), dict[str, RunningNode]()
    for member in cluster.members:
        found = urlsplit(member.http)
        if member.node == cluster.node:
            nodes[member.node] = local
        elif key and found.hostname:
            where = Address(found.hostname, found.port or 80)
            whose = "made with the secret here: is it the same there, and the clock?"
            nodes[member.node] = RunningNode(where, make_node_token(key, time.time()), whose)
    return cluster, nodes


def _address(config: Config) -> Address:
    """Where this machine reaches the node's HTTP."""
    bound = ip_address(config.http.bind_address)
    if bound.is_unspecified:
        return Address("127.0.0.1" if bound.version == 4 else "::1", config.http.port)
    return Address(str(bound), config.http.port)


def _token(config: Config) -> str:
    path = config.data_dir / OPERATOR_TOKEN
    try:
        return path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        raise WardenError(f"node is not running: no node has made {path}") from None
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise WardenError(f"{path}: cannot be read: {why}; ask as the user that runs the node") from None
    except UnicodeDecodeError:
        raise WardenError(f"{path}: holds no token") from None


def _answer(
    where: Address, token: str, method: str, path: str, body: Mapping[str, str | bool] | None, answer_s: float
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(where.host, where.port, timeout=answer_s)
    try:
        headers = {"Authorization": f"Bearer {token}"}
        if body is None:
            connection.request(method, path, headers=headers)
        else:
            sent = msgspec.json.encode(body)
            connection.request(method, path, sent, headers | {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read(ANSWER_BYTES_MAX)
    except TimeoutError:
        raise WardenError(f"the node at {where} does not answer within {answer_s:g} s") from None
    except (http.client.HTTPException, ValueError):
        raise WardenError(f"what listens on {where} does not speak HTTP") from None
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise WardenError(f"node is not running, or not on {where}: {why}") from None
    finally:
        connection.close()
