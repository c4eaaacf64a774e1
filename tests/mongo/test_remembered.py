"""What is remembered of documents: nothing that may be outdated is given out, and whoever waits for it is told."""

from collections.abc import Hashable

from genstatus_server.mongo.cache import UNKNOWN, Remembered

Value = tuple[str, int] | None


class Memory:
    """What is tested, and the differences that it has told. A value is kept unless it is None; first comes its id."""

    def __init__(self, size: int = 10) -> None:
        self.differences: list[str] = []
        self.remembered: Remembered[str, Value] = Remembered(
            size=size,
            on_difference=self.differences.append,
            is_kept=lambda value: value is not None,
            document_id=self.document_id,
        )

    @staticmethod
    def document_id(value: Value) -> Hashable:
        return value and value[0]


def test_what_was_read_is_given_out_and_counted() -> None:
    remembered = Memory().remembered
    assert remembered.get("a") is UNKNOWN
    remembered.put("a", ("id", 1))
    assert [remembered.get("a") for _ in range(3)] == [("id", 1)] * 3
    assert (remembered.hits, remembered.misses) == (3, 1)


def test_what_is_not_fresh_is_not_given_out_and_may_be_trusted_again_later() -> None:
    memory = Memory()
    memory.remembered.put("a", ("id", 1))
    assert memory.remembered.get("a", is_fresh=False) is UNKNOWN
    memory.remembered.put("a", ("id", 2))
    assert memory.differences == ["a"], "whoever waits for it is told"
    assert memory.remembered.get("a") == ("id", 2)


def test_what_is_read_again_and_is_the_same_is_no_difference() -> None:
    memory = Memory()
    for _ in range(2):
        memory.remembered.put("a", ("id", 1))
    assert memory.differences == []


def test_what_is_not_to_be_kept_takes_the_place_of_what_was() -> None:
    memory = Memory()
    memory.remembered.put("a", ("id", 1))
    memory.remembered.put("a", None)
    assert memory.differences == ["a"]
    assert not memory.remembered.knows("a")
    assert memory.remembered.get("a") is UNKNOWN


def test_the_one_used_longest_ago_makes_room_and_who_waits_for_it_is_told() -> None:
    memory = Memory(size=2)
    memory.remembered.put("a", ("id a", 1))
    memory.remembered.put("b", ("id b", 1))
    assert memory.remembered.get("a") == ("id a", 1)
    memory.remembered.put("c", ("id c", 1))
    assert [memory.remembered.knows(key) for key in "abc"] == [True, False, True]
    assert memory.differences == ["b"]
    assert memory.remembered.key_of("id b") is None


def test_a_document_is_found_by_its_id_for_as_long_as_it_is_kept() -> None:
    remembered = Memory().remembered
    assert remembered.key_of("id") is None
    remembered.put("a", ("id", 1))
    assert remembered.key_of("id") == "a"
    assert remembered.peek("a") == ("id", 1)
    remembered.put("a", ("another id", 1))
    assert (remembered.key_of("id"), remembered.key_of("another id")) == (None, "a")
    assert remembered.drop("a") == ("another id", 1)
    assert remembered.drop("a") is None
    assert remembered.key_of("another id") is None
    remembered.put("a", ("id", 1))
    remembered.drop_all()
    assert (remembered.key_of("id"), remembered.peek("a")) == (None, None)


def test_a_document_that_is_found_under_another_key_is_no_longer_kept_under_the_first() -> None:
    """The change that moved it names only where it is now: what is kept elsewhere would never be dropped."""
    memory = Memory()
    memory.remembered.put("a", ("id", 1))
    memory.remembered.put("b", ("id", 2))
    assert not memory.remembered.knows("a")
    assert memory.differences == ["a"]
    assert memory.remembered.drop("a") is None
    assert memory.remembered.key_of("id") == "b"
