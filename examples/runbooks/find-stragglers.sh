#!/bin/sh
# Say of each host that is behind or away why it is.
#
#   find-stragglers.sh ENV [MOST]
set -eu
env=${1:?which env} most=${2:-20}

hosts=$( (deployctl hosts -A -e "$env" --behind -o name
          deployctl hosts -A -e "$env" --unreachable -o name) | sort -u)
if [ -z "$hosts" ]; then
  echo "every host is where it should be"
  exit 0
fi
echo "$hosts" | head -n "$most" | while read -r host; do
  deployctl why "$host" -e "$env"
done
exit 1
