"""One node from start to stop: a single one with a seat of its own, or a member of a cluster."""

import asyncio
import gc
import os
import secrets
import signal
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import Final
from urllib.parse import urlsplit

import structlog
from msgspec.structs import replace

from warden.call.model import Cause
from warden.cluster.agent import Agent
from warden.cluster.clock import SteadyClock
from warden.cluster.consent import ANSWER_SHARE, Consent, Promises, Seal
from warden.cluster.decide import Seat
from warden.cluster.following import Following
from warden.cluster.members import Record
from warden.cluster.seat import HeldSeat
from warden.cluster.seats import Seats
from warden.cluster.stream import Told
from warden.config.tree import Config
from warden.core.errors import Unavailable, WardenError
from warden.net.limits import is_numeric
from warden.net.resolve import Resolver, name_servers
from warden.net.sockets import Sockets
from warden.node import build, stores
from warden.node.addresses import PlacedSeats, addresses_of
from warden.node.data import DirectoryFile
from warden.node.defence import Defence
from warden.node.http import HttpServer
from warden.node.media_door import MediaDoor
from warden.node.peers import CallEvents, Peers, PromisesFile
from warden.node.pulse import Pulse
from warden.node.regions import RegionLink
from warden.node.settings import change_setting
from warden.node.systemd import Supervisor
from warden.node.through import keep_to_master, through_of
from warden.node.vrrp import Claim, Vrrp
from warden.sip.endpoint import Endpoint
from warden.store.durable import SqlDurable
from warden.store.lock import DataFolder
from warden.store.migrate import migrate
from warden.store.ports import Durable, SeatStore
from warden.store.retry import Retry, insist
from warden.switch.directory import Directory, directory_of, new_extension
from warden.switch.outcome import Change
from warden.switch.roster import Roster
from warden.switch.switch import Switch
from warden.web import views
from warden.web.app import make_app
from warden.web.events import Listeners
from warden.web.state import NodeState

DIRECTORY_POLL_S: Final = 0.5
"""How soon an extension made on the command line can register."""
EXAMINE_S: Final = 300.0
"""How often the settings of the store are looked at: an operator changes them some times a year."""
EXAMINE_AGAIN_S: Final = 5.0
"""The same while it does not answer."""
GUARD_S: Final = 1.0
"""How soon a ban that another node has made ends here."""
STARTER_NUMBERS: Final = ("1001", "1002")
GOODBYE_S: Final = 3.0
"""How long a stop waits: for phones to answer their BYE (Ctrl-C), for the database to take the last CDRs."""

_log = structlog.get_logger()


