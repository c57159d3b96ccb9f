#!/usr/bin/env bash
# A PostgreSQL server on a socket in $dir/pg, with flushes, for the scripts beside it: `source` this.

: "${dir:?a new folder that any user may enter}"
as_postgres=()
[ "$(id -u)" -ne 0 ] || as_postgres=(setpriv --reuid postgres --regid postgres --init-groups)
postgres=$(dirname "$(readlink -f "$(command -v initdb || find /usr/lib/postgresql -name initdb | sort -V | tail -1)")")

postgres_start() {
  mkdir "$dir/pg"
  [ "$(id -u)" -ne 0 ] || chown postgres: "$dir/pg"
  (
    cd "$dir/pg" || exit
    "${as_postgres[@]}" "$postgres/initdb" -D data -U postgres -A trust -E UTF8 --locale=C.UTF-8 >init.log
    "${as_postgres[@]}" "$postgres/pg_ctl" start -w -D data -l log -o "-c listen_addresses='' \
      -c unix_socket_directories='$dir/pg' -c max_connections=200 -c shared_buffers=256MB" >start.log
  )
}
postgres_stop() {
  [ ! -d "$dir/pg" ] || "${as_postgres[@]}" "$postgres/pg_ctl" stop -D "$dir/pg/data" -m immediate >/dev/null 2>&1 || true
}
sql() { "$postgres/psql" -X -At -U postgres -h "$dir/pg" -d "$1" -c "$2"; } # DATABASE STATEMENT
address() { echo "postgres://postgres@/$1?host=$dir/pg"; }                  # DATABASE
