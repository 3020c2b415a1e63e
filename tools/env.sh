#!/usr/bin/env bash
# Runs a command in this repository's own Python environment, which it makes if need be:
#
#     tools/env.sh python -m unified_fm.main --config=configs/quickstart.py --workdir=runs/quickstart
#
# .venv holds the locked, hash-checked packages of requirements/ and this project (editable, with its
# script unified-fm). It is made anew when a lock file, setup.cfg, setup.py or the Python under it has
# changed; otherwise this costs under 0.1 s.
# Needs Python >= 3.11 and a package index. It reads:
#   UNIFIED_FM_PYTHON   the Python to build with (else the first fit one of python3, python3.12, ...)
#   UNIFIED_FM_DEMO=0   leave out the data packages of the demo corpus
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=$root/.venv
log=$root/.venv.log
locks=("$root/requirements/build.txt" "$root/requirements/lock.txt")
[ "${UNIFIED_FM_DEMO:-1}" = 0 ] || locks+=("$root/requirements/demo.txt")
stamped=("${locks[@]}" "$root/setup.cfg" "$root/setup.py")

say() { printf 'tools/env.sh: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

# What an environment's stamp must say: Python, locks, what this project brings (packages, script),
# and its place (it cannot be moved).
stamp() {
  "$1" -ISc 'import hashlib, pathlib, sys
stamped = b"".join(pathlib.Path(name).read_bytes() for name in sys.argv[2:])
print(sys.version.split()[0], hashlib.sha256(stamped).hexdigest(), sys.argv[1])' "$venv" "${stamped[@]}"
}

up_to_date() {
  local python wanted
  wanted=$(cat "$venv/stamp" 2>/dev/null) || return 1
  for python in "$venv/bin/python" ${UNIFIED_FM_PYTHON:+"$UNIFIED_FM_PYTHON"}; do
    [ "$(stamp "$python" 2>/dev/null)" = "$wanted" ] || return 1
  done
}

find_python() {
  local name found="" names=(python3 python3.12 python3.11 python3.13 python)
  [ -z "${UNIFIED_FM_PYTHON:-}" ] || names=("$UNIFIED_FM_PYTHON")
  for name in "${names[@]}"; do
    # A name may be a shim that answers for no version, so it has to run, not only to exist.
    version=$("$name" -Ic 'import sys; print(*sys.version_info[:3], sep=".")' 2>/dev/null) || continue
    if ! "$name" -Ic 'import sys; sys.exit(sys.version_info < (3, 11))'; then
      found+=" $name is $version;"
    elif ! "$name" -Ic 'import ensurepip, venv' 2>/dev/null; then
      found+=" $name ($version) lacks the venv module (Debian and Ubuntu: apt install python3-venv);"
    else
      python=$name
      return
    fi
  done
  found=${found:- none was found at all;}
  fail "needs Python 3.11 or newer, but:${found%;}. Install one, or name it in UNIFIED_FM_PYTHON."
}

# The lock outlives the little Python that takes it: it belongs to descriptor 9, which we keep.
take_turn() {
  exec 9>"$root/.venv.lock"
  "$python" -Ic 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)' 2>/dev/null && return
  say "waiting for another tools/env.sh that is installing"
  "$python" -Ic 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX)'
}

step() { # WHAT CMD...: what fails is named, with the end of what it said.
  local what=$1
  shift
  say "$what"
  "$@" >>"$log" 2>&1 && return
  tail -n 25 "$log" >&2
  fail "FAILED: $what. The whole output is in ${log##*/}; no environment was left behind."
}

install() { # A user's own pip settings may add indexes; the hashes decide what is accepted.
  env -u PIP_TARGET -u PIP_PREFIX -u PIP_CONSTRAINT -u PYTHONPATH -u PYTHONHOME PIP_USER=0 \
    "$venv/bin/python" -I -m pip --disable-pip-version-check install --no-input --progress-bar off "$@"
}

build() {
  local started=$SECONDS
  trap 'rm -rf "$venv"' EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  rm -rf "$venv"
  : >"$log"
  step "making .venv with Python $version" "$python" -m venv "$venv"
  step "installing the build tool" install --require-hashes -r "$root/requirements/build.txt"
  step "installing the locked packages (1.5 GB on disk; a minute or two)" \
    install --require-hashes --no-build-isolation --use-pep517 -r "$root/requirements/lock.txt"
  if [ "${UNIFIED_FM_DEMO:-1}" != 0 ]; then
    step "installing the demo data packages (58 MB; UNIFIED_FM_DEMO=0 leaves them out)" \
      install --require-hashes --no-deps --no-build-isolation --use-pep517 -r "$root/requirements/demo.txt"
  fi
  step "installing this project" install --no-deps --no-index --no-build-isolation -e "$root"
  stamp "$venv/bin/python" >"$venv/stamp.new"
  mv "$venv/stamp.new" "$venv/stamp" # last: an environment without a stamp counts as none
  trap - EXIT INT TERM HUP
  say "ready after $((SECONDS - started)) s"
}

[ $# -gt 0 ] || fail "usage: tools/env.sh COMMAND [ARGUMENT...]"
if ! up_to_date; then
  find_python
  take_turn
  up_to_date || build
  exec 9>&-
fi

export VIRTUAL_ENV=$venv PATH="$venv/bin:$PATH"
unset PYTHONHOME
exec "$@"
