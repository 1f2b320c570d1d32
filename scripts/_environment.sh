# Sourced by the other scripts: makes .venv with everything the embedded server and the tests
# need, once, and activates it. TRT_TOKENIZERS_VENV names another folder, PYTHON an interpreter.
# With environment=vllm it is .venv-vllm, with vLLM on a CPU instead of the engine transformers.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
environment=${environment:-}
venv=${TRT_TOKENIZERS_VENV:-$root/.venv}${environment:+-$environment}
constraints=$root/scripts/constraints${environment:+-$environment}.txt

usable_python() {
  # Triton's Python stub loads the interpreter's shared library, so there has to be one. For 3.10
  # there is no transformers with what the engine needs.
  "$1" - 2>/dev/null <<'PY'
import os, sys, sysconfig
library = os.path.join(sysconfig.get_config_var("LIBDIR") or "", sysconfig.get_config_var("INSTSONAME") or "")
sys.exit(not ((3, 11) <= sys.version_info[:2] <= (3, 12) and ".so" in library and os.path.exists(library)))
PY
}

if [ ! -x "$venv/bin/python" ]; then
  for candidate in ${PYTHON:-python3 python3.12 python3.11}; do
    if usable_python "$candidate"; then python=$candidate; break; fi
  done
  if [ -z "${python:-}" ]; then
    echo "error: no Python 3.11 or 3.12 with a shared library (libpython3.X.so) found; install one" \
         "(Debian: apt install python3 python3-venv libpython3-dev), or name it: PYTHON=/path/to/python3.11" >&2
    exit 1
  fi
  echo "Making $venv with $("$python" --version)" >&2
  "$python" -m venv "$venv"
fi

stamp=$venv/.installed
wanted=$(cat "$root/pyproject.toml" "$constraints" "$root/scripts/oracles.txt" | cksum)
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
  echo "Installing trt-tokenizers, Triton's pip wheel, torch and ${environment:-transformers} into $venv" \
       "(1.5 GB, a minute or more)" >&2
  pip=("$venv/bin/python" -m pip install --quiet --disable-pip-version-check)
  if [ "$environment" = vllm ]; then
    "${pip[@]}" --no-deps -r "$constraints" >&2
    "${pip[@]}" -c "$constraints" -e "${root}[test]" >&2
  else
    "${pip[@]}" -c "$constraints" -e "${root}[embedded,test]" >&2
    "${pip[@]}" --no-deps -r "$root/scripts/oracles.txt" >&2
  fi
  echo "$wanted" > "$stamp"
fi
# shellcheck disable=SC1091
. "$venv/bin/activate"
