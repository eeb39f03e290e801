# shellcheck shell=bash
# Sourced by shells that are to see CANN, if it is installed here.
for settings in /usr/local/Ascend/ascend-toolkit/set_env.sh /usr/local/Ascend/cann/set_env.sh; do
  if [ -f "$settings" ]; then
    # shellcheck disable=SC1090
    source "$settings"
    break
  fi
done
unset settings
