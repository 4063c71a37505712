"""The enclave process: a blocking loop over two descriptors (DESIGN §3).

``boot.py`` of every bundle calls :func:`main`. One frame from the host is
answered by one frame; in between the platform is asked on the other
descriptor, or, under Gramine, by its files. When the host closes its end, the
process ends.
"""

import importlib
import os
from typing import Final

from sealift.base import FrameReader, InvariantError, encode, frame
from sealift.bundle import parse_manifest
from sealift.crypto import sha256, system_entropy
from sealift.frame import Runtime
from sealift.protocol.ecall import MAX_FRAME_BYTES
from sealift.protocol.platform import MAX_PLATFORM_FRAME_BYTES

from ._enclave import Enclave
from ._errors import PlatformAnswerError
from ._gramine import GramineSgx
from ._platform import PlatformClient, PlatformPort

#: In place of a platform's descriptor: there is none, the platform is Gramine. Its
#: manifest has the whole command line in it, and is measured.
NO_PLATFORM: Final = -1
_READ_BYTES = 1024 * 1024
_STDOUT, _STDERR = 1, 2


class _Channel:
    """Frames over one blocking descriptor, or over one for each way."""

    def __init__(
        self, descriptor: int, *, limit: int, write_to: int | None = None
    ) -> None:
        self._descriptor = descriptor
        self._write_to = descriptor if write_to is None else write_to
        self._reader = FrameReader(limit=limit)
        self._whole: list[bytes] = []

    def read(self) -> bytes | None:
        """The next payload; ``None`` when the other end has closed."""
        while not self._whole:
            data = os.read(self._descriptor, _READ_BYTES)
            if not data:
                return None
            self._whole += self._reader.feed(data)
        return self._whole.pop(0)

    def write(self, payload: bytes) -> None:
        """Send one payload, all of it."""
        view = memoryview(frame(payload))
        while view:
            view = view[os.write(self._write_to, view) :]

    def exchange(self, payload: bytes) -> bytes:
        """Send one payload and wait for its answer.

        Raises:
            PlatformAnswerError: The other end has closed.
        """
        self.write(payload)
        answer = self.read()
        if answer is None:
            raise PlatformAnswerError("the platform is gone")
        return answer


def load_runtime(entry: str) -> Runtime:
    """The application's runtime, ``module:attribute``.

    Raises:
        InvariantError: The bundle names something else.
    """
    module, _, attribute = entry.partition(":")
    found = getattr(importlib.import_module(module), attribute)
    if not isinstance(found, Runtime):
        raise InvariantError(
            "the bundle's entry is no runtime", got=type(found).__name__
        )
    return found


def main(host: int, platform: int, manifest: bytes) -> None:
    """Serve one host until it closes its descriptor.

    Args:
        host: Descriptor of frames to and from the host; without a platform's
            descriptor, of frames from the host, and stdout is for those to it.
        platform: Descriptor of frames to and from the platform, or
            :data:`NO_PLATFORM` under Gramine.
        manifest: The bundle's manifest; measured.

    Raises:
        ManifestError: Not a manifest.
        InvariantError: The bundle's metadata is not of its runtime.
        PlatformRefusedError: There is no platform that attests.
    """
    if platform == NO_PLATFORM:
        serve_under_gramine(host, manifest, GramineSgx())
        return
    client = PlatformClient(_Channel(platform, limit=MAX_PLATFORM_FRAME_BYTES).exchange)
    _serve(_Channel(host, limit=MAX_FRAME_BYTES), manifest, client)


def serve_under_gramine(host: int, manifest: bytes, platform: PlatformPort) -> None:
    """Serve a host that has only the standard streams: all that Gramine hands on.

    What anything else prints goes to stderr from here on, so that no application
    can put a byte between two frames.

    Args:
        host: Descriptor of frames from the host.
        manifest: The bundle's manifest; measured.
        platform: Gramine's files.

    Raises:
        ManifestError: Not a manifest.
        InvariantError: The bundle's metadata is not of its runtime.
    """
    frames = os.dup(_STDOUT)
    os.dup2(_STDERR, _STDOUT)
    channel = _Channel(host, limit=MAX_FRAME_BYTES, write_to=frames)
    _serve(channel, manifest, platform)


def _serve(channel: _Channel, manifest: bytes, platform: PlatformPort) -> None:
    said = parse_manifest(manifest)
    runtime = load_runtime(said.entry)
    if sha256(encode(runtime.metadata())) != said.metadata_digest():
        raise InvariantError("the bundle's metadata is not of its runtime")
    enclave = Enclave(
        manifest=said, platform=platform, entropy=system_entropy, runtime=runtime
    )
    while (request := channel.read()) is not None:
        channel.write(enclave.handle(request))
