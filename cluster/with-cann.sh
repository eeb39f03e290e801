#!/bin/bash
# Run a command that sees CANN.   with-cann.sh COMMAND [ARGUMENTS]
# shellcheck source=cluster/cann-env.sh
source "${CANN_ENV:-$(dirname "$0")/cann-env.sh}"
exec "$@"
