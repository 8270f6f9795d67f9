"""Who has observed: this device, no person (PS3.16 TID 1001 and TID 1004)."""

from __future__ import annotations

from typing import Final

from highdicom.sr import DeviceObserverIdentifyingAttributes, ObservationContext, ObserverContext

from appliance.domain.codes import Code
from appliance.results.coded import concept
from appliance.results.context import ResultContext
from appliance.results.identity import MANUFACTURER, MODEL_NAME, device_uid
from appliance.results.text import plain

_DEVICE: Final = Code("121007", "DCM", "Device")


def observation_context(context: ResultContext) -> ObservationContext:
    """The items that begin the content of a report, or of a selection of key objects."""
    return ObservationContext(
        observer_device_context=ObserverContext(
            observer_type=concept(_DEVICE),
            observer_identifying_attributes=DeviceObserverIdentifyingAttributes(
                uid=device_uid(context),
                name=MODEL_NAME,
                manufacturer_name=MANUFACTURER,
                model_name=MODEL_NAME,
                serial_number=plain(context.device_serial, 64),
            ),
        )
    )
