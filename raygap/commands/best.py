"""Print the best configuration of a sweep, or of all methods of a comparison, as launch/train.py --config takes it.

python launch/best.py runs/demo-gmm_scores-20260101-120000
python launch/best.py runs/compare-demo-20260101-120000
python launch/best.py my-team/raygap/demo-gmm_scores-20260101-120000-1a2b3c4d --top 3
python launch/best.py https://wandb.ai/my-team/raygap/reports/... | python launch/train.py --dataset demo --config -
"""

import json
from typing import Annotated

import typer
import yaml

from raygap.called import command
from raygap.commands.options import SEARCH
from raygap.ending import user_errors
from raygap.schema import to_mapping


@user_errors()
def main(
    source: Annotated[
        str,
        typer.Argument(
            help="A run folder, or a comparison's; a W&B report's URL, entity/project or entity/project/group, or its "
            "offline files."
        ),
    ],
    top: Annotated[int, typer.Option(min=1, help="How many configurations, best first.", rich_help_panel=SEARCH)] = 1,
    metric: Annotated[
        str | None,
        typer.Option(
            help="What is best, at the selected epoch: the highest, or of losses and gaps the lowest.",
            show_default="what the sweep judged on",
            rich_help_panel=SEARCH,
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="JSON, with the value of the metric.", rich_help_panel=SEARCH)
    ] = False,
) -> None:
    """Print the best configuration of a sweep, or of all methods of a comparison."""
    from raygap.tracking.best_sources import find_best, methods_compared

    found = find_best(source, top, metric)
    if as_json:
        entries = [
            {"metric": one.metric, "value": one.value, "where": one.where, "config": to_mapping(one.config)}
            for one in found
        ]
        print(json.dumps(entries, indent=1))
        return
    if methods := methods_compared(source):
        names = ", ".join(folder.name for folder in methods)
        print(f"# chosen on VALIDATION, of {names}; of one method alone: {command('best', str(methods[0]))}")
    for one in found:
        value = "" if one.value is None else f": {one.metric} {one.value:.4f}"
        paper = "; PAPER PROTOCOL, chosen on TEST" if one.config.protocol == "paper" else ""
        print("---\n" * (len(found) > 1) + f"# {one.where}{value}{paper}")
        print(yaml.safe_dump(to_mapping(one.config), sort_keys=False), end="")
