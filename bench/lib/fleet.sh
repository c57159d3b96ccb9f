#!/usr/bin/env bash
# A fleet of real processes on loopback, for the scripts beside it: `source` this.
#
# Needs $bin (a folder with the programs) and $dir (a new folder), and leaves $server.
# Every start of the app on a host adds a line "VERSION NANOSECONDS" to $dir/starts/HOST.

: "${bin:?the folder with the programs}" "${dir:?a new folder}"
pids=()
# Stops what was started here. Apps and their supervisors outlive the agents on purpose:
# they are found by the host's folder, which they run in or were told.
fleet_stop() {
  kill "${pids[@]}" 2>/dev/null || true
  wait 2>/dev/null || true
  local process
  for process in /proc/[0-9]*; do
    case "$(readlink "$process/cwd" 2>/dev/null) $(tr '\0' ' ' 2>/dev/null <"$process/cmdline")" in
    *"$dir/hosts/"*) kill -9 "${process#/proc/}" 2>/dev/null || true ;;
    esac
  done 2>/dev/null
  rm -rf "$dir"
}

launch() { # NAME PROGRAM ARGS…: starts it in the background and waits for its ready line
  local name=$1 program=$2
  shift 2
  rm -f "$dir/$name.ready"
  mkfifo "$dir/$name.ready"
  "$bin/deployctl-$program" "$@" >"$dir/$name.ready" 2>>"$dir/$name.log" &
  pids+=($!)
  last=$!
  read -r _ ready <"$dir/$name.ready" || { tail -5 "$dir/$name.log" >&2; exit 1; }
}
start_coordinator() {
  launch coordinator coordinator --config "$dir/c.toml"
  # shellcheck disable=SC2034 # for who kills it
  coordinator=$last
}
ctl() { (cd "$dir/repo" && "$bin/deployctl" --server "$server" --token-file "$dir/c/tokens/admin.token" -a app -e prod "$@"); }
now() { date +%s%N; }
commit() { # SUBJECT: commits what lies in the repository
  git -C "$dir/repo" add -A
  git -C "$dir/repo" -c user.name=b -c user.email=b@localhost commit -qm "$1" --allow-empty
}

fleet_start() { # HOSTS: a coordinator, a region, a worker and so many agents
  local hosts=$1 port
  mkdir -p "$dir/starts" "$dir/repo"
  git init -q -b main "$dir/repo"
  port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
  printf 'listen = "127.0.0.1:%s"\ndata = "%s"\n[regions.one]\nblobs = "file://%s"\n' \
    "$port" "$dir/c" "$dir/one" >"$dir/c.toml"
  start_coordinator
  server=$ready
  launch region region --name one --coordinator "$server" --token-file "$dir/c/tokens/region-one.token" \
    --main-blobs "file://$dir/c/blobs" --blobs "file://$dir/one" --data "$dir/r" --listen 127.0.0.1:0
  local region=$ready
  launch worker worker --coordinator "$server" --token-file "$dir/c/tokens/worker.token" \
    --blobs "file://$dir/c/blobs" --key "$dir/c/keys/build.ed25519" --work "$dir/worker"
  for n in $(seq "$hosts"); do
    launch "agent-$n" agent --region "$region" --token-file "$dir/c/tokens/agent-one.token" --host "h$n" \
      --env prod --root "$dir/hosts/h$n" --var "STARTS=$dir/starts/h$n"
  done
}

# What runs on each host, by the link that is switched: one version a line.
versions() { cat "$dir"/hosts/*/apps/app/current/version; }
