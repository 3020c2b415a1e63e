#!/usr/bin/env bash
# Writes requirements/{build,lock,demo,typing}.txt from the ranges in setup.cfg: one lock for every Python
# from 3.11 on and every platform, with hashes and without the address of any index. Pins that
# still fit are kept; give --upgrade to move them. Needs uv (pip install uv).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

compile() { # OUTPUT ARGUMENT...
  local output=$1
  shift
  uv pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes \
    --no-emit-index-url --custom-compile-command tools/lock.sh --output-file "$output" "$@"
}

listed() { # SECTION KEY: the requirements that stand there
  python3 - "$1" "$2" <<'PY'
import configparser
import sys

section, key = sys.argv[1:]
if section == "build-system":
    import tomllib

    print("\n".join(tomllib.load(open("pyproject.toml", "rb"))[section][key]))
else:
    config = configparser.ConfigParser()
    config.read("setup.cfg")
    print(config[section][key])
PY
}

listed build-system requires | compile requirements/build.txt "$@" -
listed options.extras_require demo | compile requirements/demo.txt --no-deps "$@" -
listed options.extras_require typing | compile requirements/typing.txt "$@" -
compile requirements/lock.txt --extra dev "$@" setup.cfg
