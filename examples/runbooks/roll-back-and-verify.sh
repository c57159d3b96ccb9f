#!/bin/sh
# Roll back to the last known-good release, then look whether every host is there.
#
#   roll-back-and-verify.sh ENV REASON [REGION]
set -u
env=${1:?which env} reason=${2:?why}

deployctl rollback -e "$env" -m "$reason" ${3:+--region "$3"} --yes --timeout 5m
code=$?
case $code in
  0)   ;;
  5)   echo "the coordinator does not answer: deployctl help runbook"; exit 5 ;;
  124) echo "it goes on without us: deployctl watch -e $env"; exit 124 ;;
  *)   echo "hosts that are not back:"; deployctl hosts -e "$env" --failed; exit "$code" ;;
esac

# Code 20: somebody is behind. A host that is away follows by itself when it is back.
if deployctl hosts -e "$env" --behind --exit-code; then
  echo "every host is back"
else
  echo "the hosts above are not back yet; ask: deployctl why HOST -e $env"
  exit 1
fi
