#!/bin/sh
# A gate: the share of requests that fail on the release, asked of a Prometheus. In
# coordinator.toml:
#
#   [[gates]]
#   name = "errors"
#   command = ["/etc/deployctl/gates/prometheus-errors.sh", "http://prometheus:9090", "2"]
#   envs = ["prod"]
#
# URL, and the percentage from which it fails. The query is yours to change: the release is
# told apart by a label `release` that your app puts on its metrics. Exit code: 0 pass,
# 1 fail, 2 can't tell.
set -u
url=${1:?the URL of a Prometheus} most=${2:?percent of failed requests}
app=${DEPLOYCTL_APP:?} env=${DEPLOYCTL_ENV:?} release=${DEPLOYCTL_RELEASE:?}

labels="app=\"$app\",env=\"$env\",release=\"$release\""
rate() { echo "sum(rate(http_requests_total{$labels$1}[2m]))"; }
query="100 * ($(rate ',code=~"5.."') or vector(0)) / $(rate '')"

answer=$(curl -fsS --max-time 20 --get --data-urlencode "query=$query" "$url/api/v1/query") || exit 2
share=$(echo "$answer" | jq -r '.data.result[0].value[1] // empty') || exit 2
case $share in
  ''|NaN) echo "no requests to $release were counted yet"; exit 2 ;;
esac
if awk "BEGIN { exit !($share >= $most) }"; then
  printf '%.2f %% of the requests to %s fail, from %s %% on it is too many\n' "$share" "$release" "$most"
  exit 1
fi
printf '%.2f %% of the requests to %s fail\n' "$share" "$release"