class Node:
    """A node being run. `serve` is its whole life."""

    def __init__(self, config: Config, say: Callable[[str], None]) -> None:
        """`say` prints what the operator is to see on standard output."""
        self._config = config
        self._say = say
        self._name = config.high_availability.node_id
        self._clock = SteadyClock(time.monotonic, time.time)
        self._seats = Seats(
            self._make_seat,
            lambda: self._state.directory,
            lambda work, name: self._tasks.create_task(work, name=name),
            lambda seat: None if self._told is None else self._told.end(seat),
        )
        self._roster = Roster()
        self._bans = build.bans_of(config)
        self._bans.known_hosts = self._known_hosts
        self._overload = build.overload_of(config)
        self._pulse = Pulse(self._overload, self._clock.now)
        self._media = MediaDoor(config, self._seats.held.values)
        self._supervisor = Supervisor(os.environ)
        self._interrupted = asyncio.Event()
        self._terminated = asyncio.Event()
        self._look_again = asyncio.Event()
        self._is_migrated = False
        self._directory: Directory | None = None
        self._told: Told | None = None
        self._bug: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tasks: asyncio.TaskGroup
        self._durable: Durable
        self._store: SeatStore
        self._secret: bytes
        self._state: NodeState
        self._listeners: Listeners

    async def serve(self, *, starter: bool = False) -> None:
        """Run until SIGTERM or SIGINT. With `starter` it says how to begin, and makes the first two extensions.

        SIGHUP reads the certificates again. SIGTERM hands the seats over with their calls; where nobody takes them,
        they are left to the process that comes next: the media process goes on forwarding their audio. SIGINT (Ctrl-C)
        ends what could not be handed over. Raises `WardenError` where it cannot start, `Fenced` when it lost its only
        seat.
        """
        self._catch_signals()
        with DataFolder.claim(self._config.data_dir):
            async with AsyncExitStack() as stack:
                await self._serve(stack, starter)

    async def _serve(self, stack: AsyncExitStack, starter: bool) -> None:
        config = self._config
        self._secret = build.secret_of(config)
        durable = build.durable_of(config)
        stack.push_async_callback(durable.close)
        self._durable = durable
        known = DirectoryFile(config.data_dir)
        error = ""
        kept = known.read()
        try:
            # Calls of the process before this one must not die because the database is away as well.
            retry = build.retry_of(config) if kept is None else Retry(attempts=1)
            directory = await insist(self._read_directory, retry, _log_retry)
            known.keep(directory)
        except Unavailable as gone:
            if kept is None:
                raise
            directory, error = kept, str(gone)
            _log.warning("database is away, the directory of the last run is used", why=error)
        self._store = own_store = stores.seat_store_of(config)
        through = through_of(config, own_store, self._peers)
        if through is not None:
            self._store = through
        if config.high_availability.regions:
            self._store = self._told = Told(self._store)
        stack.push_async_callback(self._store.close)
        if starter and not error:
            await self._say_how_to_begin(durable)
            directory = await self._read_directory()
        self._state = state = NodeState(
            node=self._name,
            cluster=config.high_availability.cluster_name,
            started_at_utc=self._clock.now(),
            seats=self._seats.held,
            durable=durable,
            directory=directory,
            directory_error=error,
            refresh_directory=self._look_again.set,
            operator_digest=build.operator_token(config),
            sealer=build.sealer_of(config),
            node_key=build.node_key(config),
            database=durable,
            now=self._clock.now,
            realm=config.sip.realm,
            media=self._media,
            roster=self._roster,
            bans=self._bans,
            overload=self._overload,
            own_store=own_store if through is not None else None,
            through=through,
        )
        self._listeners = listeners = Listeners(state)
        key = build.node_key(config)
        app = make_app(state, listeners, CallEvents(key).follow if key else None)
        http = HttpServer(app, config.http.bind_address, config.http.port)
        await self._media.attach()
        stack.push_async_callback(self._media.close)
        async with asyncio.TaskGroup() as tasks:
            # What was made so far stays: the collector need not walk it again and again during calls.
            gc.collect()
            gc.freeze()
            gc.set_threshold(20_000, 50, 50)
            self._tasks = tasks
            stack.push_async_callback(self._seats.close)
            # Before the seats: while it waits for a coordinator, people want to know what it waits for.
            serving = tasks.create_task(http.run(), name="http")
            watched = tasks.create_task(self._supervisor.run(self._sentence), name="supervisor")
            running = await self._take_part(tasks)
            await self._media.drop_unknown()
            running += [
                tasks.create_task(work, name=name)
                for name, work in {
                    "directory": self._watch_directory(known),
                    "media": self._media.watch(),
                    "store": self._watch_store(own_store),
                    "master": keep_to_master(own_store),
                    "bugs": self._watch_bugs(),
                    "guard": self._keep_guard(),
                    "pulse": self._pulse.run(),
                }.items()
            ]
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reload)
            if not self._is_to_stop():
                state.ready = True
                self._supervisor.tell_ready(self._sentence())
                self._say("warden: ready")
            await self._until_stopped()
            state.stopping = True
            self._supervisor.tell_stopping()
            await self._leave()
            self._seats.give_up()
            watched.cancel()
            for task in running:
                task.cancel()
            self._say("warden: stopped")
            self._listeners.close()
            http.stop()
            await serving

    async def _take_part(self, tasks: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        """Hold the seats that are ours to hold; gives the tasks that see to it."""
        cluster = self._config.high_availability
        own = Seat(self._name, build.advertised_host(self._config), (self._name,))
        if not (cluster.enabled and self._config.has_shared_store):
            if cluster.enabled:
                _log.warning(
                    "this node runs alone: high_availability.enabled needs redis.enabled, where a cluster's calls live"
                )
            # One node by itself: nobody could take its seat.
            epoch = await self._store.claim(own.name, self._name)
            try:
                _log.info(await self._seats.adopt(own, epoch), seat=own.name, epoch=epoch)
            except WardenError:
                # A node that does not start leaves no process behind, unless that one carries an earlier node's calls.
                await self._media.quit(only_if_idle=True)
                raise
            return []
        seats = tuple(Seat(s.name, str(s.address), s.successors) for s in cluster.seats) or (own,)
        host = PlacedSeats(self._seats, seats, addresses_of(cluster), self._lease_media, self._clock.now)
        if "udp" not in self._config.sip.transports:
            _log.warning("phones cannot call those at another seat: the seats talk over udp (sip.transports)")
        self._roster.addresses = known = build.seat_addresses(self._config)
        following = Following(self._store, self._roster, self._bans, self._clock.now)
        await self._or_stopped(following.catch_up())
        coordinator, kept = stores.coordinator_of(self._config), PromisesFile(self._config.data_dir)
        peers = Peers(cluster.lease_ttl * ANSWER_SHARE * 0.8)
        promises = Promises(kept.keep, kept.read())
        look_again = asyncio.Event()
        link = await self._region_link(seats)
        self._seats.alone = False

        def looked(members: Mapping[str, Record]) -> None:
            if not known:
                # Each node has a seat for itself, and knows it before it has it: whom others call there is found.
                self._roster.addresses = {name: m.sip for name, m in members.items() if m.sip is not None}
            if link is not None:
                link.look(members)

        self._state.agent = agent = Agent(
            self._name,
            seats,
            coordinator,
            host,
            build.member_record(self._config),
            report=lambda: views.report(self._state),
            ttl_s=cluster.lease_ttl,
            now=self._clock.now,
            consent=Consent(Seal(self._secret), promises, peers.ask, build.token_source()),
            rules=build.rules(self._config),
            on_change=look_again.set,
            on_look=looked,
        )
        if link is not None:
            link.use(agent)

        async def run() -> None:
            try:
                await agent.run()
            except* WardenError:
                # A node that may not be one leaves no process behind.
                await self._media.quit(only_if_idle=True)
                raise
            finally:
                await host.close()
                await coordinator.close()
                await peers.close()

        running = [
            tasks.create_task(run(), name="agent"),
            tasks.create_task(following.run(), name="roster"),
        ]
        if link is not None:
            running.append(tasks.create_task(link.run(), name="region"))
        if cluster.failover_driver == "keepalived":
            instances = {s.name: (s.instance or s.name, str(s.address)) for s in cluster.seats}
            fifo = cluster.keepalived.notify_fifo
            self._state.vrrp = vrrp = Vrrp(fifo, instances, agent.address_is_here, self._claim, look_again)
            running.append(tasks.create_task(vrrp.run(), name="vrrp"))
        if cluster.failover_driver == "keepalived" or cluster.manage_address == "netlink":

            async def is_ours(seat: str) -> bool:
                holding = (await coordinator.holdings()).get(seat)
                return holding is not None and holding.holder == self._name and holding.expires_in_s > 0

            self._state.defence = defence = Defence(
                {seat.name: seat.address for seat in seats}, agent.rests_here, is_ours, self._clock.now
            )
            running.append(tasks.create_task(defence.run(), name="defence"))
        await self._or_stopped(agent.settled())
        await host.remove_leftovers()
        return running

    async def _region_link(self, seats: tuple[Seat, ...]) -> RegionLink | None:
        """What this node has to do with the other region, where there is one. It is asked before anything is decided:
        it may have become the primary one while this node was not there.
        """
        if self._told is None:
            return None
        key, arbiter = build.node_key(self._config), stores.arbiter_of(self._config)
        link = RegionLink(self._config, seats, self._told, key, self._clock.now, arbiter)
        await self._or_stopped(link.look_round())
        self._state.region = link
        return link

    def _peers(self) -> Mapping[str, Record]:
        """The members as they were seen last, this node among them."""
        agent = self._state.agent
        return {} if agent is None else agent.peers

    def _claim(self, seat: str) -> Claim:
        """What keepalived is told of a seat's address."""
        assert self._state.agent is not None, "it is there before its keepalived is listened to"
        if self._state.refusal_of(seat):
            return Claim.NONE
        return Claim.FIRST if self._state.agent.wants_address(seat) else Claim.USUAL

    def _lease_media(self, seat: str, until: float) -> None:
        self._media.lease(seat, time.monotonic() + until - self._clock.now())

    def _sentence(self) -> str:
        """The node in one line, for `systemctl status`."""
        found = views.health(self._state)
        takes = "takes calls" if found.status == "ok" else f"takes no new calls: {'; '.join(found.reasons)}"
        held = f"{found.calls} calls on {', '.join(found.seats) or 'no seat'}"
        return "; ".join([takes, held, *found.not_stored, *found.warnings])

    async def _leave(self) -> None:
        """Go without harm: hand over what others can take, and leave the rest to the next start."""
        agent = self._state.agent
        if agent is not None:
            agent.drain()
            await self._hand_over_all(agent)
        seats = list(self._seats.held.values())
        for seat in seats:
            seat.switch.accepts_calls = False
            if self._interrupted.is_set():
                await self._end_calls(seat)
            await seat.settle(GOODBYE_S)
        left = sum(len(seat.switch.calls) for seat in seats)
        # After Ctrl-C a phone that did not answer its BYE in time will hear silence, and hang up.
        if left and not self._interrupted.is_set():
            self._say(f"warden: {left} calls are left to the next start")
        else:
            await self._media.quit(only_if_idle=False)
        await self._seats.close()

    async def _hand_over_all(self, agent: Agent) -> None:
        """Wait until all seats are handed over, or nobody is there to take them and no call is left to wait for."""
        loop = asyncio.get_running_loop()
        # The cluster is looked at once more before it may be said that nobody takes a seat.
        soon = loop.time() + self._config.high_availability.lease_ttl
        until = loop.time() + self._config.high_availability.call_preservation.grace_period
        while not agent.drained and loop.time() < until:
            for seat in self._seats.held.values():
                # Where nobody takes the seat, new calls would only be more to lose: phones try their next server.
                seat.switch.accepts_calls = agent.has_heir or loop.time() < soon
            idle = not agent.has_heir and not any(seat.switch.calls for seat in self._seats.held.values())
            if loop.time() > soon and (idle or self._interrupted.is_set()):
                return
            await asyncio.sleep(0.02)

    async def _end_calls(self, seat: HeldSeat) -> None:
        """Ctrl-C means the end: phones are told, CDRs are written."""
        if seat.switch.calls:
            self._say(f"warden: ending {len(seat.switch.calls)} calls")
        for call_id in list(seat.switch.calls):
            seat.runner.hang_up(call_id, "Warden is stopped")
        with suppress(TimeoutError):
            async with asyncio.timeout(GOODBYE_S):
                await seat.runner.without_calls()

    def _make_seat(self, seat: Seat, epoch: int, until: float) -> HeldSeat:
        settings, new_token = build.switch_settings(self._config, seat), build.token_source()
        net = build.net_settings(self._config, seat)
        switch = Switch(
            settings,
            Endpoint(new_token, settings.advertised),
            self._secret,
            new_token,
            self._roster,
            self._bans,
            self._overload,
        )
        switch.tell_changes(partial(self._listeners.hear, seat.name))
        return HeldSeat(
            switch,
            self._store,
            self._durable,
            self._media.of(seat.name),
            lambda receiver: self._pulse.watch(Sockets(net, receiver, barred=self._bans.barred)),
            Resolver(name_servers(), ipv6=settings.v6 is not None or ":" in settings.media_host),
            epoch=epoch,
            now=self._clock.now,
            until=until,
            retry=build.retry_of(self._config),
            change=self._change_setting,
        )

    async def _change_setting(self, change: Change) -> Cause | None:
        cause = await change_setting(self._durable, change, self._clock.now(), self._state.sealer)
        self._look_again.set()
        return cause

    # Signals

    def _catch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._terminated.set)
        loop.add_signal_handler(signal.SIGINT, self._interrupted.set)
        loop.set_exception_handler(self._report_bug)

    def _reload(self) -> None:
        """SIGHUP: read the certificates again. Connections stay; a certificate that is no good changes nothing."""
        self._supervisor.tell_reloading()
        try:
            for seat in self._seats.held.values():
                seat.driver.reload()
        except WardenError as error:
            _log.error("certificates are not reloaded", why=str(error))
        else:
            _log.info("certificates reloaded")
        self._supervisor.tell_ready(self._sentence())

    def _is_to_stop(self) -> bool:
        return self._terminated.is_set() or self._interrupted.is_set()

    async def _until_stopped(self) -> None:
        await self._or_stopped(asyncio.Event().wait())

    async def _or_stopped(self, reached: Coroutine[None, None, object]) -> None:
        """Return when that has been reached, or the node is to stop."""
        awaited = (reached, self._terminated.wait(), self._interrupted.wait())
        waits = [asyncio.create_task(wait) for wait in awaited]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _say_how_to_begin(self, durable: SqlDurable) -> None:
        """What somebody needs who has just typed `make run`; where there is no extension yet, two are made."""
        known = [extension.number for extension in await durable.extensions()]
        lines = [""]
        if known:
            shown = ", ".join(known[:8]) + (f" and {len(known) - 8} more" if len(known) > 8 else "")
            lines.append(f"  Extensions: {shown}. `warden extension passwd NUMBER` sets a new password.")
        else:
            lines += ["  Two extensions were made for you. Set up a phone (or a soft-phone) with:", ""]
            for number in STARTER_NUMBERS:
                password = secrets.token_urlsafe(12)
                await durable.add_extension(
                    new_extension(number, password, realm=self._config.sip.realm, now=self._clock.now())
                )
                lines.append(f"      user {number}   password {password}")
            lines += [
                "",
                "  The passwords are not kept anywhere: write them down, or set new ones with",
                "  `warden extension passwd NUMBER`.",
            ]
        sip, http = self._config.sip, self._config.http
        transports = " or ".join(transport.upper() for transport in sip.transports)
        lines += [
            f"  Server (domain, registrar): {build.media_host(self._config)}, port {sip.bind_port}, {transports}.",
            "  Call *43 for an echo, *60 for the time, or another extension. No phone at hand: `warden selftest`.",
            f"  Health, metrics and API: http://127.0.0.1:{http.port}/health. Stop with Ctrl-C.",
            "",
        ]
        self._say("\n".join(lines))

    # Watching

    def _report_bug(self, _: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        error = context.get("exception")
        _log.critical(str(context.get("message")), exc_info=error)
        if isinstance(error, Exception) and not self._bug.done():
            self._bug.set_exception(error)

    def _known_hosts(self, now: float) -> Iterator[str]:
        for seat in self._seats.held.values():
            yield from seat.switch.known_hosts(now)

    async def _keep_guard(self) -> None:
        """Let bans end, and shut out nobody of the cluster, and no carrier."""
        while True:
            agent = self._state.agent
            nodes = [urlsplit(peer.http).hostname for peer in agent.peers.values()] if agent is not None else []
            seats = [seat.address for seat in agent.seats] if agent is not None else []
            self._bans.spare("cluster", [host for host in [*nodes, *seats] if host and is_numeric(host)])
            held = self._seats.held.values()
            self._bans.spare("carriers", [source for seat in held for source in seat.switch.trunks.sources()])
            self._bans.tick(self._clock.now())
            await asyncio.sleep(GUARD_S)

    async def _watch_bugs(self) -> None:
        """An exception that nobody expected ends the process: half-dead is the one state that calls do not survive."""
        await self._bug

    async def _read_directory(self) -> Directory:
        """What the database says, its schema brought up to date if need be. Raises `Unavailable`."""
        if not self._is_migrated:
            await migrate(build.database_url(self._config))
            self._is_migrated = True
        # The revision is read first: a change in between is seen at the next look.
        revision = await self._durable.revision()
        if self._directory is None or self._directory.revision != revision:
            self._directory = directory_of(await self._durable.extensions(), revision, await self._durable.items())
        return self._directory

    async def _watch_directory(self, known: DirectoryFile) -> None:
        state = self._state
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(DIRECTORY_POLL_S):
                    await self._look_again.wait()
            self._look_again.clear()
            try:
                directory = await self._read_directory()
                state.directory_error = ""
            except Unavailable as error:
                if not state.directory_error:
                    _log.warning("directory cannot be read, the last known is used", why=str(error))
                state.directory_error = str(error)
                directory = state.directory
            if directory is not state.directory:
                state.directory = directory
                known.keep(directory)
            self._spread(directory)

    async def _watch_store(self, own_store: SeatStore) -> None:
        """Tell of settings by which the store would lose what it is given. That it is away is told by the seats."""
        state = self._state
        while True:
            try:
                found = await stores.examine(own_store, self._config)
            except Unavailable:
                await asyncio.sleep(EXAMINE_AGAIN_S)
                continue
            for why in found:
                if why not in state.store_warnings:
                    _log.warning("calls or registrations could be lost", why=why)
            state.store_warnings = found
            await asyncio.sleep(EXAMINE_S)

    def _spread(self, directory: Directory) -> None:
        offset_s = time.localtime().tm_gmtoff
        for seat in self._seats.held.values():
            if seat.switch.directory is not directory:
                seat.runner.use_directory(directory)
            if seat.switch.settings.utc_offset_s != offset_s:
                # Summer time has begun or ended.
                seat.switch.settings = replace(seat.switch.settings, utc_offset_s=offset_s)


def _log_retry(why: Unavailable, delay_s: float) -> None:
    _log.warning("database is away and tried again", why=str(why), delay_s=delay_s)
