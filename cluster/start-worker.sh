#!/bin/bash
# Let this host join a Ray cluster.   start-worker.sh HEAD_IP:PORT [further arguments of ray start]
set -euo pipefail
address=${1:?give the address of the head, HEAD_IP:PORT}
shift
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
ulimit -n 65536 || true
# The head may still be starting.
for attempt in $(seq 30); do
  ray status --address "$address" > /dev/null 2>&1 && break
  echo "waiting for $address ($attempt)" >&2
  sleep 2
done
exec ray start --address "$address" "$@"
