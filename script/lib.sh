# Functions that several scripts share. Sourced, by bash 3.2 (macOS) too.

# The folder of PostgreSQL's programs, version 14 or newer; empty and 1 if there is none. It looks
# in the same places as the service (src/db/embedded).
pg_bin() {
  local candidate
  for candidate in "${PG_BIN:-}" \
    "$(dirname "$(readlink -f "$(command -v initdb)" 2>/dev/null)" 2>/dev/null)" \
    $(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -t/ -k5 -nr) /usr/pgsql-*/bin \
    /opt/homebrew/opt/postgresql*/bin /usr/local/opt/postgresql*/bin; do
    if [ -x "$candidate/initdb" ] && [ -x "$candidate/postgres" ] &&
      [ -x "$candidate/pg_dump" ] && [ -x "$candidate/psql" ] &&
      [ "$("$candidate/postgres" --version | sed 's/[^0-9]*\([0-9]*\).*/\1/')" -ge 14 ]; then
      echo "$candidate"
      return 0
    fi
  done
  return 1
}

# Runs a command as the user that PostgreSQL accepts: this one, or `postgres` if this one is root.
unprivileged() {
  if [ "$(id -u)" != 0 ]; then
    "$@"
  elif command -v setpriv >/dev/null; then
    setpriv --reuid=postgres --regid="$(id -g postgres)" --init-groups env HOME=/tmp "$@"
  else
    su postgres -s /bin/sh -c 'cd /tmp && exec "$@"' -- sh "$@"
  fi
}

# Starts a throw-away cluster in the empty folder $1, with the schema in its database postgres. Its
# socket is in the folder, its superuser is postgres, and nothing in it is durable.
throwaway_start() {
  local bin
  bin=$(pg_bin) || {
    echo "no PostgreSQL programs found: run script/bootstrap" >&2
    return 1
  }
  if [ "$(id -u)" = 0 ]; then chown postgres "$1"; fi
  (
    cd /
    unprivileged "$bin/initdb" -D "$1/data" -U postgres -A trust -E UTF8 --locale=C --no-sync \
      >"$1.log" 2>&1 &&
      unprivileged "$bin/pg_ctl" -D "$1/data" -s -w -l "$1/data/log" start \
        -o "-c listen_addresses= -c unix_socket_directories=$1 -c max_connections=50 \
          -c fsync=off -c synchronous_commit=off -c full_page_writes=off" >>"$1.log" 2>&1
  ) || {
    cat "$1.log" "$1/data/log" >&2
    return 1
  }
  local migration
  for migration in migrations/*.sql; do
    "$bin/psql" -X -q -v ON_ERROR_STOP=1 -1 -h "$1" -U postgres postgres -f "$migration" >/dev/null
  done
}

# Stops the cluster of throwaway_start and deletes it.
throwaway_stop() {
  local bin
  bin=$(pg_bin) &&
    (cd / && unprivileged "$bin/pg_ctl" -D "$1/data" -s -m immediate stop >/dev/null 2>&1)
  rm -rf "$1" "$1.log"
}
