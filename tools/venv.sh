# shellcheck shell=bash disable=SC2154 # suite, missing and atc_engine are the caller's
# Make .venv, once for each state of the requirements files. Sourced by run_all.sh and test/run.sh, which set $suite.

make_venv() { # STAMP SIZE FILE...: install the FILEs into .venv unless .venv/STAMP says that it was done
  local venv=$suite/.venv stamp=$suite/.venv/$1 file files=()
  if cat "${@:3}" | cmp -s - "$stamp"; then return; fi
  printf '%s: installing %s into %s: some minutes, %s\n' "${0##*/}" "${*:3}" "$venv" "$2" >&2
  [[ -x $venv/bin/python3 ]] || python3 -m venv ${system_packages:+--system-site-packages} "$venv" || {
    printf '%s: python3 -m venv failed; install it (Debian: python3-venv)\n' "${0##*/}" >&2
    return 4
  }
  for file in "${@:3}"; do files+=(-r "$file"); done
  "$venv/bin/python3" -m pip install --quiet "${files[@]}" >&2 || {
    printf '%s: pip could not install %s into %s; without network see docs/troubleshooting.md\n' "${0##*/}" "${*:3}" "$venv" >&2
    return 4
  }
  cat "${@:3}" >"$stamp" # last, when everything is installed
}

packages() { # for run_all.sh: no .venv where python3 has what the run needs ($missing), unless there is one
  local system_packages=''
  [[ -n $missing || -d $suite/.venv ]] || return 0
  # CANN's atc calls python3 too, and needs packages from the system
  [[ $atc_engine == host ]] || system_packages=yes
  run make_venv requirements.txt "about 6 GB" "$suite/requirements.txt" || exit
  PATH=$suite/.venv/bin:$PATH
}
