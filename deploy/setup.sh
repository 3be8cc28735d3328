#!/usr/bin/env bash
# Makes .venv from the lock, and builds the page: `deploy/setup.sh cpu|gpu`. Does nothing, and needs
# no network, when both were made from this very lock and these very sources.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

kind=$1
lock=deploy/requirements-$kind.txt
torch_index=${TORCH_INDEX:?the Makefile names it}
stamp=.venv/tierserve-$kind-$(cat "$lock" pyproject.toml | sha256sum | cut -c1-16)

# The page of `/`, where npm's registry can be had; everything else works without it.
build_page() { .venv/bin/python deploy/build_page.py || true; }

[ -e "$stamp" ] && [ -x .venv/bin/python ] && { build_page; exit 0; }

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
total=$(grep -c == "$lock")
torch=$(grep -E '^torch==' "$lock")

failed() { tail -n 15 "$log" >&2; stop "$1 (all messages: $log)"; }

with_uv() {
    "${pip[@]}" --quiet "$(grep -E '^uv==' "$lock")" >>"$log" 2>&1 &&
        .venv/bin/python deploy/uv_install.py "$lock" "$log" "$torch_index"
}

with_pip() {
    if [[ $torch == *+cpu ]] && ! "${pip[@]}" --quiet "$torch" >>"$log" 2>&1; then
        echo "setup: $torch comes from $torch_index"
        "${pip[@]}" --quiet --index-url "$torch_index" "$torch" >>"$log" 2>&1 ||
            failed "$torch was found neither by pip as configured nor at $torch_index; name a mirror with TORCH_INDEX=."
    fi
    "${pip[@]}" --progress-bar off -r "$lock" 2>>"$log" | tee -a "$log" | count_packages ||
        failed "a package could not be installed; the same command goes on where it stopped."
    "${pip[@]}" --quiet --no-build-isolation --editable . >>"$log" 2>&1 ||
        failed "this package itself could not be installed."
}

# One line that counts on a terminal, one line for every 20 packages elsewhere.
count_packages() {
    local n=0 word name
    while read -r word name _; do
        case $word in
            Collecting) n=$((n + 1)) ;;
            Requirement) n=$((n + 1)) name= ;;  # it is there already
            Installing) name="unpacking (the longest step)" ;;
            *) continue ;;
        esac
        if [ -t 1 ]; then printf '\rsetup: %3d of %d  %-50.50s' "$n" "$total" "$name"
        elif [ "$word" = Installing ]; then echo "setup: $name"
        elif [ $((n % 20)) = 0 ]; then echo "setup: $n of $total packages"; fi
    done
    if [ -t 1 ]; then echo; fi
}

echo "setup: installing $total packages of $lock (one to 10 minutes the first time, about 4 GB)"
with_uv || {
    [ $? = 130 ] && exit 130
    echo "setup: uv could not install them ($log says why), so pip does"
    with_pip
}
rm -f .venv/tierserve-*
touch "$stamp"
build_page
echo "setup: done in $((SECONDS - began)) s"
