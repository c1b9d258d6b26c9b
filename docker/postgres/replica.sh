#!/bin/sh
# Synchronous replica of PostgreSQL. Promote it if the primary is lost: see docs/how-to/cluster.md.
set -eu
bin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n 1)
PATH=${bin:+$bin:}$PATH
PGDATA=/var/lib/postgresql/cluster
export PGPASSWORD="$BNP_POSTGRES_PASSWORD"

if [ ! -s "$PGDATA/PG_VERSION" ]; then
    rm -rf "$PGDATA" "$PGDATA.new"
    until pg_basebackup --pgdata "$PGDATA.new" --write-recovery-conf --checkpoint fast --no-password \
        --dbname 'host=postgres user=bnp application_name=replica connect_timeout=5'; do
        rm -rf "$PGDATA.new"
        sleep 1
    done
    mv "$PGDATA.new" "$PGDATA"
fi

exec postgres -D "$PGDATA" -c listen_addresses='*' -c unix_socket_directories=/tmp \
    -c hot_standby=on -c wal_log_hints=on -c max_connections=200 -c synchronous_standby_names=''
