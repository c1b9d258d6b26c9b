#!/bin/sh
# Primary server of PostgreSQL, whose commits wait for the synchronous replica: see docs/how-to/cluster.md.
# Works with the official image and with any other that has PostgreSQL and is not root.
set -eu
bin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n 1)
PATH=${bin:+$bin:}$PATH
PGDATA=/var/lib/postgresql/cluster

if [ ! -s "$PGDATA/PG_VERSION" ]; then
    rm -rf "$PGDATA"
    (umask 077 && printf '%s' "$BNP_POSTGRES_PASSWORD" >/tmp/password)
    initdb --pgdata "$PGDATA.new" --username bnp --pwfile /tmp/password --auth-host scram-sha-256 \
        --auth-local trust --encoding UTF8 --no-locale --data-checksums
    rm /tmp/password
    echo 'host all,replication bnp samenet scram-sha-256' >>"$PGDATA.new/pg_hba.conf"
    postgres --single -D "$PGDATA.new" postgres <<'SQL'
CREATE DATABASE bnp
SQL
    mv "$PGDATA.new" "$PGDATA"
fi

exec postgres -D "$PGDATA" -c listen_addresses='*' -c unix_socket_directories=/tmp \
    -c wal_level=replica -c max_wal_senders=4 -c hot_standby=on -c wal_log_hints=on \
    -c synchronous_standby_names="${BNP_POSTGRES_SYNCHRONOUS-replica}" -c synchronous_commit=on \
    -c max_connections=200
