#!/usr/bin/env bash
# Makes sure that what the tests need from the system is there. As root on Debian it installs what is missing; elsewhere it says what is
# missing, and the tests that need it are skipped with that reason (under CI=true they fail).
set -euo pipefail

missing=()

need() { # need <package> <test command...>
    local package=$1
    shift
    "$@" >/dev/null 2>&1 || missing+=("$package")
}

has_postgres() { command -v initdb || compgen -G '/usr/lib/postgresql/*/bin/initdb'; }
has_faketime() { compgen -G '/usr/lib/*/faketime/libfaketimeMT.so.1'; }
has_nginx() { command -v nginx || [ -x /usr/sbin/nginx ]; }
has_chromium() { command -v chromium || command -v chromium-browser || command -v google-chrome; }
has_fonts() { compgen -G '/usr/share/fonts/truetype/*/*.ttf' || compgen -G '/Library/Fonts/*' || [ -n "$(fc-list 2>/dev/null)" ]; }

need redis-server command -v redis-server
need postgresql has_postgres
need nginx has_nginx
need faketime has_faketime
need chromium has_chromium
need fonts-liberation has_fonts
need valgrind command -v valgrind

[ ${#missing[@]} -eq 0 ] && exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing: ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # Without this the package would start a database cluster of its own, which nobody asked for.
    mkdir -p /etc/postgresql-common
    [ -e /etc/postgresql-common/createcluster.conf ] || echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
    # A server that the package would start by itself is not wanted either, and would take port 80.
    [ -e /usr/sbin/policy-rc.d ] || { printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d && chmod +x /usr/sbin/policy-rc.d && trap 'rm -f /usr/sbin/policy-rc.d' EXIT; }
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
else
    echo "missing on this machine: ${missing[*]}; the tests that need them are skipped"
fi
