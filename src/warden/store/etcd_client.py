"""etcd v3 by its HTTP gateway: requests to whichever member answers, and a watch. Nothing here knows seats.

Why not gRPC: docs/decisions/0001-etcd-over-http.md.
"""

import asyncio
import json
import math
import ssl
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from typing import Any

import httpx
from msgspec import Struct

from warden.core.address import Address
from warden.core.errors import Unavailable, WardenError
from warden.store.redis_settings import client_tls

_PAUSE_S = 0.05
"""Between two rounds of the members: an election takes about a second."""

_SLOW_SHARE = 0.3
"""Share of the time for an answer after which the next member is asked as well. A follower whose leader has died keeps
a request until that is noticed, and the next one may be dead with it.
"""

_LOGIN_S = 1.0
"""etcd takes 0.1 s of its processor to check a password, and several nodes may come at once."""

_WATCH_QUIET_S = 5.0
"""A watch that hears nothing for so long is opened anew: its member may be gone without a word."""

_CONNECTIONS_MAX = 16
"""Requests at a time: a renewal of some seats, and the watch."""

_UNAUTHENTICATED = 16
_UNAVAILABLE = 14
_NOT_FOUND = 5
"""gRPC's status codes."""

_HINTS = {
    "user name is empty": "wants a user and password: set the coordinator's",
    "authentication failed": "does not accept the user or its password",
    "authentication is not enabled": "knows no users: unset the coordinator's user, or switch authentication on",
    "permission denied": "does not let the user read and write under {prefix}: grant it a role with that prefix",
    "database space exceeded": "is full: compact and defragment it, then disarm its alarm",
    "no leader": "has no leader: too few members are up",
    "request timed out": "gets no majority of its members",
}


class EtcdSettings(Struct, frozen=True, gc=False):
    """How etcd is reached: by any of its members (client port)."""

    nodes: tuple[Address, ...]
    cluster_name: str = "pbx-cluster"
    """Part of every key, so that several clusters of Warden may share one etcd."""
    username: str = ""
    password: str = ""
    tls: bool = False
    tls_ca: str = ""
    """File with the authorities that may have signed the members' certificates; empty: the system's."""
    tls_cert: str = ""
    tls_key: str = ""
    """Files of this client's own certificate and key, where the members ask for one. They do not replace user and
    password: the gateway takes no user from a certificate."""
    tls_check_host: bool = True
    answer_timeout_s: float = 0.5
    """A member that has not answered by then is left for the next one."""
    call_timeout_s: float = 2.0
    """For a whole call, however many members and requests it takes. An election takes about 1 s."""

    def __repr__(self) -> str:
        places = ",".join(map(str, self.nodes))
        return f"EtcdSettings({places}, user {self.username or 'none'}, password ***)"


class LeaseGone(Exception):
    """The lease that was to be used has ended."""


