"""What waits, what failed and why: one picture for ``appliance status``, ``/status`` and the web pages to come."""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from typing import Any

from appliance.config.layout import StateLayout
from appliance.config.settings import Settings
from appliance.console.readiness import unready_reasons
from appliance.journal.journal import Journal
from appliance.journal.records import Activation, JobView, SeriesView
from appliance.retention.outlook import room_days
from appliance.spool.spool import Spool
from appliance.version import __version__

_SHOWN = 20


def status_of(journal: Journal, spool: Spool, settings: Settings, layout: StateLayout) -> dict[str, Any]:
    """Return the picture as plain values; nothing in it identifies a patient."""
    now = time.time()
    waiting = journal.overview.waiting()
    destinations = {destination.name for destination in settings.destinations}
    return {
        "version": __version__,
        "not_ready": unready_reasons(settings, layout, spool),
        "counts": journal.overview.tally(),
        "oldest_waiting_seconds": {
            what: None if since is None else round(max(0.0, now - since), 1) for what, since in asdict(waiting).items()
        },
        "disk": {
            "free_bytes": spool.free_bytes(),
            "water_mark_bytes": settings.storage.min_free_bytes,
        },
        "retention": _retention(journal, spool, settings, now),
        "lost_images": {str(series): count for series, count in journal.overview.lost().items()},
        "kept_apart": asdict(journal.overview.kept_apart()),
        "deliveries": [
            {
                "destination": view.destination,
                "in_settings": view.destination in destinations,
                "state": str(view.state),
                "count": view.count,
                "oldest_seconds": round(max(0.0, now - view.oldest_created_at), 1),
                "message": view.message,
            }
            for view in journal.overview.deliveries()
        ],
        "step_messages": [
            {
                "in_settings": settings.mpps.ris is not None,
                "state": str(view.state),
                "count": view.count,
                "oldest_seconds": round(max(0.0, now - view.oldest_created_at), 1),
                "message": view.message,
            }
            for view in journal.step_messages.undone()
        ],
        "commitments": [
            {
                "peer": view.ae_title,
                "state": str(view.state),
                "count": view.count,
                "oldest_seconds": round(max(0.0, now - view.oldest_created_at), 1),
                "message": view.message,
            }
            for view in journal.commitments.undone()
        ],
        "failed_jobs": [_job(view, now) for view in journal.overview.failed_jobs(_SHOWN)],
        "models": [_model(activation) for activation in journal.activations.used(settings.models.names)],
        "refused_activations": [asdict(refused) for refused in journal.activations.refused(settings.models.names)],
        "series": [_series(view, now) for view in journal.overview.series(_SHOWN)],
        "jobs": [_job(view, now) for view in journal.overview.jobs(_SHOWN)],
        "refusals": [
            {"series": series, "model": model, "reason": reason}
            for series, model, reason in journal.overview.refusals(_SHOWN)
        ],
    }


def _retention(journal: Journal, spool: Spool, settings: Settings, now: float) -> dict[str, Any]:
    oldest = journal.retention.oldest_received_at()
    days = room_days(journal, spool, settings.retention_target_free_bytes)
    return {
        "max_age_days": settings.retention.max_age_days,
        "room_days": None if math.isinf(days) else round(days, 1),
        "target_free_bytes": settings.retention_target_free_bytes,
        "oldest_study_seconds": None if oldest is None else round(max(0.0, now - oldest), 1),
        "deleted": {total.reason: asdict(total) for total in journal.retention.totals()},
        "newest_deletions": [asdict(deletion) for deletion in journal.retention.newest(_SHOWN)],
    }


def _series(view: SeriesView, now: float) -> dict[str, Any]:
    return {
        "series": view.series_id,
        "state": str(view.state),
        "sign": view.sign,
        "revision": view.revision,
        "images": view.image_count,
        "late": view.late,
        "missing": view.missing,
        "age_seconds": round(max(0.0, now - view.last_received_at), 1),
    }


def _job(view: JobView, now: float) -> dict[str, Any]:
    return {
        "job": view.job_id,
        "state": str(view.state),
        "model": f"{view.model}/{view.model_version}",
        "shadow": view.shadow,
        "scope": str(view.scope),
        "revision": view.revision,
        "attempts": view.attempts,
        "age_seconds": round(max(0.0, now - view.created_at), 1),
        "reason": view.reason,
        "message": view.message,
    }


