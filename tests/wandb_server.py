"""A W&B server of the standard library alone: what the real client asks for, kept in memory, and its failures."""

import base64
import json
import os
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

KEY = "0123456789abcdef0123456789abcdef01234567"
ENTITY = "team"
MESSAGES = {403: "permission denied"}
EVERY_EPOCH = {
    *("train/loss", "train/loss_fusion", "train/loss_audio", "train/loss_visual", "train/accuracy"),
    *(f"val/{who}{what}" for who in ("", "audio_", "visual_") for what in ("accuracy", "macro_f1", "loss")),
    *("gap/mean", "gap/absolute_mean", "gap/q05", "gap/q25", "gap/q50", "gap/q75", "gap/q95", "val/gap_mean"),
    *("stage", "epoch", "learning_rate", "epochs_reused", "best_epoch", "best_val_accuracy"),
}
"""What is logged of each epoch of a trial."""
Failure = Callable[[str], int | str | None]
"""Of an operation: the HTTP status to answer with, "hang", "reset", or None to serve it."""


@dataclass
class Run:
    """What the server knows of a run."""

    project: str
    name: str
    fields: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history: list[str] = field(default_factory=list)
    """Lines as they were sent, each at the offset that the client gave."""
    exit_code: int | None = None

    def steps(self) -> list[int]:
        """Of the history, in the order of its lines."""
        return [json.loads(line)["_step"] for line in self.history]

    def node(self) -> dict[str, Any]:
        """As the client's queries want it."""
        return {
            "id": self.name,
            "name": self.name,
            "displayName": self.fields.get("displayName") or self.name,
            "projectId": 7,
            "group": self.fields.get("groupName"),
            "jobType": self.fields.get("jobType"),
            "tags": self.fields.get("tags") or [],
            "commit": self.fields.get("commit"),
            "state": "running" if self.exit_code is None else "failed" if self.exit_code else "finished",
            "config": json.dumps(self.config),
            "summaryMetrics": json.dumps(self.summary),
            "systemMetrics": "{}",
            "historyLineCount": len(self.history),
            "historyKeys": None,
            "createdAt": "2026-01-01T00:00:00",
            "heartbeatAt": "2026-01-01T00:00:00",
            "description": "",
            "notes": "",
            "readOnly": False,
            "sweepName": None,
            "user": {"name": ENTITY, "username": ENTITY},
        }


