#!/bin/bash
# hard: 1 x v5litepod-16 (v5e, 4x4) in us-east5-b.
# Without arguments it starts the run, or resumes it after a preemption. Single steps:
#   copy      copy the committed code and the workers' script to the bucket
#   create    request the slice; the program starts once the slice is available
#   run       start the program on all workers again and follow its output
#   delete    release the slice, which is billed until then, even after the run ends
# The Cloud TPU API is frozen; it serves v2, v3, v4, v5e, v5p, v6e.
set -euo pipefail

startup_script() {
  cat << 'END_OF_STARTUP_SCRIPT'
#!/bin/bash
set -euo pipefail
export HOME="${HOME:-/root}"
export A='$(B)'
# Variables of an earlier slice would make JAX wait for it forever.
unset MEGASCALE_COORDINATOR_ADDRESS MEGASCALE_NUM_SLICES MEGASCALE_PORT MEGASCALE_SLICE_ID
exec 9> /run/acl_jax.lock
flock -n 9 || { echo 'error: the program is already running' >&2; exit 1; }
mkdir -p /opt/acl_jax
cd /opt/acl_jax
tar -xzf /gcs/speech/7b/launch/code.tar.gz
python3 -m pip install --quiet uv
test -x .venv/bin/python || python3 -m uv venv --python 3.12 .venv
python3 -m uv pip install --quiet --python .venv/bin/python -e '.[tpu]'
exec .venv/bin/python -m launch.local --max_restarts=100 -- .venv/bin/python -m acl_jax.train --config=configs/x.py --workdir=/gcs/speech/7b '--x=it'"'"'s $(A) $$(A)' $'--y=a\x0ab\x09\xc3\xa9'
END_OF_STARTUP_SCRIPT
}

copy() {
  git cat-file -e HEAD:configs/x.py
  git archive --format=tar.gz --output="$folder/code.tar.gz" HEAD
  gcloud storage cp "$folder/code.tar.gz" "$folder/startup.sh" \
    gs://speech/7b/launch/
}

create() {
  gcloud compute tpus queued-resources create hard \
    --zone=us-east5-b \
    --accelerator-type=v5litepod-16 \
    --runtime-version=v2-alpha-tpuv5-lite \
    --node-id=hard \
    --metadata-from-file="startup-script=$folder/startup.sh"
}

run() {
  gcloud compute tpus queued-resources ssh hard \
    --zone=us-east5-b \
    --node=all \
    --worker=all \
    '--command=gcloud storage cp gs://speech/7b/launch/startup.sh /tmp/startup.sh && sudo bash /tmp/startup.sh'
}

delete() {
  gcloud compute tpus queued-resources delete hard \
    --zone=us-east5-b \
    --force \
    --quiet
}

state() {
  gcloud compute tpus queued-resources describe hard \
    --zone=us-east5-b \
    '--format=value(state.state)' \
    2> /dev/null || echo NONE
}

start() {
  copy
  local state
  state=$(state)
  case $state in
    NONE) create ;;
    ACTIVE) run ;;
    SUSPENDING | SUSPENDED | FAILED) delete && create ;;
    *) echo "the slice is $state: wait, then run this again" ;;
  esac
}

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
startup_script > "$folder/startup.sh"
for step in "${@:-start}"; do
  case $step in
    start) start ;;
    copy) copy ;;
    create) create ;;
    run) run ;;
    delete) delete ;;
    *)
      echo "error: unknown step $step" >&2
      exit 1
      ;;
  esac
done
