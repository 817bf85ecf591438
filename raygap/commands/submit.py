"""Send a sweep to a running Ray cluster, follow its log, and fetch its best configuration and report when it ends.

python launch/submit.py --address http://HEAD:8265 --preflight
python launch/submit.py --address http://HEAD:8265 -- --dataset ave --root /shared/AVE_Dataset --trials 100
python launch/submit.py --address http://HEAD:8265 --env WANDB_API_KEY --detach -- --dataset demo
python launch/submit.py --address http://HEAD:8265 --follow raysubmit_x7Kq2LmNpQrStUvW
"""

import contextlib
import io
import os
import shlex
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import requests
import typer

from raygap import called
from raygap.cluster.submission import (
    OWN_CODE,
    RUN,
    SPACE,
    Environment,
    check_uv,
    connect,
    describe,
    fetch,
    follow,
    load_own_code,
    look_up,
    missing_package,
    pack,
    shell_line,
    stop,
    submit,
)
from raygap.commands.options import MACHINE
from raygap.ending import user_errors
from raygap.errors import UserError, first_line
from raygap.plugins import LOADED, file_name
from raygap.private import without_passwords
from raygap.storage import split_storage
from raygap.tracking.run_folder import PLAN

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

CODE = Path(__file__).parents[2]
"""A checkout, or the folder that raygap is installed in."""
IN_CLUSTER = ("python3", "-m", "raygap")
"""How the job calls raygap: it runs in the folder that the code was sent to."""
RUNS = Path("runs")
HOME = "~/raygap"
"""Folder on the cluster's head."""
RESUME = "raygap_resume"
"""Key in a job's metadata: the options that go on with its sweep."""


@user_errors()
def main(
    sweep: Annotated[list[str] | None, typer.Argument(help="After --: the options of sweep.")] = None,
    address: Annotated[
        str | None,
        typer.Option(
            help="The cluster's dashboard: http://HEAD:8265.", envvar="RAY_API_SERVER_ADDRESS", rich_help_panel=MACHINE
        ),
    ] = None,
    storage: Annotated[
        str,
        typer.Option(
            help="Folder in the cluster that all its nodes share, for runs/ and stores/, or where they share none, an "
            "object store for copies of both: s3://BUCKET/PATH, gs://BUCKET/PATH.",
            rich_help_panel=MACHINE,
        ),
    ] = HOME,
    environment: Annotated[
        Environment,
        typer.Option(help="The cluster's own Python, or one made from uv.lock on each node.", rich_help_panel=MACHINE),
    ] = "cluster",
    env: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Variable whose value goes along, unseen; may be repeated.", rich_help_panel=MACHINE
        ),
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait for the end.", rich_help_panel="Job")] = False,
    follow_job: Annotated[
        str | None,
        typer.Option(
            "--follow", metavar="ID", help="Follow this job's log, then fetch its results.", rich_help_panel="Job"
        ),
    ] = None,
    status: Annotated[
        str | None, typer.Option(metavar="ID", help="Say how this job is doing.", rich_help_panel="Job")
    ] = None,
    stop_job: Annotated[
        str | None,
        typer.Option("--stop", metavar="ID", help="Stop this job; its sweep can be resumed.", rich_help_panel="Job"),
    ] = None,
    preflight: Annotated[
        bool, typer.Option("--preflight", help="Only check the cluster; send nothing.", rich_help_panel="Job")
    ] = False,
) -> None:
    """Send a sweep to a running Ray cluster, follow it and fetch its results."""
    asked = [option for option in (preflight, follow_job, status, stop_job) if option]
    if len(asked) > 1 or (asked and sweep and not preflight):
        raise UserError("--preflight, --follow, --status, --stop and a sweep after --: give one of them")
    if not asked and not sweep:
        raise UserError("nothing to send: give the options of sweep after --, for example -- --dataset demo")
    split_storage(storage)  # a job's command can be read by all: no secret may stand in it
    if not address:
        raise UserError("--address: give the address of the cluster's dashboard, for example http://HEAD:8265")
    try:
        if status:
            print(describe(look_up(connect(address), status)))
        elif stop_job:
            print(describe(stop(connect(address), stop_job)))
        elif follow_job:
            _follow(connect(address), follow_job)
        elif preflight:
            _preflight(address, _options(sweep) if sweep else {}, storage, environment, _variables(env))
        else:
            _send(sweep, address, storage, environment, _variables(env), detach)
    except (requests.RequestException, RuntimeError) as error:  # the cluster went away, or failed
        raise UserError(f"{address}: {first_line(error)}") from None


def _variables(names: list[str] | None) -> dict[str, str]:
    for name in names or []:
        if "=" in name:
            raise UserError(
                "--env: give a variable's name only; its value is taken from this shell, where nobody reads it"
            )
        if name not in os.environ:
            raise UserError(f"--env {name}: not set here; export it first")
    return {name: os.environ[name] for name in names or []}


