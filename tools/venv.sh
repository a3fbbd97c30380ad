# shellcheck shell=bash disable=SC2154 # suite, missing, npu_only, workdir and atc_engine are the caller's
# Make .venv, once for each state of the requirements files. Sourced by run_all.sh and test/run.sh, which set $suite.

make_venv() { # STAMP SIZE FILE...: install the FILEs into .venv unless .venv/STAMP says that it was done
  local venv=$suite/.venv stamp=$suite/.venv/$1 file files=() version
  if cat "${@:3}" | cmp -s - "$stamp"; then return; fi
  printf '%s: installing %s into %s: some minutes, %s\n' "${0##*/}" "${*:3}" "$venv" "$2" >&2
  [[ -x $venv/bin/python3 ]] || python3 -m venv ${system_packages:+--system-site-packages} "$venv" || {
    printf '%s: python3 -m venv failed; install it (Debian: python3-venv)\n' "${0##*/}" >&2
    return 4
  }
  for file in "${@:3}"; do files+=(-r "$file"); done
  "$venv/bin/python3" -m pip install --quiet --disable-pip-version-check "${files[@]}" >&2 || {
    version=$("$venv/bin/python3" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    printf '%s: pip could not install %s into %s\n' "${0##*/}" "${*:3}" "$venv" >&2
    printf 'Without network, run this on a machine with Python %s and %s:\n  %s\n' "$version" "$(uname -m)" \
      "python$version -m pip download -d wheels$(requirement_words "${@:3}")" >&2
    printf 'then copy the folder wheels here, and repeat the command after:\n  %s\n' \
      "export PIP_NO_INDEX=1 PIP_FIND_LINKS=$PWD/wheels" >&2
    return 4
  }
  cat "${@:3}" >"$stamp" # last, when everything is installed
}

requirement_words() { # FILE...: the requirements as words of a command
  sed -E '/^ *(#|$)/d; s/ *#.*//; s/ *$//; s/.*/'"'&'"'/' "$@" | tr '\n' ' ' | sed 's/^/ /; s/ $//'
}

packages() { # for run_all.sh: no .venv where python3 has what the run needs ($missing), unless there is one
  local system_packages='' file=$suite/requirements.txt size="about 6 GB" stamp=requirements.txt
  [[ -n $missing || -d $suite/.venv ]] || return 0
  # CANN's atc calls python3 too, and needs packages from the system
  [[ $atc_engine == host ]] || system_packages=yes
  if [[ -n $npu_only ]] && ! cmp -s "$file" "$suite/.venv/$stamp"; then # unless all are there
    stamp=npu-$stamp size="about 400 MB" file=$workdir/$stamp
    sed '/^$/,$d' "$suite/requirements.txt" >"$file"
  fi
  run make_venv "$stamp" "$size" "$file" || exit
  PATH=$suite/.venv/bin:$PATH
}
