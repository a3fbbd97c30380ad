#!/usr/bin/env bash
# Time each stage against what a user would otherwise run; makes .venv with what is missing first.
#
# Usage:    bash test/bench/run.sh [--rounds N] [STAGE...]
# Example:  bash test/bench/run.sh                all stages, about 40 minutes on two cores; writes RESULTS.md
#           bash test/bench/run.sh preprocess     one stage, printed only
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
bash test/run.sh --setup
exec .venv/bin/python3 test/bench/bench.py "$@"
