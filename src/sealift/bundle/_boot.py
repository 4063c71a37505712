"""``boot.py``: the first measured code of an enclave process.

A host starts ``python -I -S -B -X pycache_prefix=… -u boot.py HOST PLATFORM
MEMORY`` with two inherited descriptors and the most bytes of address space (0:
no limit). That command line is a contract between releases: a host starts
bundles of the release before.
"""

#: The file, as it stands in every bundle that this release builds.
BOOT_SOURCE = b'''\
"""The first code of an enclave process; generated, measured, imports nothing else.

argv: host descriptor, platform descriptor, most bytes of address space (0: no
limit). Everything is imported from this folder and the standard library.
"""

import importlib
import json
import os
import resource
import sys

HOST, PLATFORM, MEMORY = (int(word) for word in sys.argv[1:4])
FOLDER = os.path.dirname(os.path.abspath(__file__))

if not (sys.flags.isolated and sys.flags.no_site and sys.flags.dont_write_bytecode):
    raise SystemExit("boot.py: start with -I -S -B")
if MEMORY:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))

sys.argv[:] = ["enclave"]
# The application comes last: it may not stand in for what guards it.
sys.path += [FOLDER, os.path.join(FOLDER, "site"), os.path.join(FOLDER, "app")]

with open(os.path.join(FOLDER, "manifest.json"), "rb") as file:
    MANIFEST = file.read()

module, _, attribute = json.loads(MANIFEST)["enclave_entry"].partition(":")
getattr(importlib.import_module(module), attribute)(HOST, PLATFORM, MANIFEST)
'''
