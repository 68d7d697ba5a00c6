#!/bin/sh
# Build .venv with everything millrace needs; does nothing if it is up to date. The Makefile calls it.
#
# PYTHON       Python interpreter (default: the first working 3.12 or 3.11)
# TORCH_INDEX  package index with CPU builds of torch, tried before PyTorch's own
set -eu
cd "$(dirname "$0")"
torch=2.13.0
venv=.venv
log=$venv/pip.log

works() { # supported version, and it runs: a pyenv shim may exist and fail, a Debian python may lack venv
    "$1" -c 'import sys, venv, ensurepip, ssl; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null
}

seen=""
python=""
for candidate in "${PYTHON:-}" python3 python3.12 python3.11 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.1[12]*/bin/python3; do
    [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 || continue
    if works "$candidate"; then
        python=$(command -v "$candidate")
        break
    fi
    version=$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || echo "does not run")
    seen="$seen $candidate ($version),"
done
if [ -z "$python" ]; then
    echo "setup: expected Python 3.11 or 3.12 with venv and ssl, got:${seen:- no Python,}" >&2
    echo "  fix: install one (Debian and Ubuntu: apt-get install python3-venv), or run PYTHON=/path/to/python3.12 make ..." >&2
    exit 1
fi

stamp=$({ cat pyproject.toml constraints.txt setup.sh; "$python" -c 'import sys; print(sys.version, sys.executable)'; } | sha256sum | cut -d ' ' -f 1)
[ "$(cat $venv/stamp 2>/dev/null)" = "$stamp" ] && exit 0

echo "setup: building $venv with $("$python" -V) ($python); takes a few minutes, once" >&2
if ! works $venv/bin/python || [ "$($venv/bin/python -c 'import sys; print(sys.version)')" != "$("$python" -c 'import sys; print(sys.version)')" ]; then
    rm -rf $venv
    "$python" -m venv $venv
fi
rm -f $venv/stamp
: >$log

pip() { $venv/bin/python -m pip --disable-pip-version-check "$@" >>$log 2>&1; }
failed() {
    echo "setup: pip could not install $1; end of $log:" >&2
    tail -n 15 $log >&2
    exit 1
}

have_torch() { $venv/bin/python -c "import torch, sys; sys.exit(torch.__version__.split('+')[0] != '$torch')" 2>/dev/null; }
if ! have_torch; then
    if command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi >/dev/null 2>&1; then
        echo "  torch $torch (NVIDIA GPU present: CUDA build, about 3 GB to download)" >&2
        pip install "torch==$torch" -c constraints.txt || failed torch
    else
        echo "  torch $torch (no NVIDIA GPU: CPU build)" >&2
        pip install "torch==$torch+cpu" -c constraints.txt ||
            { [ -n "${TORCH_INDEX:-}" ] && pip install "torch==$torch" -c constraints.txt --index-url "$TORCH_INDEX"; } ||
            pip install "torch==$torch" -c constraints.txt --timeout 10 --retries 1 --index-url https://download.pytorch.org/whl/cpu ||
            {
                echo "  no index with a CPU build of torch can be reached; installing the CUDA build, about 3 GB to download and 5.5 GB on disk" >&2
                echo "  fix: stop with Ctrl-C and set TORCH_INDEX to an index with CPU builds" >&2
                pip install "torch==$torch" -c constraints.txt || failed torch
            }
    fi
fi
echo "  all other packages" >&2
pip install -e '.[dev]' -c constraints.txt || failed "the packages of pyproject.toml"
echo "$stamp" >$venv/stamp
echo "setup: done" >&2
