"""The table of destinations: settings to what delivers."""

from __future__ import annotations

from appliance.config import settings
from appliance.delivery.base import Destination
from appliance.delivery.dicom import Pacs
from appliance.delivery.folder import Folder


def make_destination(destination: settings.Destination, ae_title: str) -> Destination:
    """Make what delivers to a destination of the settings; nothing is opened yet.

    Parameters
    ----------
    ae_title
        How the appliance calls itself.
    """
    match destination:
        case settings.DicomDestination():
            return Pacs(destination, ae_title)
        case settings.FolderDestination():
            return Folder(destination)
