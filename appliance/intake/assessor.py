"""Asking the models: each says yes or no to an image or a series, with its reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from appliance.domain.attributes import Attributes
from appliance.domain.states import Scope
from appliance.journal.records import Assessment
from appliance.manifest.manifest import Manifest
from appliance.observability.metrics import Metrics


class Assessor:
    """The active models.

    Parameters
    ----------
    models
        All active models, those that cannot run now included.
    unusable
        Name of each model that cannot run → why, and what to do about it; it becomes the refusal of images that the
        model would have wanted.
    """

    def __init__(self, models: Sequence[Manifest], unusable: Mapping[str, str], metrics: Metrics) -> None:
        self._models = {scope: [model for model in models if model.scope == scope] for scope in Scope}
        self._unusable = dict(unusable)
        self._metrics = metrics
        self.sop_class_uids = frozenset(uid for model in models for uid in model.match.sop_class_uid)

    def assess(
        self, scope: Scope, sop_class_uids: frozenset[str], images: int, attributes: Attributes
    ) -> list[Assessment]:
        """Return what each model of this scope says; the arguments are those of ``Match.refusal``."""
        assessments = []
        for model in self._models[scope]:
            refusal = model.match.refusal(sop_class_uids, images, attributes)
            if refusal is None:
                refusal = self._unusable.get(model.name)
            assessments.append(Assessment(model.name, model.version, refusal))
        return assessments

    def count(self, assessments: Sequence[Assessment]) -> None:
        """Count answers in the metrics, once they are in the journal."""
        for assessment in assessments:
            answer = "yes" if assessment.refusal is None else "no"
            self._metrics.assessments.labels(assessment.model, answer).inc()
