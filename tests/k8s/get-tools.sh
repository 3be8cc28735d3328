#!/usr/bin/env bash
# What `make test-k8s` needs beside the environment: programs for the Pods by hand, installed where
# that takes no more than apt-get and root; and into .cache checkov, whose pinned dependencies keep it
# in an environment of its own, KubeRay's CRDs, and Grafana's schema of a dashboard. What cannot be had
# is named; the tests that need it are skipped, and the suite's last line counts them.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

# Programs that tests start, and Debian's packages with them.
declare -A package=([redis-server]=redis-server [nginx]=nginx-light [ip]=iproute2 [nsenter]=util-linux
    [unshare]=util-linux [setpriv]=util-linux [wget]=wget)
lacking() { for program in "${!package[@]}"; do command -v "$program" >/dev/null || echo "${package[$program]}"; done | sort -u; }

# Debian starts what it installs: a redis-server and an nginx on this machine's ports, which nobody
# asked for.
install_unstarted() {
    local policy=/usr/sbin/policy-rc.d made=
    if [ ! -e $policy ]; then printf '#!/bin/sh\nexit 101\n' >$policy && chmod +x $policy && made=1; fi
    { apt-get -qq update && DEBIAN_FRONTEND=noninteractive \
        apt-get -qq install --yes --no-install-recommends "$@"; } >/dev/null 2>&1
    [ -z "$made" ] || rm -f $policy
}

mapfile -t packages < <(lacking)
if [ "${#packages[@]}" -gt 0 ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "test-k8s: installing ${packages[*]}, started by the tests alone"
    install_unstarted "${packages[@]}"
    mapfile -t packages < <(lacking)
fi
[ "${#packages[@]}" = 0 ] || echo "test-k8s: not installed: ${packages[*]} (as root, Debian and Ubuntu: apt install ${packages[*]})"
[ "$(id -u)" = 0 ] || echo "test-k8s: not root, so no Pod is run by hand"

checkov=.cache/checkov-3.3.30
if [ ! -x "${CHECKOV:-$checkov/bin/checkov}" ]; then
    echo "test-k8s: installing checkov 3.3.30 into $checkov (300 MB, a minute)"
    { .venv/bin/python -m venv --clear $checkov &&
        $checkov/bin/pip --disable-pip-version-check -qq install checkov==3.3.30; } ||
        { rm -rf $checkov; echo "test-k8s: checkov could not be installed"; }
fi

crds=.cache/kuberay-v1.7.0
source=https://raw.githubusercontent.com/ray-project/kuberay/v1.7.0/ray-operator/config/crd/bases
if [ -z "${KUBERAY_CRDS:-}" ] && [ ! -e $crds/ray.io_rayservices.yaml ]; then
    mkdir -p $crds
    if curl -fsSL --connect-timeout 5 --max-time 60 -o $crds/new $source/ray.io_rayservices.yaml &&
        echo "0a8fc325e6e22b9231c1f282b309555e2ecf94227ca20a03df3d1d9a403907ab  $crds/new" |
        sha256sum --check --status; then
        mv $crds/new $crds/ray.io_rayservices.yaml
    else
        rm -rf $crds
        echo "test-k8s: KubeRay's CRDs could not be fetched from $source"
    fi
fi
# Grafana's schema of a dashboard, made of the types that it publishes; again when what it is made
# of is newer.
schema=.cache/grafana-schema.json
of=tests/k8s/grafana_schema
if [ ! $schema -nt $of/dashboard.ts ] || [ ! $schema -nt $of/package.json ]; then
    made=.cache/grafana-schema
    rm -rf $made $schema && mkdir -p .cache && cp -r $of $made
    { npm install --prefix $made --silent --no-fund --no-audit &&
        (cd $made && npx --no-install ts-json-schema-generator --path dashboard.ts \
            --type TierserveDashboard --expose none --jsDoc none --out schema.json) &&
        mv $made/schema.json $schema; } || echo "test-k8s: Grafana's schema could not be made (npm)"
    rm -rf $made
fi
exit 0
