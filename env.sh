# shellcheck shell=bash
# Put atc and benchmark.$(uname -m) on PATH: CANN's where it is installed, otherwise the CPU stand-ins in host/.
#
# Usage:    source env.sh        (only exports variables; works under `set -u`; may be sourced repeatedly)
# Example:  source env.sh
#           env.sh: no CANN found: atc and benchmark are the CPU stand-ins in ./host
#
# Exports:  PATH (.venv/bin first, if it exists), ATC_ENGINE (cann or host), the variables of CANN.
# Reads:    ASCEND_INSTALL_PATH, the location of CANN if it is neither /usr/local/Ascend nor ~/Ascend.
#
# The guide's ./benchmark.$(uname -m) works with CANN's binary next to the scripts. The stand-in is on PATH only, and
# ./benchmark.$(uname -m) does not exist unless you create it: ln -s host/benchmark.$(uname -m) .

_suite=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]:-$0}")" && pwd -P)

_prepend() {  # VARIABLE FOLDER: put FOLDER first in a list such as PATH, once, without an empty entry
  local value=":${!1:-}:"
  value=${value//":$2:"/:} value=${value#:} value=${value%:}
  export "$1=$2${value:+:$value}"
}

_source_loosely() {  # FILE: CANN's set_env.sh reads unset variables, and may end with a failing test
  local strict=${-//[^u]/}
  set +u
  # shellcheck disable=SC1090
  source "$1" || true
  [[ -z $strict ]] || set -u
}

_cann_of_5_0_1() {  # FOLDER: what the guide of CANN 5.0.1 exports by hand; later releases have set_env.sh
  [[ ! -d /usr/local/python3.7.5/bin ]] || _prepend PATH /usr/local/python3.7.5/bin  # has the packages that atc needs
  _prepend PATH "$1/atc/ccec_compiler/bin"
  _prepend PATH "$1/atc/bin"
  _prepend PYTHONPATH "$1/atc/python/site-packages"
  _prepend LD_LIBRARY_PATH "$1/acllib/lib64"
  _prepend LD_LIBRARY_PATH "$1/atc/lib64"
  export ASCEND_OPP_PATH=$1/opp ASCEND_AICPU_PATH=$1
}

_choose() {
  local atc toolkit
  atc=$(command -v atc || true)
  if [[ -n $atc && ! -f ${atc%/*}/om.py ]]; then  # om.py is next to the stand-in, in any checkout
    ATC_ENGINE=cann _chosen="CANN is on PATH already ($atc)"
    return
  fi
  for toolkit in "${ASCEND_INSTALL_PATH:-/usr/local/Ascend}"/ascend-toolkit "${HOME:-/root}"/Ascend/ascend-toolkit; do
    if [[ -f $toolkit/set_env.sh ]]; then
      _source_loosely "$toolkit/set_env.sh"
      ATC_ENGINE=cann _chosen="CANN from $toolkit/set_env.sh"
      command -v atc >/dev/null || _chosen+=", but that puts no atc on PATH"
      return
    elif [[ -x $toolkit/latest/atc/bin/atc ]]; then
      _cann_of_5_0_1 "$toolkit/latest"
      ATC_ENGINE=cann _chosen="CANN from $toolkit/latest (5.0.1 layout)"
      return
    fi
  done
  _prepend PATH "$_suite/host"
  ATC_ENGINE=host _chosen="no CANN found: atc and benchmark are the CPU stand-ins in $_suite/host"
}

_choose
# CANN's benchmark is a separate download, placed next to the scripts; it cannot run an om of the stand-in.
[[ $ATC_ENGINE == host || ! -x $_suite/benchmark.$(uname -m) ]] || _prepend PATH "$_suite"
[[ ! -d $_suite/.venv/bin ]] || _prepend PATH "$_suite/.venv/bin"
# An empty entry, as "...:$PYTHONPATH" leaves at the end, is the current folder, whose modules Python would import.
if [[ -n ${PYTHONPATH:-} ]]; then
  PYTHONPATH=:$PYTHONPATH:
  while [[ $PYTHONPATH == *::* ]]; do PYTHONPATH=${PYTHONPATH//::/:}; done
  PYTHONPATH=${PYTHONPATH#:}
  export PYTHONPATH=${PYTHONPATH%:}
fi
export ATC_ENGINE
echo "env.sh: $_chosen" >&2
unset -f _prepend _source_loosely _cann_of_5_0_1 _choose
unset _suite _chosen
