#!/bin/sh
# From a signed bundle to a folder that gramine-sgx starts; prints its fingerprint.
# Never run with Gramine on the maintainers' machines: see docs/real-hardware.md.
set -eu
if [ "$#" -lt 3 ]; then
    echo "usage: sign.sh BUNDLE VENDOR_KEY FOLDER [YYYY-MM-DD]" >&2
    exit 2
fi
bundle=$1
key=$(realpath "$2")
folder=$3
date=${4:-2026-01-01} # in the signature, not in the fingerprint

sealift gramine manifest "$bundle" -o "$folder"
cd "$folder"
gramine-manifest sealift.manifest.template sealift.manifest
gramine-sgx-sign --manifest sealift.manifest --output sealift.manifest.sgx \
    --key "$key" --date "$date"
sealift gramine fingerprint .
