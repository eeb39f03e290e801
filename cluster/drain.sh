#!/bin/bash
# Before a host or pod ends: ask the runs whose driver is here to end, and wait until they have, and until no
# run renders here.   drain.sh [/proc]
# A run finishes the rows that it renders within its faults.grace.
set -uo pipefail
proc=${1:-/proc}

# Process ids. An argument of theirs is the path of `vidgen`, or they are Ray's actors with a rank of a gang.
drivers() { grep -lsz '/vidgen$' "$proc"/[0-9]*/cmdline | sed 's|/cmdline$||; s|.*/||'; }
renderers() { grep -lsz '^ray::WorkerActor' "$proc"/[0-9]*/cmdline; }

for pid in $(drivers); do
  kill -TERM "$pid" 2> /dev/null || true
done
while [ -n "$(drivers)$(renderers)" ]; do
  sleep 1
done
