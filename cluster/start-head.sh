#!/bin/bash
# Start the head of a Ray cluster on this host.   start-head.sh [IP [PORT [further arguments of ray start]]]
# CANN's settings use variables that are not set.
# shellcheck source=cluster/cann-env.sh
source "$(dirname "$0")/cann-env.sh"
set -euo pipefail
ip=${1:-$(hostname --ip-address | awk '{print $1}')}
port=${2:-6379}
shift $(($# < 2 ? $# : 2))
export RAY_USAGE_STATS_ENABLED=0
# With many workers on a host, Ray keeps many connections open.
ulimit -n 65536 || true
exec ray start --head --node-ip-address "$ip" --port "$port" --dashboard-host 127.0.0.1 "$@"
