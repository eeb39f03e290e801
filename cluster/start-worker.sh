#!/bin/bash
# Let this host join a Ray cluster.   start-worker.sh HEAD_IP:PORT [further arguments of ray start]
# CANN's settings use variables that are not set.
# shellcheck source=cluster/cann-env.sh
source "$(dirname "$0")/cann-env.sh"
set -euo pipefail
address=${1:?give the address of the head, HEAD_IP:PORT}
shift
export RAY_USAGE_STATS_ENABLED=0
ulimit -n 65536 || true
# The head may still be starting.
for attempt in $(seq 30); do
  ray status --address "$address" > /dev/null 2>&1 && break
  echo "waiting for $address ($attempt)" >&2
  sleep 2
done
exec ray start --address "$address" "$@"
