"""Where a home's worker answers, and what it says of itself."""

from pathlib import Path
from typing import Final

import aiohttp
import msgspec

from sealift.client import WorkerAnswerError, Workers
from sealift.transport.files import read_or_explain
from sealift.worker import load_config

#: In a worker's home: where it answered when it last started.
URL_FILE: Final = "worker.url"


def worker_url(home: Path, url: str | None, *, required: bool = True) -> str:
    """Where the worker of a home answers.

    Raises:
        MissingFileError: It has never run here, and no URL is given.
    """
    if url:
        return url.rstrip("/")
    config = load_config(home)
    if config.api.port:
        return f"http://{config.api.host}:{config.api.port}"
    path = home / URL_FILE
    if not required and not path.is_file():
        return ""
    raw = read_or_explain(
        path,
        what="address of the running worker",
        hint="Is it running? `sealift worker run` starts it; or give --url",
    )
    return raw.decode(errors="replace").strip()


async def ask_status(url: str) -> dict[str, object]:
    """What a worker says of itself.

    Raises:
        WorkerUnreachableError: It does not answer.
        WorkerAnswerError: Not a status.
    """
    async with aiohttp.ClientSession() as http:
        raw = await Workers((url,), http).get(url, "/v1/status")
    try:
        return msgspec.json.decode(raw, type=dict[str, object])
    except (msgspec.MsgspecError, ValueError) as error:
        raise WorkerAnswerError("the worker's status cannot be read") from error
