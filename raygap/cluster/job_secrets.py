"""Environment variables that reach a job's driver unseen: not in its command, its runtime environment or its metadata.

Whatever a runtime environment holds can be read by everybody who may list jobs. So the variables lie in the cluster's
store for a moment, under a name that only the job is told, and the job takes them out before its command starts:

python -m raygap.cluster.job_secrets NAME COMMAND...
"""

import json
import os
import secrets
import sys
from typing import TYPE_CHECKING

from raygap.ending import user_errors
from raygap.errors import UserError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient


def leave(client: "JobSubmissionClient", variables: dict[str, str]) -> str:
    """Leave the variables in the cluster and return their name; unclaimed, the cluster drops them after 10 minutes.

    Raises UserError if the cluster does not take them.
    """
    name = f"raygap_{secrets.token_hex(16)}.zip"  # the cluster's package store takes archives' names only
    package = f"/api/packages/gcs/{name}"
    client._do_request("GET", package)  # asking for a package is what makes the cluster drop it in time
    answer = client._do_request("PUT", package, data=json.dumps(variables).encode())
    if answer.status_code != 200:
        raise UserError(f"--env: the cluster did not take the variables (HTTP {answer.status_code}); submit again")
    return name


def take(name: str) -> dict[str, str]:
    """Take the variables out of the cluster's store; only the first call gets them. Runs in the cluster."""
    from ray._raylet import GcsClient  # type: ignore[attr-defined]  # compiled

    store, key = GcsClient(address=os.environ["RAY_ADDRESS"]), f"gcs://{name}".encode()
    content = store.internal_kv_get(key, None)
    store.internal_kv_del(key, False, None)
    if content is None:
        raise UserError(
            "--env: the variables sent with this job are gone, as they are when a job starts 10 minutes after it was "
            "submitted; submit it again"
        )
    return json.loads(content)


@user_errors()
def main() -> None:
    """Become the command, with the variables in its environment."""
    name, *command = sys.argv[1:]
    os.environ |= take(name)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
