#!/usr/bin/env bash
# Makes .venv from the lock: `deploy/setup.sh cpu|gpu`. Does nothing, and needs no network, when the
# environment was made from this very lock.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

kind=$1
lock=deploy/requirements-$kind.txt
torch_index=${TORCH_INDEX:?the Makefile names it}
stamp=.venv/tierserve-$kind-$(cat "$lock" pyproject.toml | sha256sum | cut -c1-16)

[ -e "$stamp" ] && [ -x .venv/bin/python ] && exit 0

stop() { printf 'setup: %s\n' "$1" >&2; exit 1; }

[ "$(uname -sm)" = "Linux x86_64" ] || stop "this needs Linux on x86-64 (vLLM's wheels and Ray's HAProxy are built for it), here is $(uname -sm)."
fits() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))' 2>/dev/null; }
python=${PYTHON:-}
if [ -z "$python" ]; then
    for python in python3 python3.14 python3.13 python3.12 python3.11; do fits "$python" && break; done
fi
command -v "$python" >/dev/null || stop "no '$python' found: install Python 3.11 to 3.14, or say which with PYTHON=."
fits "$python" || stop "'$python' is $("$python" --version 2>&1): Python 3.11 to 3.14 is needed; say which with PYTHON=."
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
    stop "'$python' has no venv: install it (Debian and Ubuntu: apt install python3-venv)."
[ "$kind" = gpu ] || "$python" -c 'import ctypes; ctypes.CDLL("libnuma.so.1")' 2>/dev/null ||
    stop "libnuma is missing, which vLLM's CPU build needs (Debian and Ubuntu: apt install libnuma1)."

began=$SECONDS
# The CPU and the GPU build of vLLM own the same files: an environment of the other kind starts anew.
if compgen -G '.venv/tierserve-*' >/dev/null && ! compgen -G ".venv/tierserve-$kind-*" >/dev/null; then
    echo "setup: .venv was made for another kind of machine, making it anew"
    rm -rf .venv
fi
if [ ! -x .venv/bin/pip ]; then
    echo "setup: making .venv with $("$python" --version)"
    "$python" -m venv --clear .venv
fi
log=.venv/setup.log
pip=(.venv/bin/python -m pip --disable-pip-version-check --no-input install --no-deps --retries 2)
: >"$log"

failed() { tail -n 15 "$log" >&2; stop "$1 (all of pip's messages: $log)"; }

# One line that counts on a terminal, one line for every 20 packages elsewhere.
count_packages() {
    local n=0 word name
    while read -r word name _; do
        [ "$word" = Collecting ] || [ "$word" = Installing ] || continue
        [ "$word" = Installing ] && name="unpacking (the longest step)" || n=$((n + 1))
        if [ -t 1 ]; then printf '\rsetup: %3d of %d  %-50.50s' "$n" "$total" "$name"
        elif [ $((n % 20)) = 0 ]; then echo "setup: $n of $total packages"; fi
    done
    if [ -t 1 ]; then echo; fi
}

total=$(grep -c == "$lock")
torch=$(grep -E '^torch==' "$lock")
echo "setup: installing $total packages of $lock (2 to 10 minutes the first time, about 4 GB)"
# torch's CPU build is on no package index but PyTorch's own, unless pip is configured to find it.
if [[ $torch == *+cpu ]] && ! "${pip[@]}" --quiet "$torch" >>"$log" 2>&1; then
    echo "setup: $torch comes from $torch_index"
    "${pip[@]}" --quiet --index-url "$torch_index" "$torch" >>"$log" 2>&1 ||
        failed "$torch was found neither by pip as configured nor at $torch_index; name a mirror with TORCH_INDEX=."
fi
# The lock is complete, so nothing else is pulled in: that is what keeps the excluded packages out.
"${pip[@]}" --progress-bar off -r "$lock" 2>>"$log" | count_packages ||
    failed "a package could not be installed; the same command goes on where it stopped."
"${pip[@]}" --quiet --no-build-isolation --editable . >>"$log" 2>&1 ||
    failed "this package itself could not be installed."
rm -f .venv/tierserve-*
touch "$stamp"
echo "setup: done in $((SECONDS - began)) s"
