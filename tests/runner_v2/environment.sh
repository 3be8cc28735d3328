#!/usr/bin/env bash
# An environment in which vLLM's CPU build runs model runner V2: all of .venv, and before it Triton as
# the GPU lock has it, with a backend for CPUs that only says that there is one. .venv stays as it
# is. `tests/runner_v2/environment.sh FOLDER`; does nothing where it was made from these versions.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

folder=$1
here=tests/runner_v2
triton=$(grep -E '^triton==' deploy/requirements-gpu.txt)
stamp=$folder/made-$(cat deploy/requirements-*.txt "$here"/cpu_backend/*.py "$here"/environment.sh | sha256sum | cut -c1-16)
[ -e "$stamp" ] && exit 0

[[ -e .venv/bin/python ]] || { echo "runner-v2: no .venv: \`make setup\` makes it" >&2; exit 1; }
echo "runner-v2: making $folder of .venv and $triton, which is 200 MB (a minute)"
rm -rf "$folder"
.venv/bin/python -m venv --without-pip "$folder"
folder_of() { "$1" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }
packages=$(folder_of "$folder/bin/python")
# Behind its own packages, and with what .venv's own .pth files add.
printf 'import site; site.addsitedir("%s")\n' "$(folder_of .venv/bin/python)" >"$packages/tierserve-venv.pth"
# Through .venv's own pip, and so from where pip is configured to look.
.venv/bin/python -m pip --python "$folder/bin/python" --disable-pip-version-check --no-input --quiet \
    install --no-deps --ignore-installed "$triton"
cp -r "$here/cpu_backend" "$packages/triton/backends/cpu"
touch "$packages/triton/backends/cpu/__init__.py" "$stamp"
