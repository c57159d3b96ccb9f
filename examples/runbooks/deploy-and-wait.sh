#!/bin/sh
# Deploy a revision and wait for the outcome; say in one line what to do next.
#
#   deploy-and-wait.sh REV ENV REASON
set -u
rev=${1:?which revision} env=${2:?which env} reason=${3:?why}

deployctl deploy "$rev" -e "$env" -m "$reason" --build --yes --timeout 1h
code=$?
case $code in
  0)   echo "done: $rev runs in $env" ;;
  7)   echo "blocked: a freeze, a bad release or a rollback under way; nothing was started" ;;
  8|9) echo "not deployable: see the build's log; nothing was started" ;;
  10)  echo "it failed and hosts are back on the old release; nobody has to get up" ;;
  11)  echo "it failed and hosts are mixed: deployctl rollback -e $env" ;;
  14)  echo "it is paused and waits for a person: deployctl why -e $env" ;;
  124) echo "it goes on without us: deployctl watch -e $env" ;;
  *)   echo "code $code: deployctl help exit-codes" ;;
esac
exit "$code"
