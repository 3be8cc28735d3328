#!/usr/bin/env bash
# What `make test-k8s` needs beside the environment, into .cache: checkov, whose pinned dependencies
# keep it in an environment of its own, KubeRay's CRDs, and Grafana's schema of a dashboard. Without a
# network, or npm, the tests that need them are skipped, with the reason.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

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
