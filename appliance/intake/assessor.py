"""Asking the models: each says yes or no to an image or a series, with its reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from appliance.domain.attributes import Attributes
from appliance.domain.states import Scope
from appliance.journal.records import Assessment
from appliance.manifest.manifest import Manifest
from appliance.observability.metrics import Metrics


@dataclass(frozen=True, slots=True)
class _Lineup:
    models: Mapping[Scope, Sequence[tuple[Manifest, bool]]]
    unusable: Mapping[str, str]
    sop_class_uids: frozenset[str]


class Assessor:
    """The active models, and their shadows.

    Parameters
    ----------
    models
        All models that serve, those that cannot run now included.
    unusable
        ``name/version`` of each model that cannot run → why, and what to do about it; it becomes the refusal of images
        that the model would have wanted.
    shadows
        Versions that are asked besides, and whose jobs are marked as those of shadows.
    """

    def __init__(
        self,
        models: Sequence[Manifest],
        unusable: Mapping[str, str],
        metrics: Metrics,
        shadows: Sequence[Manifest] = (),
    ) -> None:
        self._metrics = metrics
        self._lineup = _lineup(models, unusable, shadows)

    def replace(self, models: Sequence[Manifest], unusable: Mapping[str, str], shadows: Sequence[Manifest]) -> None:
        """Ask these from now on. Whoever asks in another thread meanwhile asks the old ones, or the new ones."""
        self._lineup = _lineup(models, unusable, shadows)

    @property
    def sop_class_uids(self) -> frozenset[str]:
        """Storage SOP classes that the models want."""
        return self._lineup.sop_class_uids

    def assess(
        self, scope: Scope, sop_class_uids: frozenset[str], images: int, attributes: Attributes
    ) -> list[Assessment]:
        """Return what each model of this scope says; the arguments are those of ``Match.refusal``."""
        lineup = self._lineup
        assessments = []
        for model, shadow in lineup.models[scope]:
            refusal = model.match.refusal(sop_class_uids, images, attributes)
            if refusal is None:
                refusal = lineup.unusable.get(model.key)
            assessments.append(Assessment(model.name, model.version, refusal, shadow))
        return assessments

    def count(self, assessments: Sequence[Assessment]) -> None:
        """Count answers in the metrics, once they are in the journal; what shadows say is not counted."""
        for assessment in assessments:
            if not assessment.shadow:
                answer = "yes" if assessment.refusal is None else "no"
                self._metrics.assessments.labels(assessment.model, answer).inc()


def _lineup(models: Sequence[Manifest], unusable: Mapping[str, str], shadows: Sequence[Manifest]) -> _Lineup:
    asked = [*((model, False) for model in models), *((model, True) for model in shadows)]
    return _Lineup(
        {scope: [(model, shadow) for model, shadow in asked if model.scope == scope] for scope in Scope},
        dict(unusable),
        frozenset(uid for model, _ in asked for uid in model.match.sop_class_uid),
    )
