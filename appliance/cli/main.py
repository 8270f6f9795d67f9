"""``appliance``: the command line. Each command is one function; errors are one line that says what to do.

Exit codes: 0 done · 1 the operation failed · 2 wrong usage · 65 unsuitable input or model package · 69 something needed
is missing (weights, a backend) · 70 a role ended by a defect · 74 disk or journal · 78 configuration · 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from appliance.domain.forms import FORMS, USUAL_FORMS
from appliance.errors import ApplianceError
from appliance.manifest.manifest import BackendName, Precision
from appliance.version import __version__

_EXIT_IO = 74


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parsed = _parser().parse_args(arguments)
    try:
        code: int = parsed.command(parsed)
        return code
    except ApplianceError as error:
        print(f"appliance: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 0  # the reader of a pipe, `head` say, has seen enough
    except OSError as error:
        print(
            f"appliance: {error.filename or 'a file'}: {error.strerror}. Check its owner, and the disk", file=sys.stderr
        )
        return _EXIT_IO


def _parser() -> argparse.ArgumentParser:
    # Commands are imported when they run: the receiver must not carry the weight of the inference runtimes.
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("-c", "--config", type=Path, metavar="FILE", help="settings (configs/appliance.yaml)")
    common.add_argument(
        "--state-dir", type=Path, metavar="DIR", help="journal, spool and caches; overrides the settings"
    )

    parser = argparse.ArgumentParser(prog="appliance", description="DICOM images in, model results out.")
    parser.add_argument("--version", action="version", version=f"appliance {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", parents=[common], help="run the daemon in the foreground; Ctrl-C stops it")
    run.set_defaults(command=_run)

    role = commands.add_parser("role", parents=[common], help="run one role (what systemd's units call)")
    role.add_argument("name", metavar="ROLE", help="receiver, sender, console, or worker-0, worker-1, …")
    role.set_defaults(command=_role)

    check = commands.add_parser("check-config", parents=[common], help="check the settings; names the line and the fix")
    check.set_defaults(command=_check_config)

    status = commands.add_parser("status", parents=[common], help="what waits, what failed and why")
    status.add_argument("--json", action="store_true", help="for programs")
    status.set_defaults(command=_status)

    requeue = commands.add_parser(
        "requeue", parents=[common], help="let failed jobs run, or failed deliveries go, again"
    )
    requeue.add_argument("--job", type=int, metavar="N", help="a failed or unsuitable job")
    requeue.add_argument("--deliveries", action="store_true", help="all failed deliveries")
    requeue.add_argument("--destination", metavar="NAME", help="with --deliveries: only those to this destination")
    requeue.add_argument("--procedure-steps", action="store_true", help="all failed messages to the RIS")
    requeue.add_argument("--commitments", action="store_true", help="all failed reports of storage commitments")
    requeue.set_defaults(command=_requeue)

    doctor = commands.add_parser("doctor", parents=[common], help="does the journal say what the spool holds?")
    doctor.add_argument("--repair", action="store_true", help="mend what can be; the appliance has to stand still")
    doctor.add_argument("--deep", action="store_true", help="sum the bytes of every file")
    doctor.add_argument("--json", action="store_true", help="for programs")
    doctor.set_defaults(command=_doctor)
    backup = commands.add_parser("backup", parents=[common], help="copy journal and spool while everything runs")
    backup.add_argument("target", type=Path, metavar="TARGET", help="a folder; one with a backup gets what is new")
    backup.set_defaults(command=_backup)
    restore = commands.add_parser("restore", parents=[common], help="make an empty state folder from a backup")
    restore.add_argument("source", type=Path, metavar="SOURCE", help="the folder of the backup")
    restore.set_defaults(command=_restore)

    infer = commands.add_parser(
        "infer", parents=[common], help="run a model on a folder of DICOM files, without the daemon"
    )
    infer.add_argument("folder", type=Path, metavar="FOLDER", help="DICOM files, searched to the bottom")
    infer.add_argument("--model", required=True, metavar="NAME", help="name, or name/version")
    infer.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="folder for the result objects")
    infer.add_argument(
        "--forms",
        nargs="+",
        choices=FORMS,
        default=USUAL_FORMS,
        metavar="FORM",
        help=f"which result objects: {', '.join(FORMS)} (default: {', '.join(USUAL_FORMS)})",
    )
    infer.add_argument("--json", action="store_true", help="print the results as JSON")
    infer.set_defaults(command=_infer)

    destinations = commands.add_parser("destinations", help="where results go").add_subparsers(
        required=True, metavar="COMMAND"
    )
    testing = destinations.add_parser(
        "test", parents=[common], help="send the result of a test patient in every form; tells what is accepted"
    )
    testing.add_argument("name", metavar="NAME", help="of the destination in the settings")
    testing.add_argument("--json", action="store_true", help="for programs")
    testing.set_defaults(command=_destinations_test)

    models = commands.add_parser("models", help="model packages").add_subparsers(required=True, metavar="COMMAND")
    listing = models.add_parser("list", parents=[common], help="all packages, and whether they can run here")
    listing.add_argument("--json", action="store_true", help="for programs")
    listing.set_defaults(command=_models_list)
    show = models.add_parser("show", parents=[common], help="one package: what it is, how it was verified, its engines")
    show.add_argument("name", metavar="NAME", help="name, or name/version")
    show.add_argument("--json", action="store_true", help="for programs")
    show.set_defaults(command=_models_show)
    verify = models.add_parser("verify", parents=[common], help="judge the golden images on this machine, and compare")
    verify.add_argument("names", nargs="*", metavar="NAME", help="name, or name/version")
    verify.add_argument("--all", action="store_true", help="the newest version of every package")
    verify.add_argument("--backend", choices=get_args(BackendName), help="instead of the one that would serve")
    verify.add_argument("--precision", choices=get_args(Precision), help="instead of the manifest's")
    verify.add_argument("--again", action="store_true", help="even if it is known")
    verify.add_argument("--json", action="store_true", help="for programs")
    verify.set_defaults(command=_models_verify)
    activate = models.add_parser("activate", parents=[common], help="let a version serve, once it has passed here")
    activate.add_argument("name", metavar="NAME", help="name (its newest version), or name/version")
    activate.add_argument("--precision", choices=get_args(Precision), help="instead of the manifest's")
    activate.add_argument("--shadow", action="store_true", help="beside the one that serves; results stay here")
    activate.set_defaults(command=_models_activate)
    deactivate = models.add_parser("deactivate", parents=[common], help="let no version of a model serve")
    deactivate.add_argument("name", metavar="NAME", help="name of the model")
    deactivate.add_argument("--shadow", action="store_true", help="only end its shadow")
    deactivate.set_defaults(command=_models_deactivate)
    compare = models.add_parser("compare", parents=[common], help="how far a shadow agrees with the active version")
    compare.add_argument("name", metavar="NAME", help="name of the model")
    compare.add_argument("--newest", type=int, default=1000, metavar="N", help="at most so many images (default 1000)")
    compare.add_argument("--json", action="store_true", help="for programs")
    compare.set_defaults(command=_models_compare)
    rollback = models.add_parser("rollback", parents=[common], help="let the version serve that did so before")
    rollback.add_argument("name", metavar="NAME", help="name of the model")
    rollback.set_defaults(command=_models_rollback)

    bench = models.add_parser("bench", parents=[common], help="how fast models run here, next to the bare runtime")
    bench.add_argument("names", nargs="*", metavar="NAME", help="name, or name/version")
    bench.add_argument("--all", action="store_true", help="the newest version of every package")
    bench.add_argument("--backend", choices=get_args(BackendName), help="only this one")
    bench.add_argument("--precision", choices=get_args(Precision), help="only this one")
    bench.add_argument("--seconds", type=float, default=10.0, metavar="S", help="for each line (default 10)")
    bench.add_argument(
        "--acceptance", action="store_true", help="build, verify, measure, look for leaks; fails when anything does"
    )
    bench.add_argument("--json", action="store_true", help="for programs")
    bench.set_defaults(command=_models_bench)
    importing = models.add_parser("import", parents=[common], help="make a package of a bare ONNX file")
    importing.add_argument("file", type=Path, metavar="FILE.onnx", help="the network")
    importing.add_argument("--name", metavar="NAME", help="of the package (default: the file's)")
    importing.add_argument("--version", default="1.0.0", metavar="VERSION", help="of the package (default 1.0.0)")
    importing.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="of packages (default: the settings')")
    importing.set_defaults(command=_models_import)
    fetch = models.add_parser("fetch", parents=[common], help="get the weights and golden images of packages")
    fetch.add_argument("names", nargs="*", metavar="NAME", help="name, or name/version")
    fetch.add_argument("--all", action="store_true", help="every package that lacks them")
    fetch.add_argument(
        "--from", dest="source", type=Path, metavar="DIR", help="a folder with the files, at a site without internet"
    )
    fetch.set_defaults(command=_models_fetch)
    convert = models.add_parser("convert", parents=[common], help="build the TensorRT engines of packages")
    convert.add_argument("names", nargs="*", metavar="NAME", help="name, or name/version")
    convert.add_argument("--all", action="store_true", help="the newest version of every package")
    convert.add_argument(
        "--precision", choices=get_args(Precision), help="instead of the manifest's; its loss is measured first"
    )
    convert.add_argument(
        "--calibrate", type=Path, metavar="FOLDER", help="for int8: DICOM images of this site like those to be judged"
    )
    convert.add_argument("--time-limit", type=float, default=3600.0, metavar="S", help="for one engine (default 3600)")
    convert.add_argument("--memory-limit", type=int, default=4096, metavar="MIB", help="workspace (default 4096)")
    convert.set_defaults(command=_models_convert)
    return parser


def _run(parsed: argparse.Namespace) -> int:
    from appliance.cli.daemon import run

    return run(parsed.config, parsed.state_dir)


def _role(parsed: argparse.Namespace) -> int:
    from appliance.cli.daemon import role

    return role(parsed.name, parsed.config, parsed.state_dir)


def _check_config(parsed: argparse.Namespace) -> int:
    from appliance.cli.operator import check_config

    return check_config(parsed.config)


def _status(parsed: argparse.Namespace) -> int:
    from appliance.cli.operator import status

    return status(parsed.config, parsed.state_dir, as_json=parsed.json)


def _requeue(parsed: argparse.Namespace) -> int:
    from appliance.cli.operator import requeue

    return requeue(
        parsed.config,
        parsed.state_dir,
        job=parsed.job,
        deliveries=parsed.deliveries,
        destination=parsed.destination,
        procedure_steps=parsed.procedure_steps,
        commitments=parsed.commitments,
    )


def _doctor(parsed: argparse.Namespace) -> int:
    from appliance.cli.doctor import doctor

    return doctor(parsed.config, parsed.state_dir, repair=parsed.repair, deep=parsed.deep, as_json=parsed.json)


def _backup(parsed: argparse.Namespace) -> int:
    from appliance.cli.backup import backup

    return backup(parsed.config, parsed.state_dir, parsed.target)


def _restore(parsed: argparse.Namespace) -> int:
    from appliance.cli.backup import restore

    return restore(parsed.config, parsed.state_dir, parsed.source)


def _infer(parsed: argparse.Namespace) -> int:
    from appliance.cli.infer import infer

    return infer(
        parsed.folder,
        parsed.model,
        parsed.output,
        parsed.config,
        parsed.state_dir,
        forms=parsed.forms,
        as_json=parsed.json,
    )


def _destinations_test(parsed: argparse.Namespace) -> int:
    from appliance.cli.destinations import test_destination

    return test_destination(parsed.config, parsed.name, as_json=parsed.json)


def _models_list(parsed: argparse.Namespace) -> int:
    from appliance.cli.models import list_models

    return list_models(parsed.config, parsed.state_dir, as_json=parsed.json)


def _models_show(parsed: argparse.Namespace) -> int:
    from appliance.cli.models import show_model

    return show_model(parsed.config, parsed.state_dir, parsed.name, as_json=parsed.json)


def _models_verify(parsed: argparse.Namespace) -> int:
    from appliance.cli.models import verify_models

    return verify_models(
        parsed.config,
        parsed.state_dir,
        parsed.names,
        everything=parsed.all,
        backend=parsed.backend,
        precision=parsed.precision,
        again=parsed.again,
        as_json=parsed.json,
    )


def _models_activate(parsed: argparse.Namespace) -> int:
    from appliance.cli.activation import activate

    return activate(parsed.config, parsed.state_dir, parsed.name, shadow=parsed.shadow, precision=parsed.precision)


def _models_deactivate(parsed: argparse.Namespace) -> int:
    from appliance.cli.activation import deactivate

    return deactivate(parsed.config, parsed.state_dir, parsed.name, shadow=parsed.shadow)


def _models_compare(parsed: argparse.Namespace) -> int:
    from appliance.cli.compare import compare_shadow

    return compare_shadow(parsed.config, parsed.state_dir, parsed.name, newest=parsed.newest, as_json=parsed.json)


def _models_rollback(parsed: argparse.Namespace) -> int:
    from appliance.cli.activation import roll_back

    return roll_back(parsed.config, parsed.state_dir, parsed.name)


def _models_bench(parsed: argparse.Namespace) -> int:
    from appliance.cli.bench import bench_models

    return bench_models(
        parsed.config,
        parsed.state_dir,
        parsed.names,
        everything=parsed.all,
        backend=parsed.backend,
        precision=parsed.precision,
        seconds=parsed.seconds,
        acceptance=parsed.acceptance,
        as_json=parsed.json,
    )


def _models_convert(parsed: argparse.Namespace) -> int:
    from appliance.cli.convert import convert_models

    return convert_models(
        parsed.config,
        parsed.state_dir,
        parsed.names,
        everything=parsed.all,
        precision=parsed.precision,
        calibrate=parsed.calibrate,
        time_limit_s=parsed.time_limit,
        memory_limit_bytes=parsed.memory_limit << 20,
    )


def _models_import(parsed: argparse.Namespace) -> int:
    from appliance.cli.importing import import_model

    return import_model(
        parsed.config,
        parsed.state_dir,
        parsed.file,
        name=parsed.name,
        version=parsed.version,
        output=parsed.output,
    )


def _models_fetch(parsed: argparse.Namespace) -> int:
    from appliance.cli.models import fetch_models

    return fetch_models(parsed.config, parsed.state_dir, parsed.names, everything=parsed.all, source=parsed.source)
