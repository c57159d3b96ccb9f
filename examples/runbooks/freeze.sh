#!/bin/sh
# Freeze every app of an env, or end what this script froze.
#
#   freeze.sh start ENV TIME REASON
#   freeze.sh end
set -eu
note=${XDG_STATE_HOME:-$HOME/.local/state}/deployctl-freeze

case ${1:-} in
  start)
    mkdir -p "$(dirname "$note")"
    deployctl freeze start --all -e "${2:?which env}" --for "${3:?how long}" -m "${4:?why}" -o name >"$note"
    echo "frozen: $(cat "$note")"
    ;;
  end)
    deployctl freeze end "$(cat "$note")" -o name
    rm "$note"
    echo "not frozen any more; what it paused: deployctl resume"
    ;;
  *)
    echo "usage: freeze.sh start ENV TIME REASON | freeze.sh end" >&2
    exit 2
    ;;
esac