def _options(sweep: list[str]) -> dict[str, Any]:
    """The options after -- as `sweep` understands them. Refused here: what it would refuse in the cluster."""
    from raygap.commands.sweep import main as sweep_main

    app = typer.Typer()
    app.command()(sweep_main)
    command = typer.main.get_command(app)
    try:
        context = command.make_context("sweep", list(sweep))
    except typer.Exit:  # --help
        raise SystemExit(0) from None
    except Exception as error:  # click's, or typer's own copy of it
        said = error.format_message()  # type: ignore[attr-defined]
        raise UserError(f"after --: {said}") from None
    options = dict(context.params)
    split_storage(options["storage"])
    options["root"] = options["root"] or []
    for name in ("root", "splits", "exclude", "out", "cache", "learn_from"):
        for path in options[name] if name == "root" else [options[name]]:
            if path and not str(path).startswith("/") and "=/" not in str(path):  # a root may stand behind NAME=
                raise UserError(
                    f"--{name.replace('_', '-')} {path}: is looked for in the cluster; give its absolute path there"
                )
    for source in options["first"] or []:
        if Path(source).exists():
            raise UserError(f"--first {source}: lies on this machine; in a cluster, give what W&B holds of it")
    if options["space"] and not options["space"].is_file():
        raise UserError(f"--space {options['space']}: no such file here")
    if options["resume"]:
        if not (options["name"] or options["out"]):
            raise UserError("--resume: name the sweep in the cluster with --name")
    else:
        context.params["dry_run"] = True
        with contextlib.redirect_stdout(None if options["dry_run"] else io.StringIO()):
            command.invoke(context)
    return options


def _send(
    sweep: list[str], address: str, storage: str, environment: Environment, variables: dict[str, str], detach: bool
) -> None:
    options = _options(sweep)
    name = options["name"] or file_name(f"{options['dataset'].replace(',', '-')}-{datetime.now():%Y%m%d-%H%M%S}")
    _, kept_at = split_storage(storage)
    run = str(options["out"] or f"{HOME if kept_at else storage}/runs/{name}")
    if (RUNS / Path(run).name / PLAN).exists():
        raise UserError(f"{RUNS / Path(run).name}: holds a sweep of this machine; choose another --name")
    command = [*IN_CLUSTER, "sweep", *sweep, "--out", run, "--cache", _cache(options, storage)]
    command += ["--space", SPACE] if options["space"] else []
    command += ["--storage", storage] if kept_at else []
    if options["dry_run"]:
        print(f"would run in the cluster: {shell_line(command)}")
        return
    again = ["--out", run] if options["out"] else ["--name", name]
    resume = shlex.join(["--storage", storage, "--", "--dataset", options["dataset"], "--resume", *again])
    client = connect(address)
    if options["resume"]:  # what it needs stands in the plan, which is in the cluster
        load_own_code(client, run)
    about = {RUN: run, RESUME: resume, OWN_CODE: ",".join(LOADED)}
    job = _submit(client, command, environment, variables, about, options["space"])
    print(f"sent; {job} runs {run}", flush=True)
    if detach:
        _print_what_next(client, job)
    else:
        _follow(client, job)


def _submit(
    client: "JobSubmissionClient",
    command: list[str],
    environment: Environment,
    variables: dict[str, str],
    metadata: dict[str, str],
    space: Path | None = None,
) -> str:
    if environment == "uv":
        check_uv(client, CODE / "uv.lock")
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "code.zip"
        pack(CODE, package, space)
        return submit(client, command, package, environment, variables, metadata)


def _cache(options: dict[str, Any], storage: str) -> str:
    return str(options.get("cache") or f"{HOME if '://' in storage else storage}/stores")


def _print_what_next(client: "JobSubmissionClient", job: str) -> None:
    address = without_passwords(client.get_address())
    for option in ("follow", "status", "stop"):
        print(f"{option + ':':8} {called.command('submit', '--address', address, f'--{option}', job)}")


def _follow(client: "JobSubmissionClient", job: str) -> None:
    from ray.job_submission import JobStatus

    look_up(client, job)
    try:
        info = follow(client, job, lambda text: print(text, end="", flush=True))
    except (KeyboardInterrupt, UserError):
        print("\nno longer following; the sweep goes on", flush=True)
        _print_what_next(client, job)
        raise
    run = (info.metadata or {}).get(RUN)
    print(f"\n{describe(info)}")
    if run:
        _fetch(client, info, run)
    if info.status != JobStatus.SUCCEEDED:
        _print_hint(client.get_job_logs(job))
        sys.exit(info.driver_exit_code or 1)


def _print_hint(log: str) -> None:
    if package := missing_package(log):
        print(f"the cluster's Python has no {package}: --environment uv brings what raygap needs")


def _fetch(client: "JobSubmissionClient", info: "JobDetails", run: str) -> None:
    from ray.job_submission import JobStatus

    files = fetch(client, info, RUNS / Path(run).name)
    print("\n".join(f"fetched: {file}" for file in files) or "nothing to fetch: no trial is complete")
    print(f"everything else lies in the cluster: {run}")
    if info.status != JobStatus.SUCCEEDED:
        again = called.command("submit", "--address", without_passwords(client.get_address()))
        print(f"go on with: {again} {info.metadata[RESUME]}")


def _preflight(
    address: str, options: dict[str, Any], storage: str, environment: Environment, variables: dict[str, str]
) -> None:
    from ray.job_submission import JobStatus

    command = [*IN_CLUSTER, "preflight", "--storage", storage, "--cache", _cache(options, storage)]
    for root in options.get("root", []):
        command += ["--root", root[root.index("/") :]]
    client = connect(address)
    job = _submit(client, command, environment, variables, {})
    info = follow(client, job, lambda text: None)
    log = client.get_job_logs(job)
    lines = [line for line in log.splitlines() if line.startswith(("ok ", "FAIL "))]
    print("\n".join(lines) or log)
    _print_hint(log)
    sys.exit(0 if info.status == JobStatus.SUCCEEDED else 1)
