"""The metrics of several processes, made one. Pure.

A snapshot is plain data that JSON can carry: of each family its name, type and help, and its samples, each with name,
labels and value.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import add
from typing import Any, Final

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.registry import Collector

Snapshot = list[Any]

#: What is not added up: an age is that of the oldest, the change stream is live where every process's is.
_COMBINED: Final[Mapping[str, Callable[[float, float], float]]] = {
    "genstatus_oldest_hold_seconds": max,
    "genstatus_oldest_waited_job_seconds": max,
    "genstatus_change_stream_up": min,
    "genstatus_build_info": max,
}
#: The types that outlive their process: a sum that went down would look to Prometheus like counters begun anew.
_LASTING: Final = frozenset({"counter", "histogram"})


def take(registry: CollectorRegistry) -> Snapshot:
    """What `registry` says now."""
    return [
        [family.name, family.type, family.documentation, [[s.name, s.labels, s.value] for s in family.samples]]
        for family in registry.collect()
    ]


def lasting(snapshot: Snapshot) -> Snapshot:
    """What is left of `snapshot` when its process has ended: what was counted, but no gauge."""
    return [family for family in snapshot if family[1] in _LASTING]


def add_up(snapshots: Iterable[Snapshot]) -> Snapshot:
    """One snapshot out of those of all processes."""
    families: dict[str, Any] = {}
    for name, kind, documentation, samples in (family for snapshot in snapshots for family in snapshot):
        values = families.setdefault(name, (kind, documentation, {}))[2]
        for sample, labels, value in samples:
            key = (sample, tuple(labels.items()))
            combine: Callable[[float, float], float] = _COMBINED.get(sample, add)
            values[key] = combine(values[key], value) if key in values else value
    return [
        [name, kind, documentation, [[sample, dict(labels), value] for (sample, labels), value in values.items()]]
        for name, (kind, documentation, values) in families.items()
    ]


def exposition(snapshot: Snapshot) -> str:
    """`snapshot` in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Fixed(snapshot))
    return generate_latest(registry).decode()


class _Fixed(Collector):
    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        for name, kind, documentation, samples in self._snapshot:
            family = Metric(name, documentation, kind)
            for sample, labels, value in samples:
                family.add_sample(sample, labels, value)
            yield family