class EtcdClient:
    """Requests to etcd. Raises `Unavailable` naming the members, and `WardenError` where settings cannot be used."""

    def __init__(self, settings: EtcdSettings, prefix: str) -> None:
        if not settings.nodes:
            raise WardenError("etcd: no member is named")
        self.settings = settings
        self.prefix = prefix
        files = (settings.tls_ca, settings.tls_cert, settings.tls_key)
        self._tls = client_tls("etcd", *files, settings.tls_check_host) if settings.tls else None
        scheme = "https" if settings.tls else "http"
        self._urls = [f"{scheme}://{address}" for address in settings.nodes]
        self._first = 0
        self._token = ""
        self._under_way: set[asyncio.Task[httpx.Response]] = set()
        self._logging_in = asyncio.Lock()
        self._http: httpx.AsyncClient | None = None
        self._closed = False

    def until(self) -> float:
        """When a call that begins now must have ended, by the loop's clock."""
        if self._closed:
            raise Unavailable("etcd: closed")
        return asyncio.get_running_loop().time() + self.settings.call_timeout_s

    async def call(self, path: str, body: Mapping[str, Any], until: float, *, in_turn: bool = False) -> Any:
        """The answer of whichever member gives one first. They are asked in turn, the next one beside one that is slow,
        so that what is asked may be carried out more than once; with `in_turn` only when the one before has had its
        time: for what compares nothing, and must not arrive behind what is written after it. Raises `LeaseGone` for a
        lease that has ended.
        """
        [answer] = await self.stream(path, [body], until, in_turn=in_turn)
        return answer

    async def stream(
        self, path: str, bodies: Sequence[Mapping[str, Any]], until: float, *, in_turn: bool = False
    ) -> list[Any]:
        """The same for several requests that travel as one: their answers, in order. Where `path` takes a stream."""
        loop = asyncio.get_running_loop()
        whole_s = self.settings.answer_timeout_s
        reasons: dict[str, str] = {}
        asked: dict[asyncio.Task[list[Any]], int] = {}
        place, failures = self._first, 0
        try:
            while True:
                left_s = until - loop.time()
                if left_s > _PAUSE_S and place not in asked.values():
                    asking = self._ask_as_user(self._urls[place], path, bodies, left_s)
                    asked[asyncio.create_task(asking)] = place
                    place = (place + 1) % len(self._urls)
                if not asked:
                    break
                is_next = not in_turn and left_s > _PAUSE_S and place not in asked.values()
                done, _ = await asyncio.wait(
                    asked, timeout=whole_s * _SLOW_SHARE if is_next else None, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    at = asked.pop(task)
                    try:
                        answers = task.result()
                    except _Elsewhere as error:
                        url = self._urls[at]
                        # A last attempt that has little time tells nothing new of a member that said what is wrong.
                        if left_s >= whole_s or url not in reasons:
                            reasons[url] = str(error)
                        self._leave(url)
                        failures += 1
                        if failures % len(self._urls) == 0:
                            await asyncio.sleep(_PAUSE_S)
                    else:
                        self._first = at
                        return answers
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        raise Unavailable("; ".join(sorted(reasons.values())) or f"etcd {self._urls[0]}: no time left to ask")

    async def watch(self, revision: int) -> AsyncIterator[int]:
        """Revisions at which something under the prefix changed, from `revision` on (0: from now on; the first that
        comes is then the present one). Ends when the member closes it or is quiet; raises `Unavailable`.
        """
        url = self._urls[self._first]
        request: dict[str, Any] = {"key": text(self.prefix), "range_end": prefix_end(self.prefix)}
        if revision:
            request["start_revision"] = str(revision)
        quiet = httpx.Timeout(self.settings.answer_timeout_s, read=_WATCH_QUIET_S)
        try:
            await self._log_in(url, _LOGIN_S)
            client = self._client()
            content = json.dumps({"create_request": request})
            opening = client.build_request(
                "POST", f"{url}/v3/watch", content=content, headers=self._headers(), timeout=quiet
            )
            response = await self._uncancelled(url, client.send(opening, stream=True), _WATCH_QUIET_S)
            try:
                async for line in response.aiter_lines():
                    yield self._watched(url, line)
            finally:
                await response.aclose()
        except httpx.ReadTimeout:
            return
        except httpx.HTTPError as error:
            self._leave(url)
            raise Unavailable(f"etcd {url}: {_reason(error)}") from None
        except _Elsewhere as error:
            self._leave(url)
            raise Unavailable(*error.args) from None

    async def close(self) -> None:
        """Close the connections. Safe to call twice."""
        self._closed = True
        if self._under_way:
            await asyncio.wait(self._under_way)
        if self._http is not None:
            await self._http.aclose()

    def _leave(self, url: str) -> None:
        """Begin with the next member from now on, unless that is so already."""
        if self._urls[self._first] == url:
            self._first = (self._first + 1) % len(self._urls)

    async def _ask_as_user(self, url: str, path: str, bodies: Sequence[Mapping[str, Any]], left_s: float) -> list[Any]:
        await self._log_in(url, left_s)
        return await self._ask(url, path, bodies, min(left_s, self.settings.answer_timeout_s))

    async def _log_in(self, url: str, limit_s: float) -> None:
        """Get a token if one is needed and there is none; calls that come together share it."""
        if not self.settings.username or self._token:
            return
        async with self._logging_in:
            if not self._token:
                login = {"name": self.settings.username, "password": self.settings.password}
                [answer] = await self._ask(url, "auth/authenticate", [login], min(limit_s, _LOGIN_S))
                self._token = answer["token"]

    async def _ask(self, url: str, path: str, bodies: Sequence[Mapping[str, Any]], limit_s: float) -> list[Any]:
        sending = self._client().post(
            f"{url}/v3/{path}", content="\n".join(map(json.dumps, bodies)), headers=self._headers(), timeout=limit_s
        )
        try:
            response = await self._uncancelled(url, sending, limit_s)
        except httpx.TimeoutException:
            raise _Elsewhere(f"etcd {url}: does not answer within {limit_s:.2g} s") from None
        except httpx.HTTPError as error:
            # A member that expects TLS ends a plain connection in order or with a reset, as its reads happen to fall.
            silent = self._tls is None and isinstance(error, (httpx.RemoteProtocolError, httpx.ReadError))
            hint = " (if it expects tls, set it)" if silent else ""
            raise _Elsewhere(f"etcd {url}: {_reason(error)}{hint}") from None
        try:
            answers = [json.loads(line) for line in response.text.splitlines()]
        except ValueError:
            raise _Elsewhere(f"etcd {url}: is not etcd: answers {response.text[:80]!r}") from None
        for answer in answers:
            if response.status_code != httpx.codes.OK or "error" in answer:
                self._refuse(url, answer)
        if len(answers) != len(bodies):
            raise _Elsewhere(f"etcd {url}: gives {len(answers)} answers to {len(bodies)} requests")
        return answers

    async def _uncancelled(
        self, url: str, request: Coroutine[Any, Any, httpx.Response], limit_s: float
    ) -> httpx.Response:
        """The response within `limit_s`. The request goes on by itself where nobody waits any longer, and ends by its
        own timeouts: httpx leaves sockets open when it is cancelled from outside.
        """
        task = asyncio.create_task(request)
        self._under_way.add(task)
        task.add_done_callback(self._forget)
        done, _ = await asyncio.wait({task}, timeout=limit_s)
        if not done:
            raise _Elsewhere(f"etcd {url}: does not answer within {limit_s:.2g} s")
        return task.result()

    def _forget(self, task: "asyncio.Task[httpx.Response]") -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # whoever still waited has it; else it is nobody's

    def _refuse(self, url: str, answer: Any) -> None:
        """Raise what an error answer means."""
        error = answer.get("error", answer)
        # The gateway has the same facts in two shapes, for an answer and within a stream.
        facts = error if isinstance(error, dict) else answer
        said = str(facts.get("message") or facts.get("error") or error)
        code = facts.get("code") or facts.get("grpc_code")
        if code == _NOT_FOUND and "lease" in said:
            raise LeaseGone(said)
        if self._token and (code == _UNAUTHENTICATED or ("auth" in said and "revision" in said)):
            # Tokens end after some minutes, when a member restarts, and when a user is changed.
            self._token = ""
            raise _Elsewhere(f"etcd {url}: wants a new login ({said})")
        hint = next((hint for part, hint in _HINTS.items() if part in said), "refuses")
        sentence = f"etcd {url}: {hint.format(prefix=self.prefix)} ({said[:200]})"
        raise _Elsewhere(sentence) if code == _UNAVAILABLE else Unavailable(sentence)

    def _watched(self, url: str, line: str) -> int:
        answer = json.loads(line)
        result = answer.get("result")
        if result is None:
            self._token = ""
            raise Unavailable(f"etcd {url}: watch refused: {line[:200]}")
        if result.get("canceled"):
            if "compact_revision" in result:
                raise Compacted(int(result["compact_revision"]))
            self._token = ""
            raise Unavailable(f"etcd {url}: watch ended: {result.get('cancel_reason', line[:200])}")
        return int(result["header"]["revision"])

    def _client(self) -> httpx.AsyncClient:
        if self._closed:
            raise Unavailable("etcd: closed")
        if self._http is None:
            limits = httpx.Limits(max_connections=_CONNECTIONS_MAX, keepalive_expiry=60)
            # Proxies of the environment are for the world outside, not for the cluster.
            verify = self._tls if self._tls is not None else False
            self._http = httpx.AsyncClient(verify=verify, trust_env=False, limits=limits)
        return self._http

    def _headers(self) -> dict[str, str]:
        return {"Authorization": self._token} if self._token else {}


class Compacted(Exception):
    """What was to be watched from has been forgotten; the argument is the oldest revision that is known."""


class _Elsewhere(Exception):
    """Another member may be able to answer."""


def text(value: str | bytes) -> str:
    """As the gateway wants keys and values: base64."""
    return b64encode(value.encode() if isinstance(value, str) else value).decode()


def untext(value: str) -> bytes:
    """A key or value of the gateway's."""
    return b64decode(value)


def prefix_end(prefix: str) -> str:
    """The end of the range of all keys that begin with `prefix`."""
    raw = prefix.encode()
    return text(raw[:-1] + bytes([raw[-1] + 1]))


def whole_seconds(ttl_s: float) -> int:
    """A lease of etcd's that is not shorter."""
    return math.ceil(ttl_s)


def _reason(error: httpx.HTTPError) -> str:
    cause = error.__cause__ or error.__context__ or error
    while cause.__cause__ is not None or cause.__context__ is not None:
        cause = cause.__cause__ or cause.__context__ or cause
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted ({cause.verify_message}): check tls_ca"
    if isinstance(error, httpx.ConnectError):
        return f"cannot be reached: {cause}"
    return f"closed the connection: {str(error) or type(error).__name__}"
