#!/usr/bin/env bash
# Everything of the bench that needs a GPU, in one command of under 10 minutes: bash benchmarks/speed/gpu.sh
# PYTHON: an interpreter with torch, transformers and rewarm's other dependencies (default: .venv/bin/python).
# STABILITY=1: then 30 minutes of training besides, which fails when the loss is not finite or memory grows.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
python="${PYTHON:-.venv/bin/python}"
if ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  echo "gpu.sh: torch sees no GPU here, expected one; run it where nvidia-smi lists a GPU" >&2
  exit 75
fi
"$python" benchmarks/speed/run.py gpu --size standard "$@"
if [ "${STABILITY:-0}" = 1 ]; then
  "$python" benchmarks/speed/stability.py --minutes 30
fi
