"""Which jobs are compared: those of the same images, of the time in which one version was the other's shadow."""

from __future__ import annotations

import pytest

from appliance.domain.states import JobState
from appliance.journal.journal import Journal
from appliance.journal.records import Assessment, ModelVersion, Spell
from tests.unit.journal.makers import claim, received, register, succeed

V1, V2 = ModelVersion("1.0.0", "float32"), ModelVersion("1.1.0", "float32")
HALF = ModelVersion("1.1.0", "float16")


@pytest.fixture
def shadowed(journal: Journal) -> Journal:
    """Since 100 the model has a shadow."""
    journal.activations.activate("brain", V1, 50)
    journal.activations.shadow("brain", V2, 100)
    return journal


def queue(journal: Journal, name: str, at: float, active: str = "1.0.0", shadow: str = "1.1.0") -> None:
    register(
        journal,
        received(f"{name}.3", series=f"{name}.2", study=f"{name}.1", at=at),
        [Assessment("brain", active, None), Assessment("brain", shadow, None, True)],
    )


def pairs(journal: Journal, newest: int = 100) -> list[tuple[int, int]]:
    spell = journal.comparisons.spell("brain")
    assert spell is not None
    return [(active.job_id, shadow.job_id) for active, shadow in journal.comparisons.pairs(spell, newest)]


def test_no_shadow_no_spell(journal: Journal) -> None:
    assert journal.comparisons.spell("brain") is None
    journal.activations.activate("brain", V1, 50)
    assert journal.comparisons.spell("brain") is None


def test_a_spell_begins_with_the_last_change_of_either_side(shadowed: Journal) -> None:
    activations = shadowed.activations
    assert shadowed.comparisons.spell("brain") == Spell("brain", V1, V2, 100, None)
    activations.shadow("brain", HALF, 110)
    assert shadowed.comparisons.spell("brain") == Spell("brain", V1, HALF, 110, None)
    activations.shadow("brain", None, 120)
    assert shadowed.comparisons.spell("brain") == Spell("brain", V1, HALF, 110, 120)
    activations.activate("brain", V2, 130)
    assert shadowed.comparisons.spell("brain") == Spell("brain", V1, HALF, 110, 120)


def test_a_spell_ends_when_the_shadow_is_activated(shadowed: Journal) -> None:
    shadowed.activations.activate("brain", V2, 150)
    assert shadowed.comparisons.spell("brain") == Spell("brain", V1, V2, 100, 150)


def test_jobs_of_the_same_images_that_have_ended_on_both_sides(shadowed: Journal) -> None:
    queue(shadowed, "1", at=110)
    queue(shadowed, "2", at=120)
    spell = shadowed.comparisons.spell("brain")
    assert spell is not None
    for _ in range(2):
        succeed(shadowed, claim(shadowed), kinds=("sr", "seg"))
    assert pairs(shadowed) == [] and shadowed.comparisons.waiting(spell) == 2
    first = claim(shadowed)
    succeed(shadowed, first, kinds=("sr", "seg"))
    shadowed.jobs.unsuitable(claim(shadowed), "worker-0", 210, "slice-gap", "slices are missing", {})
    assert pairs(shadowed) == [(3, 4), (1, 2)] and shadowed.comparisons.waiting(spell) == 0
    assert pairs(shadowed, newest=1) == [(3, 4)]
    (_, refused), (active, judged) = shadowed.comparisons.pairs(spell, 10)
    assert (refused.state, refused.message, refused.result) == (JobState.UNSUITABLE, "slices are missing", None)
    assert active.result == "{}" and active.segmentation != judged.segmentation is not None


def test_jobs_of_another_time_are_left_out(shadowed: Journal) -> None:
    queue(shadowed, "1", at=110)
    shadowed.activations.shadow("brain", HALF, 150)
    queue(shadowed, "2", at=160)
    for _ in range(4):
        succeed(shadowed, claim(shadowed))
    assert pairs(shadowed) == [(3, 4)]
