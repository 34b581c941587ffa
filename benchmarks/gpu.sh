#!/bin/sh
# All that only a GPU can show, on the GPUs of this machine: prints one table; the exit status is 0 if everything is as it should be, 1 if
# something is not, 2 if there is no GPU.
#
#     benchmarks/gpu.sh                         # all
#     benchmarks/gpu.sh --only kernels spectra  # some; --help lists them
#     PYTHON=python3 benchmarks/gpu.sh
cd "$(dirname "$0")/.." || exit 2
if [ -z "${PYTHON:-}" ]; then
    PYTHON=.venv/bin/python
    [ -x "$PYTHON" ] || PYTHON=python3
fi
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
exec "$PYTHON" benchmarks/gpu.py "$@"
