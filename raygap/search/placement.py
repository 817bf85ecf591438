"""How many trials fit at a time, why one was given up, and giving places in the cluster back."""

import math
import os
import signal
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
import torch
from joblib import cpu_count
from ray import cloudpickle
from ray._private.state import state as cluster_state
from ray._raylet import ActorID, PlacementGroupID
from ray.core.generated.gcs_pb2 import PlacementGroupTableData  # type: ignore[attr-defined]  # made on import
from ray.tune import Callback, TuneError
from ray.util.placement_group import PlacementGroup, remove_placement_group

from raygap.config import TrialConfig
from raygap.errors import UserError, first_line
from raygap.search.lent_keys import keep_from_runtime_environments, lend_keys
from raygap.search.ray_start import start_ray

if TYPE_CHECKING:
    from ray.tune import Tuner
    from ray.tune.experiment import Trial

RETRIES = 2
"""Times in a row that a trial whose processes died is started again; it goes on from its last epoch."""


def nodes() -> list[dict[str, float]]:
    """CPU and GPU of each machine of the cluster that RAY_ADDRESS names, or, before Ray runs, of this one."""
    if os.environ.get("RAY_ADDRESS"):
        start_ray()
    if ray.is_initialized():
        return [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [{"CPU": cpu_count(), "GPU": torch.cuda.device_count()}]


def default_share(threads: int) -> tuple[int, dict[str, float]]:
    """Trials at a time, and what each asks for: a GPU and the CPUs that go with it, or, without GPUs, `threads` CPUs.

    So machines of any size are all used, and no two trials share a GPU while another is idle.
    """
    if with_gpu := [node for node in nodes() if node.get("GPU")]:
        cpus = min(node.get("CPU", 0) / node["GPU"] for node in with_gpu)
        return sum(int(node["GPU"]) for node in with_gpu), {"CPU": max(_floor(cpus), 0.001), "GPU": 1}
    if places := _cpu_places(threads):
        return places, {"CPU": threads}
    return 1, trial_resources(1)


def _cpu_places(threads: int) -> int:
    """Processes of so many CPUs that find room on the machines."""
    return sum(int(node.get("CPU", 0)) // threads for node in nodes())


def trial_resources(concurrency: int) -> dict[str, float]:
    """What each of `concurrency` trials asks for: an equal share of one machine.

    Only machines with GPUs count where there are any. So a trial always fits somewhere, and on a single machine no
    more than `concurrency` run at once. Raises UserError if there is no place at all.
    """
    with_gpu = [node for node in nodes() if node.get("GPU")]
    pool = with_gpu or [node for node in nodes() if node.get("CPU")]
    if not pool:
        raise UserError("the cluster has neither CPUs nor GPUs; wait until its machines are there, and start again")
    slots = math.ceil(concurrency / len(pool))
    share = {"CPU": max(_floor(min(node.get("CPU", 0) for node in pool) / slots), 0.001)}
    if with_gpu:
        gpus = min(node["GPU"] for node in pool)
        # Ray gives out whole GPUs, or a fraction of one.
        share["GPU"] = gpus // slots if gpus >= slots else _floor(gpus / slots)
    return share


def _floor(amount: float) -> float:
    """To 3 decimals, which Ray can tell apart."""
    return math.floor(amount * 1000) / 1000


@dataclass(frozen=True)
class Placement:
    """How trials share the cluster: `at_once` of them, each of `workers` processes that ask for `each`."""

    at_once: int
    workers: int
    each: dict[str, float]
    """CPU and, where there are GPUs, GPU of one process."""


def place(
    config: TrialConfig, concurrency: int | None = None, cpus: float | None = None, gpus: float | None = None
) -> Placement:
    """As many trials at a time as fit, or `concurrency` of them; `cpus` and `gpus` are those of one worker.

    A trial of one worker that asks for nothing special gets a place of default_share, or, with `concurrency`, an equal
    share of a machine (trial_resources). Otherwise a worker gets compute.threads CPUs and, where there are GPUs, one of
    them; workers of a trial may sit on several machines. All workers ask for the same, so trials that are let in can
    never wait for each other's places.

    Raises UserError if not one trial fits, if `concurrency` of them do not, or for what needs GPUs without any.
    """
    workers, threads = config.compute.workers, config.compute.threads
    needs_gpus({"model.norm": [config.model.norm], "compute.precision": [config.compute.precision]})
    if workers == 1 and cpus is None and gpus is None:
        at_once, share = (concurrency, trial_resources(concurrency)) if concurrency else default_share(threads)
        return Placement(at_once, 1, share)
    with_gpu = any(node.get("GPU") for node in nodes())
    each = {"CPU": threads if cpus is None else cpus, "GPU": float(with_gpu) if gpus is None else gpus}
    each = {name: amount for name, amount in each.items() if amount}
    if each.get("GPU", 0) > 1 and each["GPU"] % 1:
        raise UserError(f"--gpus-per-worker {gpus}: expected whole GPUs, or a part of one")
    places = sum(min(_times(node, name, amount) for name, amount in each.items()) for node in nodes())
    fit = places // workers
    if (concurrency or 1) > fit:
        asked = " and ".join(f"{amount:g} {name}" for name, amount in each.items())
        trials = f"{concurrency} trials" if concurrency else "a trial"
        raise UserError(
            f"{trials} of {workers} workers with {asked} each: the cluster has places for {places} such workers; ask "
            "for less with --concurrency, --workers-per-trial, --cpus-per-worker or --gpus-per-worker"
        )
    return Placement(concurrency or fit, workers, each)


def in_words(placement: Placement, threads: int, concurrency: int | None = None) -> list[str]:
    """How many trials run at a time, what each gets, and what keeps more from running.

    `threads` is compute.threads, `concurrency` what was asked for, if anything.
    """
    cpus, gpus = (sum(node.get(name, 0) for node in nodes()) for name in ("CPU", "GPU"))
    machines = "this machine" if len(nodes()) == 1 else f"{len(nodes())} machines"
    share = " and ".join(_count(amount, name) for name, amount in placement.each.items())
    gpu, busy = placement.each.get("GPU", 0), placement.at_once * placement.workers * threads
    why = "as asked for" if concurrency else "one a GPU" if gpu == 1 and placement.workers == 1 else "as many as fit"
    who = "each" if placement.workers == 1 else f"each of the {placement.workers} workers of a trial"
    lines = [
        f"{placement.at_once} at a time, {why}; {machines} with {_count(cpus, 'CPU')} and {_count(gpus, 'GPU')}",
        f"{who} gets {share}, and computes with {_count(threads, 'thread')} on the CPU",
    ]
    if gpu >= 1:
        lines.append("the GPUs limit it; --gpus-per-worker 0.5 puts two workers on each, if its memory holds them")
    elif gpu:
        lines.append(f"{int(1 / gpu + 1e-6)} workers share a GPU and its memory")
    if busy > cpus:
        lines.append(f"{busy} threads on {_count(cpus, 'CPU')} slow each other down; run fewer trials at a time")
    elif not gpu and cpus - busy >= 1:
        processes = placement.at_once * placement.workers
        more = max((t for t in range(threads, int(cpus) + 1) if _cpu_places(t) >= processes), default=threads)
        use = f"; compute.threads={more} would use more" if more > threads else ""
        lines.append(f"{cpus - busy:g} of {_count(cpus, 'CPU')} idle{use}")
    elif not gpu:
        lines.append("the CPUs limit it; none is idle")
    return lines


def _count(number: float, what: str) -> str:
    return f"{number:g} {what}{'' if 0 < number <= 1 else 's'}"


NEED_GPUS = {
    "model.norm": ("sync_batch", "set model.norm=group or model.norm=batch"),
    "compute.precision": ("fp16", "set compute.precision=bf16"),
}
"""Values of fields that need GPUs, and what mends it where there are none."""


def needs_gpus(values: Mapping[str, Iterable[str]]) -> None:
    """Raise UserError if one of these fields may have a value that needs GPUs, and the cluster has none."""
    for field, (value, mend) in NEED_GPUS.items():
        if value in values[field] and not any(node.get("GPU") for node in nodes()):
            raise UserError(f"{field}={value} needs GPUs, and there are none; {mend}")


def _times(node: dict[str, float], name: str, amount: float) -> int:
    """How many workers find `amount` of a resource on a machine; a part of a GPU never lies on two of them."""
    there = node.get(name, 0)
    if name == "GPU" and amount < 1:
        return int(there) * int(1 / amount + 1e-6)
    return int(there / amount + 1e-6)


LOW_MEMORY = "running low on memory"
"""What Ray says of a process that its memory monitor has killed."""


class CountTriesAnew(Callback):
    """Gives a trial all its tries back when it has finished another epoch: machines may come and go, errors stay."""

    def __init__(self) -> None:
        self.reached: dict[str, int] = {}

    def on_trial_result(self, iteration: int, trials: list["Trial"], trial: "Trial", result: dict, **info: Any) -> None:
        """An epoch ended, or is told once more after a restart."""
        if result["epoch"] > self.reached.get(trial.trial_id, 0):
            self.reached[trial.trial_id] = result["epoch"]
            trial.run_metadata.num_failures = 0


def why_given_up(trial: "Trial") -> str:
    """What ended the last try of a trial of Tune's, in a line, and where all of it stands."""
    # Both of Tune's own part of the trial: in the run folder, where get_pickled_error looks, they come late.
    text, pickled = (Path(file) if file else None for file in (trial.error_file, trial.pickled_error_file))
    error = cloudpickle.loads(pickled.read_bytes()) if pickled and pickled.exists() else None
    cause = getattr(error, "cause", None)
    causes = list(getattr(cause, "worker_failures", {0: cause}).values())
    # Tune pickles no such error.
    if text and text.exists() and LOW_MEMORY in text.read_text().rpartition("Failure # ")[2]:
        said = (
            f"its processes died {RETRIES + 1} times, killed by Ray since the machine ran out of memory; run fewer at "
            "a time with --concurrency, or set a smaller optimizer.batch_size"
        )
    elif getattr(error, "actor_init_failed", False):  # Ray keeps no more than the text of the traceback
        last = str(error).rpartition("\n  File ")[2].splitlines()
        said = next((line for line in last[1:] if not line.startswith(" ")), last[0])
    elif any(cause is None or type(cause).__module__.startswith("ray.") for cause in causes):
        said = f"its processes died {RETRIES + 1} times without finishing an epoch in between"
    else:
        said = f"{type(causes[0]).__name__}: {first_line(causes[0])}"
    return f"{said}; see {trial.path}/error.txt"


@contextmanager
def refusal_named() -> Iterator[None]:
    """Raise UserError if a run folder refuses to be read or written, for too long or for good."""
    try:
        yield
    except (TuneError, OSError) as error:
        if refused := _refusal(error):
            raise UserError(f"{refused}; mend that, and go on with --resume") from None
        raise


@refusal_named()
def fit(tuner: "Tuner", keys: bool = False) -> None:
    """Run a Tuner, and leave signal handlers and cluster as they were before, however it ends.

    `keys`: its trials need those of an object store.
    """
    keep_from_runtime_environments()
    if keys:
        lend_keys()
    # Tune leaves its handler behind, and the next Ctrl-C would do nothing.
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGUSR1)}
    try:
        tuner.fit()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        remove_orphans(of_living=True)


def _refusal(error: BaseException | None) -> OSError | None:
    while error and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error if isinstance(error, OSError) else None


def remove_orphans(of_living: bool = False) -> None:
    """Remove the placement groups that dead actors of this process' trials have left; with `of_living`, all of them.

    Ray Train's own cleaner learns of a group only when its workers run. A Train controller that is killed before then
    leaves its group to nobody, and the places in it to no trial, for as long as the sweep lasts.
    """
    job = ray.get_runtime_context().get_job_id()
    # The public table does not tell who made a group.
    for content in cluster_state._connect_and_get_accessor().get_placement_group_table():
        group = PlacementGroupTableData.FromString(content)
        made_by_actor = group.creator_actor_id and not ActorID(group.creator_actor_id).is_nil()
        if group.creator_job_id.hex() != job or not made_by_actor or group.state == PlacementGroupTableData.REMOVED:
            continue
        if group.creator_actor_dead or of_living:
            remove_placement_group(PlacementGroup(PlacementGroupID(group.placement_group_id)))