class WandbServer(ThreadingHTTPServer):
    """Runs by their ids, reports by theirs, and files by their paths. `failure` says what to spoil."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.runs: dict[str, Run] = {}
        self.reports: dict[str, dict[str, Any]] = {}
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.failure: Failure = lambda operation: None
        self.open = threading.Event()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no news."""

    def answer(self, operation: str, v: dict[str, Any]) -> dict[str, Any]:
        """The data of a GraphQL answer. An operation that is not here is answered with nothing."""
        return getattr(self, f"_{operation}", lambda v: {})(v)

    def _Viewer(self, v: dict[str, Any]) -> dict[str, Any]:
        return {"viewer": {"id": "1", "entity": ENTITY, "username": ENTITY, "flags": "{}", "teams": {"edges": []}}}

    def _GetDefaultEntity(self, v: dict[str, Any]) -> dict[str, Any]:
        return {"viewer": {"id": "1", "entity": ENTITY}}

    def _RunResumeStatus(self, v: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.get(v["name"])
        bucket = None
        if run:
            tail = json.dumps(run.history[-1:])
            bucket = run.node() | {"historyTail": tail, "eventsTail": "[]", "logLineCount": 0, "eventsLineCount": 0}
            # The key "t" tells the client that the run has begun, and so is to be resumed.
            bucket["wandbConfig"] = json.dumps({"t": run.config.get("_wandb", {}).get("value", {}).get("t")})
        return {"model": {"id": "p", "name": v["project"], "entity": {"id": "e", "name": ENTITY}, "bucket": bucket}}

    def _UpsertBucket(self, v: dict[str, Any]) -> dict[str, Any]:
        new = v["name"] not in self.runs
        run = self.runs.setdefault(v["name"], Run(v["project"], v["name"]))
        run.fields |= {name: value for name, value in v.items() if value is not None}
        run.config |= json.loads(v.get("config") or "{}")
        run.summary |= json.loads(v.get("summaryMetrics") or "{}")
        project = {"id": "p", "name": run.project, "entity": {"id": "e", "name": ENTITY}}
        return {"upsertBucket": {"bucket": run.node() | {"project": project}, "inserted": new}}

    def _CreateRunFiles(self, v: dict[str, Any]) -> dict[str, Any]:
        files = [{"name": name, "uploadUrl": f"{self.url}/upload/{v['run']}/{name}"} for name in v["files"]]
        return {"createRunFiles": {"runID": v["run"], "uploadHeaders": [], "files": files}}

    def _Runs(self, v: dict[str, Any]) -> dict[str, Any]:
        runs = [run for run in self.runs.values() if run.project == v["project"] and v["entity"] == ENTITY]
        if not runs:
            return {"project": None}
        filters, order = json.loads(v.get("filters") or "{}"), (v.get("order") or "+created_at")
        runs = [run for run in runs if _matches(filters, run.node())]
        section, _, name = order[1:].partition(".")
        if section == "summary_metrics":  # runs without the number come last, as a database has them
            ranked = [run for run in runs if name in run.summary]
            ranked.sort(key=lambda run: run.summary[name], reverse=order[0] == "-")
            runs = ranked + [run for run in runs if name not in run.summary]
        edges = [{"node": run.node(), "cursor": run.name} for run in runs]
        page = {"edges": edges, "pageInfo": {"endCursor": None, "hasNextPage": False}}
        return {"project": {"internalId": "7", "runCount": len(runs), "readOnly": False, "runs": page}}

    def _GetProjects(self, v: dict[str, Any]) -> dict[str, Any]:
        names = dict.fromkeys(run.project for run in self.runs.values())
        user = {"id": "1", "name": ENTITY, "username": ENTITY, "email": "", "admin": False}
        user |= dict.fromkeys(("flags", "entity", "deletedAt", "apiKeys", "teams"))
        nodes = [
            {"id": name, "name": name, "entityName": ENTITY, "createdAt": "2026-01-01", "isBenchmark": False}
            | {"user": user}
            for name in names
        ]
        page = {"endCursor": None, "hasNextPage": False}
        return {"models": {"edges": [{"cursor": "", "node": node} for node in nodes], "pageInfo": page}}

    def _ProjectInternalId(self, v: dict[str, Any]) -> dict[str, Any]:
        known = v["projectName"] in {run.project for run in self.runs.values()}
        return {"project": {"id": "p", "internalId": "7"} if known else None}

    def _upsertView(self, v: dict[str, Any]) -> dict[str, Any]:
        identity = v.get("id") or base64.b64encode(f"View:{len(self.reports) + 1}".encode()).decode()
        project = {"id": "p", "name": v["projectName"], "entityName": v["entityName"]}
        view = {name: v.get(name) for name in ("name", "displayName", "description", "type", "spec")}
        dates = {"createdAt": "2026-01-01T00:00:00Z", "updatedAt": "2026-01-01T00:00:00Z"}
        self.reports[identity] = view | dates | {"id": identity, "project": project}
        return {"upsertView": {"view": self.reports[identity], "inserted": not v.get("id")}}

    def _SpecificReport(self, v: dict[str, Any]) -> dict[str, Any]:
        return {"view": self.reports.get(v["reportId"])}

    def stream(self, name: str, message: dict[str, Any]) -> None:
        """A part of a run's history or summary."""
        run = self.runs[name]
        for file, chunk in message.get("files", {}).items():
            if file == "wandb-history.jsonl":
                at = chunk["offset"]
                run.history[at : at + len(chunk["content"])] = chunk["content"]
            elif file == "wandb-summary.json":
                run.summary = json.loads(chunk["content"][-1])
        if message.get("complete"):
            run.exit_code = message.get("exitcode", 0)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WandbServer

    def log_message(self, *arguments: Any) -> None:
        pass

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        question = json.loads(body) if self.path == "/graphql" else {}
        operation = self.path.rsplit("/", 1)[-1]
        if question:
            operation = re.search(r"(?:query|mutation)\s+(\w+)", question["query"]).group(1)
        self.server.asked.append(operation)
        failure = self.server.failure(operation)
        if failure == "hang":
            self.server.open.wait()
        elif failure == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        elif failure:
            self._reply(int(failure), {"errors": [{"message": MESSAGES.get(int(failure), "spoiled")}]})
        elif question:
            self._reply(200, {"data": self.server.answer(operation, question.get("variables") or {})})
        else:
            if operation == "file_stream":
                self.server.stream(self.path.split("/")[-2], json.loads(body))
            else:
                self.server.files[self.path] = body
            self._reply(200, {"limits": {}})

    def _reply(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = _serve


def _matches(filters: dict[str, Any], node: dict[str, Any]) -> bool:
    """MongoDB's language, as far as filters use it here."""
    for key, wanted in filters.items():
        if key in ("$and", "$or"):
            if not (all if key == "$and" else any)(_matches(part, node) for part in wanted):
                return False
        else:
            value = node.get(key)
            allowed = wanted["$in"] if isinstance(wanted, dict) and "$in" in wanted else [wanted]
            if isinstance(wanted, dict) and "$eq" in wanted:
                allowed = [wanted["$eq"]]
            if value not in allowed and not (isinstance(value, list) and set(value) & set(allowed)):
                return False
    return True


@contextmanager
def wandb_server() -> Iterator[WandbServer]:
    """A running server; lets go of whoever hangs at the end."""
    server = WandbServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.open.set()
        server.shutdown()
        server.server_close()


def give_account(patch: pytest.MonkeyPatch, server: WandbServer, home: Path) -> None:
    """A user with a key for the server, and nothing else of W&B's."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        patch.delenv(name)
    settings = {"BASE_URL": server.url, "API_KEY": KEY, "SILENT": "true", "ERROR_REPORTING": "false"}
    for name, value in settings.items():
        patch.setenv(f"WANDB_{name}", value)
    patch.setenv("HOME", str(home))
