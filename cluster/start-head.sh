#!/bin/bash
# Start the head of a Ray cluster on this host.   start-head.sh [IP [PORT [further arguments of ray start]]]
set -euo pipefail
ip=${1:-$(hostname --ip-address | awk '{print $1}')}
port=${2:-6379}
shift $(($# < 2 ? $# : 2))
for settings in /usr/local/Ascend/ascend-toolkit/set_env.sh /usr/local/Ascend/cann/set_env.sh; do
  if [ -f "$settings" ]; then
    set +u
    # shellcheck disable=SC1090
    source "$settings"
    set -u
    break
  fi
done
export RAY_USAGE_STATS_ENABLED=0
# With many workers on a host, Ray keeps many connections open.
ulimit -n 65536 || true
exec ray start --head --node-ip-address "$ip" --port "$port" --dashboard-host 127.0.0.1 "$@"
