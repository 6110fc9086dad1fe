#!/usr/bin/env bash
# Entry point of the container: runs doctor, then replaces itself with the job.
#
#   entrypoint.sh translate KEY=VALUE ...    hymt-batch doctor KEY=VALUE ..., and if it exits 0, hymt-batch translate ...
#   entrypoint.sh ANYTHING ELSE              hymt-batch ANYTHING ELSE
#
# If doctor exits with another code, the container exits with that code and the job does not start. HYMT_DOCTOR=off
# skips doctor. HYMT_BATCH sets another executable. This script does not interpret the job's settings.
set -euo pipefail

HYMT_BATCH=${HYMT_BATCH:-hymt-batch}
HYMT_DOCTOR=${HYMT_DOCTOR:-on}

case $HYMT_DOCTOR in
on | off) ;;
*)
    echo "hymt-batch: HYMT_DOCTOR=$HYMT_DOCTOR is neither on nor off. Set HYMT_DOCTOR=off to skip the doctor." >&2
    exit 2
    ;;
esac

# Parse the command line like jobs/__main__.py: flags may be anywhere; the job is the first word without a "=".
words=("$@")
job=-1 runs=yes
for ((i = 0; i < ${#words[@]}; i++)); do
    case ${words[i]} in
    -h | --help | --version | --info | -c | -c=* | --cfg | --cfg=* | --completion | --completion=* | --complete)
        runs=no # only prints
        ;;
    -m | --multirun)
        runs=no # one point that fails the checks must not stop the others; translate checks each point itself
        ;;
    -p | --package) i=$((i + 1)) ;; # the next word is its value
    -?* | *=*) ;;
    *) ((job >= 0)) || job=$i ;;
    esac
done

if [[ $HYMT_DOCTOR == on && $runs == yes && $job -ge 0 && ${words[job]} == translate ]]; then
    stop() {
        local child
        for child in $(jobs -p); do
            kill -TERM "$child" 2>/dev/null || true
        done
        echo "hymt-batch: SIG$1: stopped before the job began; run the same command again to continue" >&2
        exit 75
    }
    # The same four signals as in hymt_batch/signals.py. exec resets the traps, so the job handles them itself.
    trap 'stop TERM' TERM
    trap 'stop INT' INT
    trap 'stop USR1' USR1
    trap 'stop USR2' USR2
    words[job]=doctor
    # In the background, because bash handles a signal only after the foreground command has ended.
    # stdin and stdout belong to the job (source.path=-), so doctor gets neither.
    # strict=false comes last and wins: a warning of doctor must not stop the job, which counts its own warnings.
    "$HYMT_BATCH" "${words[@]}" strict=false </dev/null >&2 &
    code=0
    wait "$!" || code=$?
    if ((code != 0)); then
        echo "hymt-batch: doctor ended with exit code $code and the job was not started. Fix what it reports;" \
            "HYMT_DOCTOR=off starts the job without it." >&2
        exit "$code"
    fi
fi

exec "$HYMT_BATCH" "$@"
