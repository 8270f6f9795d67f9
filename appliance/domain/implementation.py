"""Who writes our files and opens our associations: one product, one implementation (PS3.7 annex D.3.3.2)."""

from __future__ import annotations

from typing import Final

from appliance.domain.uids import derived_uid
from appliance.version import __version__

IMPLEMENTATION_CLASS_UID: Final = derived_uid("appliance", "implementation class")
IMPLEMENTATION_VERSION_NAME: Final = f"APPLIANCE_{__version__}"[:16]
