#!/usr/bin/env bash
# Makes .venv with everything that rewarm, its tests and its benchmarks need, exactly as pinned (`make setup`).
# Needs Python >= 3.11 with its venv module. Repeating it costs a moment; an interrupted one is finished by the next.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Settings that say where packages come from stay; those that say what is installed, and where to, must not leak in.
for name in $(compgen -e | grep -E '^(PIP|UV)_' || true); do
  case "$name" in
    *_INDEX | *_INDEX_URL | UV_INDEX_* | *_FIND_LINKS | *_CACHE_DIR | *_CERT | *_PROXY | *_TIMEOUT | *_RETRIES) ;;
    *_TRUSTED_HOST | *_INSECURE_HOST | *_INSECURE_NO_ZIP_VALIDATION | *_NATIVE_TLS | *_SYSTEM_CERTS) ;;
    *_CONFIG_FILE | *_KEYRING_PROVIDER | *_OFFLINE | *_NO_INDEX | *_NO_INPUT | *_LINK_MODE | UV_CONCURRENT_*) ;;
    *) unset "$name" ;;
  esac
done
unset PYTHONHOME PYTHONPATH VIRTUAL_ENV CONDA_PREFIX __PYVENV_LAUNCHER__
export PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1

modern() { "$@" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

wanted_state() { # what must have been installed, and for which folder: console scripts hold its full path
  { pwd; cat requirements/setup.sh requirements/uv.txt requirements/all.txt pyproject.toml; } | .venv/bin/python -c \
    'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())'
}

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.14 python}; do
    if modern "$candidate"; then echo "$candidate"; return; fi
  done
  echo "make setup: found no ${PYTHON:-Python >= 3.11} that starts, expected Python >= 3.11;" \
    "install one, or name it: make setup PYTHON=/path/to/python3.12" >&2
  exit 1
}

stamp=.venv/.rewarm-setup
if modern .venv/bin/python; then
  if [ -x .venv/bin/rewarm ] && [ "$(cat "$stamp" 2>/dev/null)" = "$(wanted_state)" ]; then exit 0; fi
  .venv/bin/python -m pip --version >/dev/null 2>&1 || .venv/bin/python -m ensurepip >/dev/null
else
  python=$(find_python)
  if ! "$python" -m venv --clear .venv; then
    rm -rf .venv
    echo "make setup: $python cannot make a virtual environment; install its venv module" \
      "(Debian and Ubuntu: apt-get install python3-venv)" >&2
    exit 1
  fi
fi
rm -f "$stamp"

# uv reads none of pip's settings: hand over those that say where packages come from.
pip_setting() { .venv/bin/python -m pip config get "global.$1" 2>/dev/null || true; }
hand_over() { # hand_over UV_NAME PIP_NAME pip-setting
  local value="${!2:-$(pip_setting "$3")}"
  if [ -z "${!1:-}" ] && [ -n "$value" ]; then export "$1=$value"; fi
}
if [ -z "${UV_INDEX_URL:-}" ]; then hand_over UV_DEFAULT_INDEX PIP_INDEX_URL index-url; fi
hand_over UV_EXTRA_INDEX_URL PIP_EXTRA_INDEX_URL extra-index-url
hand_over UV_INSECURE_HOST PIP_TRUSTED_HOST trusted-host
hand_over SSL_CERT_FILE PIP_CERT cert
hand_over ALL_PROXY PIP_PROXY proxy
links="${PIP_FIND_LINKS:-$(pip_setting find-links)}"
if [ -z "${UV_FIND_LINKS:-}" ] && [ -n "$links" ]; then
  UV_FIND_LINKS=$(echo $links | tr ' ' ',')
  export UV_FIND_LINKS
fi
export UV_HTTP_TIMEOUT="${UV_HTTP_TIMEOUT:-300}"

echo "setup: uv" >&2
.venv/bin/python -m pip install -q --require-hashes -r requirements/uv.txt
uv() { .venv/bin/uv pip install --python .venv/bin/python "$@"; }
echo "setup: packages (20 to 90 s the first time)" >&2
# Every file is pinned by hash, so any index that has it may serve it.
uv -q --index-strategy unsafe-best-match --require-hashes -r requirements/all.txt
uv -q --no-deps --no-build-isolation --reinstall-package rewarm -e .
wanted_state > "$stamp"
echo "setup: done; the command is .venv/bin/rewarm" >&2
