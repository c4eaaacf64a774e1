"""What the write concern of a worker costs its callers: from the beginning of a write to the change that is seen.

pytest tests/faults/test_write_concern.py
"""

import time
from statistics import median

from pymongo import WriteConcern

from tests.faults.scale import Figures, scaled
from tests.support.scene import Scene

WRITES = scaled(20, 400)


def times_to_change(scene: Scene, concern: WriteConcern) -> list[float]:
    """Seconds from each write, one after the other, to its change at an open change stream."""
    jobs = scene.database["jobs"].with_options(write_concern=concern)
    taken = []
    with scene.database.watch() as changes:
        for number in range(WRITES):
            began = time.monotonic()
            jobs.update_one({"_id": 1}, {"$set": {"size": number}})
            change = next(changes)
            taken.append(time.monotonic() - began)
            assert change["updateDescription"]["updatedFields"] == {"size": number}
    return taken


def compare(scene: Scene, figures: Figures, where: str) -> list[list[float]]:
    """What was taken: with `w: majority`, and with `w: 1`."""
    scene.prepare([1])
    all_taken = []
    for concern in (WriteConcern("majority"), WriteConcern(1)):
        scene.set_jobs([1], size=-1)  # So that neither has the size that the other begins with.
        taken = times_to_change(scene, concern)
        all_taken.append(taken)
        what = f"ms from a write with w: {concern.document['w']} to its change, {where}"
        figures.note(f"{what}, the median", f"{1000 * median(taken):.1f}")
        figures.note(f"{what}, the longest of {WRITES}", f"{1000 * max(taken):.1f}")
    return all_taken


def test_write_concern_majority_shows_changes_sooner_on_one_node(on_one: Scene, figures: Figures) -> None:
    with_majority, without = compare(on_one, figures, "one node")
    # The shortest: a busy machine makes some of them long.
    assert min(with_majority) < median(without) / 2, "docs/deployment.md says otherwise"


def test_write_concern_is_measured_on_three_nodes(on_the_set: Scene, figures: Figures) -> None:
    # The secondaries, which want the change, have the journal flushed: there is little to choose, and nothing to check.
    compare(on_the_set, figures, "three nodes")
