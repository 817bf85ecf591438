"""Secrets in the environment of what is tested, and the search for them in everything that it wrote."""

import gzip
import secrets
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

NAMES = """
AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN AWS_SECURITY_TOKEN AWS_CONTAINER_AUTHORIZATION_TOKEN
AWS_BEARER_TOKEN_BEDROCK MINIO_ACCESS_KEY MINIO_SECRET_KEY MINIO_ROOT_PASSWORD B2_APPLICATION_KEY
RCLONE_CONFIG_S3_SECRET_ACCESS_KEY FSSPEC_S3_SECRET GOOGLE_API_KEY GOOGLE_CREDENTIALS CLOUDSDK_AUTH_ACCESS_TOKEN
AZURE_TENANT_ID AZURE_CLIENT_ID AZURE_CLIENT_SECRET AZURE_STORAGE_KEY AZURE_STORAGE_CONNECTION_STRING
AZURE_STORAGE_SAS_TOKEN WANDB_API_KEY HF_TOKEN HUGGING_FACE_HUB_TOKEN GITHUB_TOKEN GH_TOKEN GIT_PASSWORD CI_JOB_TOKEN
GITLAB_TOKEN SLURM_JWT RAY_REDIS_PASSWORD PGPASSWORD MYSQL_PWD KAGGLE_KEY MLFLOW_TRACKING_PASSWORD NETRC_PASSWORD
ANYSCALE_CLI_TOKEN OPENAI_API_KEY UV_INDEX_OWN_PASSWORD UV_PUBLISH_TOKEN TWINE_PASSWORD JUPYTER_TOKEN
"""
"""What Ray, boto, pyarrow, W&B, the hubs, git, Slurm and package tools take secrets from."""
ADDRESSES = {
    "HTTP_PROXY": "http://me:%s@127.0.0.1:9",
    "HTTPS_PROXY": "http://me:%s@127.0.0.1:9",
    "AWS_ENDPOINT_URL_STS": "http://me:%s@127.0.0.1:9",
    "AZURE_SAS_URL": "https://own.blob.core.windows.net/box?sig=%s",
    "DATABASE_URL": "postgres://me:%s@127.0.0.1:9/own",
    "SENTRY_DSN": "https://%s@127.0.0.1:9/1",
    "SLURM_SUBMIT_URL": "https://me:%s@127.0.0.1:9",
    "UV_DEFAULT_INDEX": "https://me:%s@127.0.0.1:9/simple",
    "WANDB_GIT_REMOTE_URL": "https://%s@127.0.0.1:9/own.git",
}
"""Addresses with a secret in them."""


def plant() -> tuple[dict[str, str], dict[str, str]]:
    """An environment full of secrets, and the secrets by variable."""
    planted = {name: secrets.token_hex(20) for name in [*NAMES.split(), *ADDRESSES]}
    environment = {name: ADDRESSES.get(name, "%s") % secret for name, secret in planted.items()}
    return environment | {"NO_PROXY": "*"}, planted


def leaks(planted: dict[str, str], *folders: Path, at_least: int) -> list[str]:
    """Which secret stands in which file, compressed or not; there must be so many files to have looked at."""
    found, seen = [], 0
    for file in (file for folder in folders for file in folder.rglob("*") if file.is_file()):
        seen += 1
        for content in _contents(file):
            found += [f"{name} in {file}" for name, secret in planted.items() if secret.encode() in content]
    assert seen >= at_least
    return found


def _contents(file: Path) -> Iterator[bytes]:
    content = file.read_bytes()
    yield content
    if content.startswith(b"\x1f\x8b"):
        yield gzip.decompress(content)
    elif content.startswith(b"\x28\xb5\x2f\xfd"):
        yield pa.CompressedInputStream(pa.BufferReader(content), "zstd").read()
    elif content.startswith(b"PAR1"):
        yield str(pq.read_table(file).to_pylist()).encode()
    elif zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            yield from (archive.read(name) for name in archive.namelist())
