"""Asking a W&B server for the trials of a sweep, by its path or by the URL of a page of it."""

import base64
import binascii
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any
from urllib.parse import unquote, urlsplit

import wandb
import wandb_workspaces.reports.v2 as wr
import yaml
from wandb.apis.public.query_generator import QueryGenerator
from wandb.sdk.lib.urls import DEFAULT_BASE_URL
from wandb_workspaces import expr

from raygap.config import flatten
from raygap.errors import UserError
from raygap.tracking.wandb.entries import Entry, lower_is_better, of_runs
from raygap.tracking.wandb.layout import SELECTED, TRIAL, VALUE
from raygap.tracking.wandb.process import logged_in, reason

TIMEOUT_S = 20
MOST_RUNS = 2000
"""Runs that are looked through, best first."""
CLOUD = ("wandb.ai", "forge.coreweave.com")
"""Hosts of W&B's own cloud, by their old and new names, with or without api, app or www before them."""


@dataclass(frozen=True)
class Place:
    """What a path or a URL points to. At most one of group, run (ids) and report (id) is given."""

    entity: str
    project: str
    group: str | None = None
    run: str | None = None
    report: str | None = None
    server: str | None = None
    """Where the server's interface is; None for a path: wherever the client looks."""


def parse(source: str) -> Place:
    """From entity/project, entity/project/group, or a URL, with /wandb before the entity or not. Raises UserError."""
    if "://" not in source:
        entity, project, *group = source.split("/", 2)
        return Place(entity, project, group[0] if group else None)
    url = urlsplit(source)
    server = DEFAULT_BASE_URL if _on_cloud(source) else f"{url.scheme}://{url.netloc}"
    parts = [unquote(part) for part in url.path.split("/") if part]
    kinds = ("reports", "groups", "runs", "workspace", "table", "sweeps", "overview")
    # What stands before one of these words, whether that begins with /wandb or not: an entity may have that name, too.
    at = next((i for i in range(2, len(parts)) if parts[i] in kinds), len(parts))
    if at < 2:
        raise UserError(f"{source}: not the URL of a report, project, group or run at W&B")
    entity, project = parts[at - 2 : at]
    kind, name = (*parts[at : at + 2], None, None)[:2]
    if kind == "reports":
        if name is None:
            raise UserError(f"{source}: lists reports; open one, and give its URL")
        return Place(entity, project, report=_report_id(name, source), server=server)
    return Place(entity, project, name if kind == "groups" else None, name if kind == "runs" else None, server=server)


def _report_id(name: str, source: str) -> str:
    identity = name.rpartition("--")[2].rstrip("=")
    identity += "=" * (-len(identity) % 4)
    try:
        known = base64.b64decode(identity, validate=True).startswith(b"View:")
    except binascii.Error:
        known = False
    if not known:
        raise UserError(f"{source}: not the URL of a report: its id, after the last --, is cut off or damaged")
    return identity


def connect(source: str, server: str | None = None) -> wandb.Api:
    """A server's interface. Raises UserError without a key, or if the server does not answer or accept it."""
    configured = os.environ.get("WANDB_BASE_URL") or wandb.setup().settings.base_url
    same = not server or urlsplit(server).netloc == urlsplit(configured).netloc
    if not same and not (_on_cloud(server) and _on_cloud(configured)):
        os.environ["WANDB_BASE_URL"] = configured = server  # the library that reads reports looks here
    with answers(source):
        if not logged_in(configured):
            raise UserError(f"{source}: W&B wants a key; run `wandb login`, or set WANDB_API_KEY")
        return wandb.Api(timeout=TIMEOUT_S)


def _on_cloud(url: str) -> bool:
    return f".{urlsplit(url).hostname}".endswith(tuple(f".{host}" for host in CLOUD))


