#!/usr/bin/env bash
# Run all linters and tests. Installs missing packages into .venv first and, as root on Debian or Ubuntu, chromium
# (elsewhere install it, or google-chrome, by hand).
#
# Usage:    bash test/run.sh [PYTEST ARGUMENT...]
# Example:  bash test/run.sh                          everything, about 10 minutes on two cores
#           bash test/run.sh test/test_host.py -x     linters, then one file
#           bash test/run.sh test/test_faults.py --kills 40     the full fault injection, about 10 minutes
#           bash test/run.sh test/test_soak.py --soak 20000     the full soak, about 10 minutes and 25 GB
#           bash test/run.sh --setup                  only .venv, for test/bench/run.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
suite=$PWD

source tools/venv.sh
make_venv test-requirements.txt "about 6 GB" requirements.txt test/requirements.txt
cp requirements.txt .venv/requirements.txt # run_all.sh has nothing left to install
[[ ${1:-} != --setup ]] || exit 0
if ((EUID == 0)) && ! command -v chromium >/dev/null && command -v apt-get >/dev/null; then
  echo "test/run.sh: installing chromium, in which the tests look at report.html" >&2
  { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends chromium; } >&2
fi
PATH=$PWD/.venv/bin:$PATH
export TMPDIR=$PWD/work/tmp # nothing is written outside this folder
mkdir -p "$TMPDIR"
# as in run_all.sh: several tests at a time share the cores, and torch keeps its memory
export OMP_WAIT_POLICY=passive OPENBLAS_NUM_THREADS=1 MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=$((1 << 40))

unset PYTHONDONTWRITEBYTECODE # or each of some thousand processes compiles the suite's modules for itself
python3 -m compileall -q common host test tools

ruff check .
vermin --violations --no-tips --target=3.7- ./*.py common/*.py tools/*.py host/{contract,om}.py # what runs on an NPU host
shellcheck --external-sources run_all.sh env.sh test/run.sh test/bench/run.sh .ci/run
mount=:
if ((!$#)); then # files with long tests first, so that no core waits for one; commands needs what default_job makes
  first=(test/test_{default_job,faults,run_all_cann,commands,torchrun,old_python,original_client,checkpoints,report}.py
    test/test_{study,hostile,xception_pth2onnx,infer,precision,host,ais_bench,fuzz,aipp,img_preprocess}.py)
  mapfile -t files < <(printf '%s\n' "${first[@]}" test/test_*.py | awk '!seen[$0]++')
  set -- -n 2 --dist loadfile --no-loadscope-reorder --durations=20 "${files[@]}"
  # where there is room, temporary files are in memory: a network is written there in a fifth of the time
  (($(awk '/^MemAvailable:/ { print int($2 / 1048576) }' /proc/meminfo) < 16)) ||
    mount="mount -t tmpfs -o size=10G tmpfs \"\$TMPDIR\""
fi
# a separate mount namespace, for that and for small disks that run full (test_faults.py)
namespace=(unshare --mount)
((EUID == 0)) || namespace+=(--map-root-user)
"${namespace[@]}" bash -c "$mount; exec \"\$@\"" run.sh \
  pytest -q -p no:cacheprovider -o testpaths=test -o tmp_path_retention_policy=failed "$@"
