#!/usr/bin/env bash
# From nothing to a served-ready click model that sees images, on this machine:
# synthetic data -> baseline and DICM trained on a local cluster of 2 workers and 2 parameter servers ->
# both evaluated side by side -> DICM exported -> the export scored.
# Usage: ./quickstart.sh [OUTPUT_DIRECTORY]     run it again to continue where it stopped.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

out=${1:-quickstart_output}
scripts/setup_venv.sh

run() {
  echo
  echo "\$ python -m $*"
  .venv/bin/python -m "$@"
}

[[ -d $out/data ]] || run launch.prepare synthetic --out="$out/data"
for model in embedding_mlp dicm; do
  run launch.train --dataset="$out/data" --model="$model" --out="$out/$model" --cluster=2x2
done
run launch.evaluate --run="$out/embedding_mlp,$out/dicm"
run launch.export --run="$out/dicm" --out="$out/export" --overwrite
run launch.score --export="$out/export" --samples="$out/data" --out="$out/scores.csv"

cat <<END

Done. Where to look next:
  $out/dicm/curves.png        loss and AUC by step
  $out/dicm/report.json       configuration, times, image counters
  $out/dicm/evaluation-test.json
  .venv/bin/tensorboard --logdir=$out
  .venv/bin/python -m launch.train --help
END