def _model(activation: Activation) -> dict[str, Any]:
    versions = {"active": activation.active, "shadow": activation.shadow, "previous": activation.previous}
    return {"model": activation.model} | {
        what: None if version is None else asdict(version) for what, version in versions.items()
    }


def render_status(status: dict[str, Any]) -> str:
    """Return the picture as text: first what is wrong, then what waits, then what happened."""
    counts = status["counts"]
    lines = [f"appliance {status['version']}", ""]
    lines += _alarms(status) or ["All is well."]
    lines += ["", "           waiting   running      done   refused    failed   oldest waiting"]
    oldest = status["oldest_waiting_seconds"]
    series, delivery = counts["series"], counts["delivery"]
    rows = (
        ("series", series["receiving"], 0, series["complete"], 0, 0),
        ("job", *_jobs(counts["job"])),
        *([("shadow", *_jobs(counts["shadow"]))] if any(counts["shadow"].values()) else []),
        ("delivery", delivery["queued"], delivery["sending"], delivery["delivered"], 0, delivery["failed"]),
    )
    for name, *numbers in rows:
        age = "-" if oldest.get(name) is None else _duration(oldest[name])
        lines.append(f"{name:9}{''.join(f'{number:9} ' for number in numbers)}  {age}")
    lines += ["", *_kept(status)]
    if status["models"]:
        lines += ["", "Models"]
        for view in status["models"]:
            shadow = f"; in its shadow {_version(view['shadow'])}" if view["shadow"] else ""
            lines.append(f"  {view['model']:28} {_version(view['active'])}{shadow}")
    if status["series"]:
        lines += ["", "Newest series"]
        for view in status["series"]:
            images = f"{view['images']} image(s)" + "".join(
                f", {view[what]} {what}" for what in ("late", "missing") if view[what]
            )
            sign = f" by {view['sign']}" if view["state"] == "complete" else ""
            revision = f", revision {view['revision']}" if view["revision"] > 1 else ""
            lines.append(
                f"  {view['series']:6} {view['state'] + sign:33} {images}{revision}, "
                f"{_duration(view['age_seconds'])} ago"
            )
    if status["jobs"]:
        lines += ["", "Newest jobs"]
        for view in status["jobs"]:
            revision = f", revision {view['revision']}" if view["revision"] > 1 else ""
            shadow = ", shadow" if view["shadow"] else ""
            lines.append(
                f"  {view['job']:6} {view['state']:11} {view['model']:28} "
                f"{_duration(view['age_seconds'])} ago{revision}{shadow}"
            )
            if view["message"] and view["state"] != "failed":  # those stand above, with what to do
                lines.append(f"         {view['message']}")
    if status["refusals"]:
        lines += ["", "Models that did not want images, and why"]
        lines += sorted({f"  {view['model']}: {view['reason']}" for view in status["refusals"]})
    return "\n".join(lines)


def _kept(status: dict[str, Any]) -> list[str]:
    """How full the disk is, and what was deleted."""
    disk, retention = status["disk"], status["retention"]
    oldest = retention["oldest_study_seconds"]
    target, age, room = retention["target_free_bytes"], retention["max_age_days"], retention["room_days"]
    lines = [
        f"Disk       {_mebibytes(disk['free_bytes'])} free"
        + ("" if room is None else f", enough for {room:.0f} day(s)")
        + (f"; the oldest studies are deleted below {_mebibytes(target)}" if target else "")
        + f"; images are refused below {_mebibytes(disk['water_mark_bytes'])}",
        f"Oldest     {'-' if oldest is None else _duration(oldest)}"
        + ("" if age is None else f"; deleted after {age:g} day(s), once nothing needs them"),
    ]
    lines += [
        f"Deleted    {total['studies']} study(s), {total['instances']} instance(s), "
        f"{_mebibytes(total['bytes'])} for their {total['reason']}"
        for total in retention["deleted"].values()
        if total["instances"]
    ]
    return lines


def _mebibytes(size: int) -> str:
    return f"{size >> 20} MiB"


def _jobs(states: dict[str, int]) -> tuple[int, ...]:
    """Waiting, running, done, refused, failed."""
    done = states["succeeded"] + states["superseded"]
    return states["queued"], states["running"], done, states["unsuitable"], states["failed"]


