#!/usr/bin/env bash
# The start of a container: the doctor looks first, then this process becomes the job.
#
#   entrypoint.sh translate KEY=VALUE ...    hymt-batch doctor KEY=VALUE ..., and if it exits 0, hymt-batch translate ...
#   entrypoint.sh ANYTHING ELSE              hymt-batch ANYTHING ELSE
#
# Any other exit code of the doctor is that of the container, and the job is not started. HYMT_DOCTOR=off leaves the
# doctor out. HYMT_BATCH names another executable. Knows no setting of the job.
set -euo pipefail

HYMT_BATCH=${HYMT_BATCH:-hymt-batch}
HYMT_DOCTOR=${HYMT_DOCTOR:-on}

case $HYMT_DOCTOR in
on | off) ;;
*)
    echo "hymt-batch: HYMT_DOCTOR=$HYMT_DOCTOR is neither on nor off. Write HYMT_DOCTOR=off to leave the doctor out." >&2
    exit 2
    ;;
esac

# The command line as jobs/__main__.py reads it: flags anywhere; the job is the first word without a "=".
words=("$@")
job=-1 runs=yes
for ((i = 0; i < ${#words[@]}; i++)); do
    case ${words[i]} in
    -h | --help | --version | --info | -c | -c=* | --cfg | --cfg=* | --completion | --completion=* | --complete)
        runs=no # it only prints
        ;;
    -m | --multirun)
        runs=no # a point that cannot run must not keep the others from running, so each one finds out by itself
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
    # The four of hymt_batch/signals.py. They stay until exec, which gives them back to the job.
    trap 'stop TERM' TERM
    trap 'stop INT' INT
    trap 'stop USR1' USR1
    trap 'stop USR2' USR2
    words[job]=doctor
    # In the background, because bash handles a signal only after the command in the foreground has ended.
    # stdin is the job's (source.path=-), and so is stdout.
    # strict=false, the last word on it: a doubt of the doctor's is no reason not to start; the job counts its own.
    "$HYMT_BATCH" "${words[@]}" strict=false </dev/null >&2 &
    code=0
    wait "$!" || code=$?
    if ((code != 0)); then
        echo "hymt-batch: the doctor ended with exit code $code and the job was not started. Mend what it names;" \
            "HYMT_DOCTOR=off starts the job without it." >&2
        exit "$code"
    fi
fi

exec "$HYMT_BATCH" "$@"
