"""The journal as the roles see it: one object with a part for each of them."""

from __future__ import annotations

from pathlib import Path

from appliance.journal.activations import Activations
from appliance.journal.commitments import Commitments
from appliance.journal.comparisons import Comparisons
from appliance.journal.database import Database
from appliance.journal.deliveries import Deliveries
from appliance.journal.expectations import Expectations
from appliance.journal.following import Following
from appliance.journal.inspection import Inspection
from appliance.journal.instances import Instances
from appliance.journal.jobs import Jobs
from appliance.journal.overview import Overview
from appliance.journal.procedure_steps import ProcedureSteps
from appliance.journal.retention import Retention
from appliance.journal.step_messages import StepMessages
from appliance.journal.tombstones import Tombstones
from appliance.journal.waits import Waits


class Journal:
    """Opens the journal, making or migrating it as needed. Usable from any thread.

    Raises
    ------
    JournalError
        See ``Database``.
    """

    def __init__(self, path: Path) -> None:
        self._database = Database(path)
        self.instances = Instances(self._database)
        self.expectations = Expectations(self._database)
        self.procedure_steps = ProcedureSteps(self._database)
        self.step_messages = StepMessages(self._database)
        self.following = Following(self._database)
        self.commitments = Commitments(self._database)
        self.jobs = Jobs(self._database)
        self.deliveries = Deliveries(self._database)
        self.activations = Activations(self._database)
        self.comparisons = Comparisons(self._database)
        self.overview = Overview(self._database)
        self.retention = Retention(self._database)
        self.tombstones = Tombstones(self._database)
        self.waits = Waits(self._database)
        self.inspection = Inspection(self._database)

    def flush(self) -> None:
        """Bring to the disk what a query has found: see ``Database.flush``."""
        self._database.flush()

    def check(self) -> None:
        """See ``Database.check``."""
        self._database.check()

    def close(self) -> None:
        """Close all connections."""
        self._database.close()
