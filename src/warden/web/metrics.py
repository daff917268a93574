"""Metrics, read from the node's state when they are asked for: nothing is counted here while messages are handled.

`docs/metrics.md` lists all of them; a test compares. What tells of a seat carries its name; what tells of work done is
the sum over all seats that the node holds and held, so that a counter does not go back when a seat goes.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Final

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector, CollectorRegistry

import warden
from warden.cluster.seat import HeldSeat
from warden.core.histogram import Histogram
from warden.web.metric_rows import ROWS, Labels, Samples, SeatRow
from warden.web.state import NodeState

SETUP_BUCKETS_S: Final = (0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0)
"""From a machine that answers at once to the longest ringing."""

POST_DIAL_BUCKETS_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0)
"""From a phone in the house to a mobile far away; 2 and 3 s are the limits that people and alerts look at."""


class NodeCollector(Collector):
    """All metrics of one node. It keeps what only grows while its source may be emptied, go back, or go away."""

    def __init__(self, state: NodeState) -> None:
        self._state = state
        self._seats: list[HeldSeat] = []
        # By the name of the counter: what the seats counted that have gone.
        self._gone = {row.name: Counter[Labels]() for row in ROWS if isinstance(row, SeatRow) and row.is_counter}
        self._setups = Histogram(SETUP_BUCKETS_S)
        self._post_dials = Histogram(POST_DIAL_BUCKETS_S)
        self._writes = Histogram()
        self._lost = 0
        self._packets = 0

    def collect(self) -> Iterator[Metric]:
        """As prometheus_client has it; called at each scrape."""
        state = self._state
        self._see_seats()
        info = InfoMetricFamily("pbx_node", "The node.")
        info.add_metric((), {"node": state.node, "cluster": state.cluster, "version": warden.__version__})
        yield info
        for row in ROWS:
            kind = CounterMetricFamily if row.name.endswith("_total") else GaugeMetricFamily
            by_seat = isinstance(row, SeatRow) and row.by_seat
            family = kind(row.name, row.meaning, labels=("seat", *row.labels) if by_seat else row.labels)
            for labels, value in self._samples(row) if isinstance(row, SeatRow) else row.read(state):
                family.add_metric(labels, float(value))
            yield family
        yield from self._histograms()
        yield self._lost_packets()

    def _see_seats(self) -> None:
        """A seat seen at the scrape before may have gone since; it is still in our hands, with its last figures. Only
        what a seat counted that came and went between two scrapes is never told.
        """
        seats = list(self._state.seats.values())
        for seat in self._seats:
            if seat not in seats:
                for row in ROWS:
                    if isinstance(row, SeatRow) and row.is_counter:
                        _add(self._gone[row.name], row.read(seat))
                self._take(seat)
        self._seats = seats

    def _samples(self, row: SeatRow) -> Samples:
        if row.by_seat:
            return [((seat.name, *labels), value) for seat in self._seats for labels, value in row.read(seat)]
        # What has no labels is nought, not missing, where the node never held a seat.
        sums = Counter[Labels]({} if row.labels else {(): 0})
        if row.is_counter:
            _add(sums, self._gone[row.name].items())
        for seat in self._seats:
            _add(sums, row.read(seat))
        return sums.items()

    def _take(self, seat: HeldSeat) -> None:
        for taken, histogram in (
            (seat.switch.setup_seconds, self._setups),
            (seat.switch.post_dial_seconds, self._post_dials),
        ):
            for seconds in taken:
                histogram.observe(seconds)
            taken.clear()
        self._writes.drain(seat.runner.replicator.write_seconds)

    def _histograms(self) -> Iterator[Metric]:
        for seat in self._seats:
            self._take(seat)
        agent, database, quality = self._state.agent, self._state.database, self._state.media.quality
        for name, meaning, found in (
            ("pbx_call_setup_seconds", "From the INVITE to the answer, ringing included.", self._setups),
            (
                "pbx_post_dial_seconds",
                "From the INVITE until the caller heard of it: that it rings, or is answered.",
                self._post_dials,
            ),
            ("pbx_rtp_jitter_seconds", "Interarrival jitter of sides of calls, at their end.", quality.jitter_s),
            ("pbx_rtp_loss_ratio", "The part of its packets that was lost, of sides of calls.", quality.loss),
            ("pbx_rtp_round_trip_seconds", "Round trip to phones that send RTCP.", quality.round_trip_s),
            ("pbx_rtp_mos", "Mean opinion score by the E-model, of sides of calls.", quality.mos),
            (
                "pbx_state_store_seconds",
                "How long the store took for a write; 0.05 is the most that calls wait.",
                self._writes,
            ),
            ("pbx_database_seconds", "How long transactions took.", database and database.seconds),
            ("pbx_coordinator_seconds", "How long a look at the cluster took.", agent and agent.coordinator_seconds),
            (
                "pbx_failover_seconds",
                "How long seats were seen free until this node had them.",
                agent and agent.failover_seconds,
            ),
        ):
            histogram = found or Histogram()
            family = HistogramMetricFamily(name, meaning)
            family.add_metric((), histogram.buckets(), histogram.total)
            yield family

    def _lost_packets(self) -> Metric:
        """RFC 3550 counts a packet that comes late or twice as one less lost; a counter may not go back but to begin
        anew, which it does with the process that counts.
        """
        family = CounterMetricFamily("pbx_media_lost_packets_total", "Packets that never came, by their numbers.")
        media = self._state.media.totals
        if media is not None:
            self._lost = media.lost if media.packets < self._packets else max(self._lost, media.lost)
            self._packets = media.packets
            family.add_metric((), max(0, self._lost))
        return family


def _add(sums: Counter[Labels], samples: Samples) -> None:
    for labels, value in samples:
        sums[labels] += value  # type: ignore[assignment]  # A Counter may hold floats, its stubs know only int.


def make_registry(state: NodeState) -> CollectorRegistry:
    """The metrics of one node, with those of its process."""
    registry = CollectorRegistry()
    registry.register(NodeCollector(state))
    ProcessCollector(namespace="pbx", registry=registry)
    return registry