def _alarms(status: dict[str, Any]) -> list[str]:
    """One line for each thing that needs somebody, with what to do."""
    alarms = [f"DOWN   {reason}" for reason in status["not_ready"]]
    for view in status["deliveries"]:
        if view["state"] == "failed":
            alarms.append(
                f"FAILED {view['count']} delivery(s) to {view['destination']}: {view['message']}. "
                f"Mend it, then: appliance requeue --deliveries --destination {view['destination']}"
            )
        elif not view["in_settings"]:
            alarms.append(
                f"WAITS  {view['count']} delivery(s) to {view['destination']}, which is no longer in the settings: "
                "nobody sends them. Name it there again under destinations, then restart"
            )
        elif view["message"]:
            alarms.append(
                f"WAITS  {view['count']} delivery(s) to {view['destination']} for {_duration(view['oldest_seconds'])}: "
                f"{view['message']}"
            )
    alarms += [_step_messages(view) for view in status["step_messages"] if view["message"] or not view["in_settings"]]
    alarms += [_commitments(view) for view in status["commitments"] if view["message"]]
    serving = {view["model"]: view["active"] for view in status["models"]}
    alarms += [
        f"FAILED activation of {view['model']}/{view['version']['version']}: {view['reason']}. What served before "
        "serves on. To leave it at that: "
        f"appliance models activate {view['model']}/{_number(serving.get(view['model']))}"
        for view in status["refused_activations"]
    ]
    disk, target = status["disk"], status["retention"]["target_free_bytes"]
    if disk["water_mark_bytes"] <= disk["free_bytes"] < target:
        alarms.append(
            f"NOTE   {_mebibytes(disk['free_bytes'])} free: the oldest studies are deleted until it is "
            f"{_mebibytes(target)}. If it stays so, nothing more may be deleted: free space"
        )
    for series, count in status["lost_images"].items():
        alarms.append(f"LOST   the files of {count} image(s) of series {series}. Send it again; see: appliance doctor")
    apart = status["kept_apart"]
    if apart["conflicts"]:
        alarms.append(
            f"NOTE   {apart['conflicts']} instance(s) came with the UID of another: the first one counts, "
            "the others lie in spool/conflicts"
        )
    if apart["rejections"]:
        alarms.append(
            f"NOTE   {apart['rejections']} file(s) could not be taken and lie in spool/rejected, each with its reason; "
            f"the newest: {apart['newest_rejection']}"
        )
    failed = status["counts"]["job"]["failed"]
    if failed:
        alarms.append(f"FAILED {failed} job(s). Mend the cause, then: appliance requeue --job N")
        alarms += [f"       job {view['job']}, {view['model']}: {view['message']}" for view in status["failed_jobs"]]
    return alarms


def _step_messages(view: dict[str, Any]) -> str:
    what = f"{view['count']} message(s) about procedure steps to the RIS"
    if view["state"] == "failed":
        return f"FAILED {what}: {view['message']}. Mend it, then: appliance requeue --procedure-steps"
    if not view["in_settings"]:
        return (
            f"WAITS  {what}, which is no longer in the settings: nobody sends them. Name it there again as mpps.ris, "
            "then restart"
        )
    return f"WAITS  {what} for {_duration(view['oldest_seconds'])}: {view['message']}"


def _commitments(view: dict[str, Any]) -> str:
    what = f"{view['count']} report(s) of storage commitments to {view['peer']}"
    if view["state"] == "failed":
        return f"FAILED {what}: {view['message']}. Mend it, then: appliance requeue --commitments"
    return f"WAITS  {what} for {_duration(view['oldest_seconds'])}: {view['message']}"


def _number(version: dict[str, str] | None) -> str:
    return "VERSION" if version is None else version["version"]


def _version(version: dict[str, str] | None) -> str:
    return "not active" if version is None else f"{version['version']}, {version['precision']}"


def _duration(seconds: float) -> str:
    """A duration as people read it: ``12 s``, ``3 min``, ``5.2 h``, ``4.1 d``."""
    for limit, divisor, unit in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / divisor:.0f} {unit}" if divisor < 3600 else f"{seconds / divisor:.1f} {unit}"
    return f"{seconds / 86400:.1f} d"
