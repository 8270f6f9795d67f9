"""Which version of each model serves: a fact that all roles read, and that changes in one transaction.

What follows from a change for the jobs that wait is written in the schema (``0003_activation.sql``): a queued job is
always one of the version that serves, so that no change can lose one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import cast

from appliance.errors import JournalError
from appliance.journal.database import Database
from appliance.journal.records import Activation, ActivationEvent, ModelVersion, RefusedActivation
from appliance.manifest.manifest import Precision

_EMPTY = "INSERT OR IGNORE INTO activation (model, change, changed_at) VALUES (?, 'seen', ?)"
_CHANGE = (
    "UPDATE activation SET version = ?, precision = ?, previous_version = ?, previous_precision = ?,"
    " shadow_version = ?, shadow_precision = ?, change = ?, changed_at = ? WHERE model = ?"
)


class Activations:
    """The part of the journal that says what serves."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def generation(self) -> int:
        """A number that grows with every change: who read the activations at the same one knows them."""
        return generation(self._database.connection())

    def all(self) -> dict[str, Activation]:
        """Every model that was ever seen, by name."""
        rows = self._database.connection().execute("SELECT * FROM activation ORDER BY model")
        return {row["model"]: _activation(row) for row in rows}

    def used(self, names: Collection[str] | None) -> list[Activation]:
        """Those of the models of these names, or of all."""
        return [found for name, found in self.all().items() if names is None or name in names]

    def history(self, model: str, limit: int) -> list[ActivationEvent]:
        """The newest changes of a model, newest first."""
        rows = self._database.connection().execute(
            "SELECT * FROM activation_event WHERE model = ? ORDER BY event_id DESC LIMIT ?", (model, limit)
        )
        return [ActivationEvent(row["at"], row["event"], _version(row, ""), _version(row, "shadow_")) for row in rows]

    def adopt(self, model: str, version: ModelVersion, now: float) -> bool:
        """Let a version of a model that was never seen before serve; ``False`` when another role was first."""
        with self._database.transaction() as connection:
            if _find(connection, model) is not None:
                return False
            _write(connection, _activated(Activation(model), version), "adopted", now)
            return True

    def pin(self, model: str, version: ModelVersion, now: float) -> bool:
        """Let the version that the settings name serve; ``False`` when it does already, at whatever precision."""

        def pinned(before: Activation) -> Activation:
            same = before.active is not None and before.active.version == version.version
            return before if same else _activated(before, version)

        return self._change(model, "pinned", now, pinned)

    def activate(self, model: str, version: ModelVersion, now: float) -> bool:
        """Let a version serve, and move the queued jobs of the model to it; ``False`` when it does already.

        What served before becomes the previous version. A shadow that is activated is a shadow no more.
        """
        return self._change(model, "activated", now, lambda before: _activated(before, version))

    def roll_back(self, model: str, now: float) -> ModelVersion:
        """Let the previous version serve again, and return it.

        Raises
        ------
        JournalError
            There is none.
        """
        returned: list[ModelVersion] = []

        def rolled_back(before: Activation) -> Activation:
            if before.previous is None:
                raise JournalError(
                    f"there is no earlier version of {model} to go back to",
                    mend="Name the one that shall serve: appliance models activate",
                )
            returned.append(before.previous)
            return _activated(before, before.previous)

        self._change(model, "rolled back", now, rolled_back)
        return returned[0]

    def deactivate(self, model: str, now: float) -> bool:
        """Let no version serve; jobs that wait are failed with the reason. ``False`` when none served."""

        def deactivated(before: Activation) -> Activation:
            return replace(before, active=None, previous=before.active or before.previous)

        return self._change(model, "deactivated", now, deactivated)

    def shadow(self, model: str, version: ModelVersion | None, now: float) -> bool:
        """Let a version run in the shadow of the one that serves, or none; ``False`` when that is so already."""
        event = "shadow ended" if version is None else "shadow began"
        return self._change(model, event, now, lambda before: replace(before, shadow=version))

    def look_again(self, model: str, event: str, now: float) -> bool:
        """Begin a new generation without a change, so that the roles read anew what lies in the folders; ``event`` says
        why. ``False`` for a model that was never seen: nobody runs it.
        """
        with self._database.transaction() as connection:
            known = _find(connection, model)
            if known is not None:
                _write(connection, known, event, now)
            return known is not None

    def refuse(self, model: str, version: ModelVersion, reason: str, now: float) -> None:
        """Note that a version was to be activated but did not pass; any later decision about the model ends that."""
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO refused_activation (model, version, precision, reason, refused_at)"
                " VALUES (?,?,?,?,?)",
                (model, version.version, version.precision, reason, now),
            )

    def refused(self, names: Collection[str] | None) -> list[RefusedActivation]:
        """What was refused last, of the models of these names, or of all."""
        return [
            RefusedActivation(
                row["model"], ModelVersion(row["version"], cast(Precision, row["precision"])), row["reason"]
            )
            for row in self._database.connection().execute("SELECT * FROM refused_activation ORDER BY model")
            if names is None or row["model"] in names
        ]

    def _change(self, model: str, event: str, now: float, change: Callable[[Activation], Activation]) -> bool:
        with self._database.transaction() as connection:
            before = _find(connection, model) or Activation(model)
            after = change(before)
            connection.execute("DELETE FROM refused_activation WHERE model = ?", (model,))
            if after == before:
                return False
            _write(connection, after, event, now)
            return True


def generation(connection: sqlite3.Connection) -> int:
    """See ``Activations.generation``; for those who ask within a transaction."""
    newest: int = connection.execute("SELECT IFNULL(max(event_id), 0) FROM activation_event").fetchone()[0]
    return newest


def _activated(before: Activation, version: ModelVersion) -> Activation:
    if before.active == version:
        return before
    return replace(
        before,
        active=version,
        previous=before.active or (before.previous if before.previous != version else None),
        shadow=None if before.shadow == version else before.shadow,
    )


def _find(connection: sqlite3.Connection, model: str) -> Activation | None:
    row = connection.execute("SELECT * FROM activation WHERE model = ?", (model,)).fetchone()
    return None if row is None else _activation(row)


def _activation(row: sqlite3.Row) -> Activation:
    return Activation(row["model"], _version(row, ""), _version(row, "previous_"), _version(row, "shadow_"))


def _version(row: sqlite3.Row, prefix: str) -> ModelVersion | None:
    found = row[f"{prefix}version"]
    return None if found is None else ModelVersion(found, cast(Precision, row[f"{prefix}precision"]))


def _write(connection: sqlite3.Connection, after: Activation, event: str, now: float) -> None:
    def columns(version: ModelVersion | None) -> tuple[str | None, str | None]:
        return (None, None) if version is None else (version.version, version.precision)

    connection.execute(_EMPTY, (after.model, now))
    connection.execute(
        _CHANGE,
        (*columns(after.active), *columns(after.previous), *columns(after.shadow), event, now, after.model),
    )