@contextmanager
def answers(source: str) -> Iterator[None]:
    """Turn what the client raises into a UserError that names the source."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        text = str(error)
        if "Could not find project" in text or "not found" in text:
            raise UserError(f"{source}: no such project at W&B, or no permission to read it") from None
        answered = getattr(getattr(error, "response", None), "http_status", None) or text
        if status := re.search(r"\b(40[134]|429|5\d\d)\b", str(answered)):
            what = {
                "401": "the server does not accept the key",
                "403": "no permission to read it",
                "404": "the server knows nothing of it",
                "429": "the server has had too many requests; try again in a minute",
            }.get(status[1], "the server is in trouble; try again later")
            raise UserError(f"{source}: {what} (HTTP {status[1]})") from None
        why = reason(error)
        if isinstance(error, wandb.errors.AuthenticationError) and "in time" not in why:
            why = "the server does not accept the key"
        raise UserError(f"{source}: {why}") from None


def query(source: str, top: int, metric: str, called: str) -> list[Entry]:
    """The best trials of a place at W&B. From a report first its own configuration, then what its runs say.

    Errors begin with what the source is `called`.
    """
    place = parse(source)
    api = connect(called, place.server)
    with answers(called):
        if place.report:
            return _of_report(api, place, called, top, metric)
        if place.run:
            run = api.run(f"{place.entity}/{place.project}/{place.run}")
            return of_runs(iter([(run.url, run.config, dict(run.summary))]), metric)
        filters = {"group": place.group} if place.group else {}
        return _of_runs(api, place, filters, top, metric, called)


def _of_report(api: wandb.Api, place: Place, source: str, top: int, metric: str) -> list[Entry]:
    report = load_report(place, source)
    blocks = list(_blocks(report.blocks))
    if (top, metric) == (1, VALUE):
        for block in blocks:
            if isinstance(block, wr.CodeBlock) and (config := _configuration(block)):
                return [Entry(config, None, f"report {report.title!r}")]
    runsets = [runset for block in blocks if isinstance(block, wr.PanelGrid) for runset in block.runsets]
    if not runsets:
        raise UserError(f"{source}: the report holds neither a configuration of raygap's nor runs")
    first = runsets[0]
    tree = expr.expr_to_filters(first.filters).model_dump(  # type: ignore[arg-type]  # of a report that is loaded: str
        by_alias=True, exclude_none=True
    )
    runs_of = Place(first.entity or place.entity, first.project or place.project)
    return _of_runs(api, runs_of, QueryGenerator().filter_to_mongo(tree), top, metric, source)


def load_report(place: Place, source: str) -> wr.Report:
    """A report by its id. Raises UserError if it is gone, or may not be read."""
    # The library knows one shape of URLs, and there takes only the id.
    url = f"https://wandb.ai/{place.entity}/{place.project}/reports/report--{place.report.rstrip('=')}"
    try:
        return wr.Report.from_url(url)
    except TypeError:  # it has asked nothing for its contents
        raise UserError(f"{source}: no such report at W&B, or no permission to read it") from None


def _blocks(blocks: list[Any]) -> Iterator[Any]:
    """All, also those under folded headings."""
    for block in blocks:
        yield block
        yield from _blocks(getattr(block, "collapsed_blocks", None) or [])


def _configuration(block: wr.CodeBlock) -> dict[str, Any] | None:
    """JSON is YAML, too."""
    try:
        content = yaml.safe_load(block.code) if isinstance(block.code, str) else None
    except yaml.YAMLError:
        return None
    return content if isinstance(content, dict) and {"schema_version", "method"} <= flatten(content).keys() else None


def _of_runs(api: wandb.Api, place: Place, filters: dict[str, Any], top: int, metric: str, source: str) -> list[Entry]:
    key = metric if metric == VALUE else SELECTED + metric
    found: list[Entry] = []
    seen = 0
    runs = api.runs(
        f"{place.entity}/{place.project}",
        filters={"$and": [*filters.get("$and", [filters] if filters else []), {"jobType": TRIAL}]},
        order=f"{'+' if lower_is_better(metric) else '-'}summary_metrics.{key}",
        lazy=False,
    )
    for run in islice(runs, MOST_RUNS):
        seen += 1
        found += of_runs(iter([(run.url, run.config, dict(run.summary))]), metric)
        if len(found) > top and found[-1].value != found[top - 1].value:  # of equals the server chooses as it likes
            break
    if not seen:
        raise UserError(f"{source}: holds no trials of raygap's")
    return found
