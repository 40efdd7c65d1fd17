"""`ssd1b batch`: the pictures of a manifest or a folder, each made once."""

import argparse
import hashlib
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Any

from ssd1b_jax.cli import loras, settings
from ssd1b_jax.cli.batch_report import Report, interruptible
from ssd1b_jax.cli.console import add_output
from ssd1b_jax.errors import DONE, FAILED, RequestError
from ssd1b_jax.settings import SETTINGS

EPILOG = (
    "The same command goes on where a run ended, however that was. Lines without a seed get one after the name of "
    "their output, so that it is the same in every run."
)


def add(commands) -> None:
    parser = commands.add_parser(
        "batch",
        usage="%(prog)s MANIFEST|FOLDER -o OUT [option ...]",
        help="make the pictures of a manifest or a folder, each once",
        description="Make the pictures that MANIFEST (CSV, JSONL, OpenAI batch lines, Parquet) lists, or remake those "
        "of a FOLDER after NAME.txt or --prompt, into the folder OUT. Columns are settings by any of their names, and "
        "id and output; options are what a line does not say.",
        epilog=EPILOG,
    )
    parser.set_defaults(command=_run)
    add = parser.add_argument
    add("manifest", type=Path, metavar="MANIFEST", help="a .csv, .tsv, .jsonl, .ndjson or .parquet file, or a folder")
    add("-o", "--output", required=True, metavar="OUT", help="the folder of pictures; also s3://…, gs://…, az://…")
    add("--prompt", metavar="PROMPT", help=SETTINGS["prompt"].words)
    add("--image", metavar="IMAGE", help=SETTINGS["image"].words)
    add(  # its folder may be left out, so it stands after the manifest
        "--wildcards",
        nargs="?",
        const="",
        metavar="FOLDER",
        help="prompts have choices, {a|b}, and wildcards, __name__, of the files in FOLDER; a picture's seed "
        "chooses; give it after MANIFEST",
    )
    add("--dry-run", action="store_true", help="check every line, and say what the run will take; nothing is written")
    add("--no-time", action="store_true", help="with --dry-run: make no pictures to measure the speed by")
    add(
        "--on-error",
        choices=("skip", "stop"),
        default="skip",
        help="what a line that is wrong, or a picture that fails, does to the others (default: skip)",
    )
    add("--ignore", action="append", default=[], metavar="COLUMN", help="a column to leave out; may be repeated")
    begin = parser.add_mutually_exclusive_group()
    begin.add_argument("--add", action="store_true", help="keep the pictures of OUT though they are another run's")
    begin.add_argument("--restart", action="store_true", help="remove the pictures of the run in OUT, and begin anew")
    add(
        "--verify",
        choices=("sha256", "size"),
        default="sha256",
        help="how pictures that are there are looked at (default: sha256)",
    )
    add("--shard", default="1/1", metavar="I/N", help="make the I-th of N shares, as one of N workers")
    add("--claim", action="store_true", help="take what no other worker has taken: many may be at it, on any machine")
    add(
        "--lease",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="with --claim: after so long others take what a worker that died had taken (default: 60)",
    )
    _add_fleet(parser.add_argument_group("A fleet", "Ray hands the pictures to workers, one a host."))
    settings.add_row(parser, SETTINGS["num_images"])
    add_output(parser)
    settings.add(parser, without=("image", "prompt", "overwrite"))


def _add_fleet(group) -> None:
    group.add_argument(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="make the pictures on a Ray cluster: by default that of RAY_ADDRESS, one that runs here, or a new "
        "one; give it after MANIFEST",
    )
    group.add_argument(
        "--ray-workers",
        metavar="N|MIN:MAX",
        help="how many workers, as many as the cluster grows to with MIN: alone (default: one for each host)",
    )
    group.add_argument(
        "--ray-resources",
        metavar="NAME=N,…",
        help="what Ray reserves for a worker, such as TPU=4 (default: all TPUs, GPUs or cores of a host)",
    )


def _run(arguments: argparse.Namespace) -> int:
    report = Report(arguments)
    return interruptible(lambda: _batch(arguments, report), lambda: report.interrupted(_command()))


