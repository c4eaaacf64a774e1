"""What a collection has to be like, what it is like, and the steps between the two. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple


class Index(NamedTuple):
    """An index that there has to be."""

    name: str
    keys: list[tuple[str, int]]
    options: dict[str, Any]

    def is_among(self, present: Mapping[str, Mapping[str, Any]]) -> bool:
        """By what it does and not by its name: somebody may have made it under another one."""
        wanted = {"key": self.keys, **self.options}
        return any(all(index.get(item) == wanted[item] for item in wanted) for index in present.values())


@dataclass(frozen=True)
class Shape:
    """What a collection is like: its validator, and its indexes by name as `index_information()` gives them."""

    validator: Mapping[str, Any] | None
    indexes: Mapping[str, Mapping[str, Any]]


class Kind(StrEnum):
    """What a step does."""

    COLLECTION = "make"
    VALIDATOR = "set"
    INDEX = "build"


class Step(NamedTuple):
    """One thing to do; `text` names what it is done to."""

    kind: Kind
    collection: str
    text: str
    builds: Index | None = None


def steps(
    collection: str, schema: Mapping[str, Any], indexes: Sequence[Index], present: Shape | None
) -> Iterator[Step]:
    """What brings `collection` into shape, in order; `present` is None where there is no such collection."""
    if present is None:
        yield Step(Kind.COLLECTION, collection, f"collection {collection}")
    elif present.validator != {"$jsonSchema": schema}:
        yield Step(Kind.VALIDATOR, collection, f"validator of {collection}")
    there = present.indexes if present is not None else {}
    for index in indexes:
        if not index.is_among(there):
            clash = " (another of this name is there: drop it first)" if index.name in there else ""
            yield Step(Kind.INDEX, collection, f"index {index.name} of {collection}{clash}", index)