def _batch(arguments: argparse.Namespace, report: Report) -> int:
    from ssd1b_jax import runs
    from ssd1b_jax.checkpoints.model_json import read_manifest
    from ssd1b_jax.runs import origin
    from ssd1b_jax.runs.place import place

    for name, value in settings.given(arguments, "pipeline").items():
        SETTINGS[name].check(value)
    model = read_manifest(arguments.model)
    defaults = _defaults(arguments, model.config)
    shard = runs.Shard.parse(arguments.shard)
    _check_sharing(arguments, shard)
    fleet = _fleet(arguments)
    manifest = runs.read(arguments.manifest, ignored=arguments.ignore, without=Path(arguments.output))
    folder = place(arguments.output)
    if arguments.dry_run:
        return _dry_run(arguments, manifest, defaults, folder, shard, report)
    if fleet is not None:
        fleet.check()
    about = dict(name=model.name, sha256=model.sha256, dtype=arguments.dtype, per_device=arguments.per_device)
    made_by = origin.describe(manifest, defaults, about, _digests(arguments))
    policy = runs.Policy(
        restart=arguments.restart,
        add=arguments.add,
        verify=arguments.verify,
        on_error=arguments.on_error,
        lease=arguments.lease if _claims(arguments) else None,
        fleet=fleet is not None,
    )
    run = runs.Run(manifest, defaults, folder, made_by, shard=shard, policy=policy)
    try:
        report.begin(run)
        if not run.is_done:
            first = run.first_request()
            load = partial(settings.pipeline, arguments, [first] if first else [])
            if fleet is not None:
                run.make_on(fleet, load, report.tell)
            else:
                run.make(load(), report.tell)
        return FAILED if report.end(run) else DONE
    finally:
        report.close()
        run.close()


def _defaults(arguments: argparse.Namespace, config) -> Any:
    from ssd1b_jax.runs import Defaults

    request = settings.given(arguments, "request")
    if "loras" in request:
        request["loras"] = loras.lora_scales(arguments)
    arguments.overwrite = True
    return Defaults(
        config=config,
        request=request,
        count=SETTINGS["num_images"].check(arguments.num_images),
        output=settings.output(arguments, named=True),
        templates=_templates(arguments.wildcards),
        loras=frozenset(loras.lora_files(arguments) | loras.own_fast_file(arguments.model)),
    )


def _templates(folder: str | None):
    from ssd1b_jax.runs.templates import Templates

    return None if folder is None else Templates(Path(folder) if folder else None)


def _check_sharing(arguments: argparse.Namespace, shard) -> None:
    claims = _claims(arguments)
    if arguments.ray is not None and (arguments.claim or shard.worker):
        raise RequestError("a fleet shares its pictures out: give --ray alone, without --shard and --claim")
    if claims and shard.worker:
        raise RequestError("a worker has a share or claims what is left: give --shard or --claim")
    if arguments.restart and (claims or shard.worker):
        raise RequestError("restart removes what other workers make: give it alone, in a folder")
    if arguments.lease <= 0:
        raise RequestError(f"lease must be above 0 seconds, got {arguments.lease:g}")


def _claims(arguments: argparse.Namespace) -> bool:
    """Whether this process is one of many workers that claim what they make."""
    from ssd1b_jax.runs.bucket import is_url

    return arguments.claim or (is_url(arguments.output) and arguments.ray is None)


def _fleet(arguments: argparse.Namespace):
    """The Ray cluster that makes the pictures, None where this process does."""
    from ssd1b_jax.runs import fleet

    workers = arguments.ray_workers and fleet.parse_workers(arguments.ray_workers)
    resources = fleet.parse_resources(arguments.ray_resources) if arguments.ray_resources else {}
    if arguments.ray is None:
        if workers or resources:
            raise RequestError("ray-workers and ray-resources are for a fleet: give --ray too")
        return None
    return fleet.Fleet(address=arguments.ray or None, workers=workers, resources=resources)


def _digests(arguments: argparse.Namespace) -> dict[str, str]:
    from ssd1b_jax.checkpoints import lora_file

    digests = {}
    for name, file in (loras.own_fast_file(arguments.model) | loras.lora_files(arguments)).items():
        with lora_file.find(file).open("rb") as opened:
            digests[name] = hashlib.file_digest(opened, "sha256").hexdigest()
    return digests


def _dry_run(arguments: argparse.Namespace, manifest, defaults, folder, shard, report: Report) -> int:
    from ssd1b_jax.runs import checking, estimate
    from ssd1b_jax.runs.index import Index

    index = Index()
    checked = checking.check(manifest, defaults, folder, index, shard, headers=True, tell=report.bad)
    index.close()
    seconds, devices = None, None
    if checked.first is not None and not arguments.no_time:
        pipe = settings.pipeline(arguments, [checked.first])
        seconds = estimate.seconds(pipe, checked, defaults)
        devices = f"{len(pipe.devices.devices)} x {pipe.devices.devices[0].device_kind}"
    report.dry(checked, seconds, devices)
    return FAILED if checked.bad_count else DONE


def _command() -> str:
    """The command that goes on with the run."""
    return shlex.join(["ssd1b", *(word for word in sys.argv[1:] if word != "--restart")])
