#!/usr/bin/env bash
# Run every step of README.md in order: checkpoint, ONNX, om, tensors, inference, accuracy and throughput.
#
# Usage:    bash run_all.sh [--weights FILE --datasets_path DIR] [OPTION...]      (--help lists the options)
# Example:  bash run_all.sh
#               the demo: 45 photos and demo weights, on the CPU where CANN is not installed
#
# Run the same command again to resume. Everything is written below ./work (--workdir). Exit status: see --help.
# shellcheck disable=SC1091,SC2154 # env.sh and venv.sh are checked by themselves; tools/options.py sets most variables
set -euo pipefail
unset CDPATH # with it, cd may go elsewhere and print where

suite=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
tools=$suite/tools verdict=0 child='' workdir='' deploy=''
export RUN_ALL_PID=$$ RUN_ALL_QUIET=${RUN_ALL_QUIET:-} # each step asks the kernel to end it with this process
export OMP_WAIT_POLICY=passive OPENBLAS_NUM_THREADS=1 # waiting threads sleep

# ---- running a step: banner, process group, signals, locks

die() { printf 'run_all.sh: %s\n' "$2" >&2; exit "$1"; } # STATUS MESSAGE

run() { # COMMAND...: in its own process group, in the background, so that traps run at once
  local status=0
  set -m
  "$@" </dev/null &
  child=$!
  set +m
  wait "$child" || status=$?
  child=''
  return "$status"
}

# shellcheck disable=SC2016,SC2329 # expanded by the inner bash; called by traps
stop() { # STATUS: end the running step: ask it to, and after 1.4 seconds kill what is left of it
  trap '' HUP INT TERM
  if [[ -n $child ]]; then
    kill -TERM -- "-$child" || true
    timeout --signal=KILL 1.4 bash -c 'while kill -0 -- "-$0"; do sleep 0.1; done' "$child" || true
    kill -KILL -- "-$child" || true
  fi 2>/dev/null
  die "$1" "interrupted; run the same command again to resume"
}

banner() { # TITLE COMMAND...: print and record a command so that it can be pasted into a shell
  local word line=''
  for word in "${@:2}"; do
    [[ $word =~ ^[A-Za-z0-9_@%+=:,./-]+$ ]] || word=$(printf '%q' "$word")
    line+=" $word"
  done
  [[ -n $RUN_ALL_QUIET ]] || printf '\n== %s\n$%s\n' "$1" "$line" >&2
  printf '%s\n' "${line# }" >>"$commands" || die 4 "$commands: cannot be written (is the disk full?)"
}

step() { # TITLE COMMAND...: its failure ends the run
  banner "$@"
  run "${@:2}" || die "$?" "step \"$1\" failed with exit status $?"
}

lock() { # FILE WHAT [--shared]: held until this process and its steps have ended
  local descriptor
  exec {descriptor}>>"$1"
  python3 "$tools/lock.py" "$1" "$2" "--descriptor=$descriptor" "${@:3}" || exit
}

# ---- the steps, numbered as in README.md

model() { # 1 and 3: sets onnx
  onnx=xception.onnx
  [[ $weights == /* ]] || step "1 Model: demo weights" python3 "$tools/make_demo.py" "$images" "$labels" "$weights"
  if [[ $weights == *.onnx ]]; then onnx=$weights && return; fi
  step "3 Conversion: PyTorch to ONNX" python3 "$suite/xception_pth2onnx.py" "$weights" "$onnx" ${state_dict:+"$state_dict"}
}

compile_om() { # BATCH: 3
  step "3 Conversion: ONNX to om, batch $1" python3 "$tools/compile_om.py" "${deploy:-$onnx}" "xception_bs$1" \
    "--batch_size=$1" "--soc_version=$soc_version" ${precision:+"--precision=$precision"} ${aipp:+--aipp}
}

separate_folder() { # 4: some of the images are processed in a folder with links to the model; int8's oms are its own
  local name
  cd "$folder"
  for name in ../demo.pth.tar ../xception.onnx ../xception_bs*.om{,.json}; do
    [[ ! -e $name || $name$precision == *.om*int8 ]] || ln -sf "$name" .
  done
}

tensors() { # [--share=R/W]: 4
  step "4 Data set: images to tensors" python3 "$suite/img_preprocess.py" "$images" ./prep_dataset "--resize=$resize" \
    "--interpolation=$interpolation" ${aipp:+--aipp} "--on-error=$on_error" ${subset:+"$subset"} ${seed:+"$seed"} "$@"
  step "4 Data set: info file" python3 "$suite/gen_dataset_info.py" bin ./prep_dataset ./xception.info 299 299
}

label_file() { # 4: sets labels to a val_label.txt of these images, with classes of the network
  step "4 Data set: labels" python3 "$tools/labels.py" "$labels" val_label.txt ${synsets:+"--synsets=$synsets"} \
    "--network=$onnx" "--images=$images" ${partial:+"$partial"} ${subset:+"$subset"} ${seed:+"$seed"} --names=classes.txt
  labels=val_label.txt
}

quantize() { # 3, for --precision int8: with some of the tensors; sets deploy
  step "3 Conversion: int8" python3 "$tools/quantize.py" "$onnx" xception ./prep_dataset "--labels=$labels"
  deploy=xception_deploy_model.onnx
}

infer() { # BATCH OM OUT: 5, and with --sweep the pure inference of 7
  local options=("--batch_size=$1" "--device_ids=$device_ids" ${engine:+"--engine=$engine"})
  step "5 Offline inference, batch $1" python3 "$tools/infer.py" "$2" "$3" --info=./xception.info ${dumps:+"--dumps=$dumps"} \
    "${options[@]}"
  [[ -z $sweep ]] ||
    step "7 Pure inference, batch $1" python3 "$tools/infer.py" "$2" "result/pure_bs$1" --round=20 "${options[@]}"
}

measure_reference() { # 6: sets reference to the accuracy of plain PyTorch on the same images and recipe
  step "6 Accuracy: PyTorch reference" python3 "$tools/pytorch_reference.py" "$weights" "$images" "$labels" \
    "--resize=$resize" "--interpolation=$interpolation" ${state_dict:+"$state_dict"} \
    --of ./${score:+share*of*/}prep_dataset --record=reference.json >reference.txt
  reference=$(<reference.txt)
}

accuracy() { # BATCH FIRST_BATCH: 6; a missed gate (status 1) is reported at the end, after the tables
  local command status=0
  command=(python3 "$suite/imagenet_acc_eval.py" "result/${results}_bs$1" "$labels" . "result_bs$1.json"
    "--reference=$reference" --max-drop=1.0 "--details=details_bs$1.csv" ${partial:+"$partial"})
  (($1 == $2)) || command+=("--same-as=result_bs$2.json" ${deploy:+"--flips=details_bs$2.csv"})
  banner "6 Accuracy, batch $1" "${command[@]}"
  run "${command[@]}" >"accuracy_bs$1.txt" || status=$?
  ((status <= 1)) || die "$status" "step \"6 Accuracy, batch $1\" failed with exit status $status"
  ((status == 0)) || verdict=1
  sed '/^top-/d' "accuracy_bs$1.txt"
}

summary() { # 7: run.json, the tables, report.html
  step "7 Summary" python3 "$tools/summary.py" run "--weights=$weights" "--onnx=$onnx" "--batch_sizes=$batch_sizes" \
    "--soc_version=$soc_version" "--reference=$reference" ${sweep:+--csv=throughput.csv} ${score:+--score} \
    ${deploy:+"--deploy=$deploy"} ${demo:+--demo} ${subset:+"--subset=$subset${seed:+ $seed}"}
  run python3 "$tools/report.py" . ||
    printf 'run_all.sh: report.html was not written (see above); the results are complete\n' >&2
}

work_share() { # BATCH...: one rank's share of the images (docs/multi-chip.md)
  local batch name=share${share/\//of}
  lock "$name.lock" "$workdir/$name"
  mkdir -p "$name"
  cd "$name"
  [[ $onnx == /* ]] || onnx=../$onnx
  label_file
  tensors "--share=$share"
  for batch in "$@"; do infer "$batch" "../xception_bs$batch.om" "../result/dumpShares_bs$batch/$name"; done
  printf 'share %s is done; once all are, run the same command with --score in one process\n' "$share"
}

main() {
  local batch batches pair settings status=0
  trap 'stop 129' HUP && trap 'stop 130' INT && trap 'stop 143' TERM
  settings=$(mktemp)
  source "$suite/env.sh" 2>"$settings" # which ends with a line on what it found
  [[ $ATC_ENGINE == cann ]] || export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=$((1 << 40)) # fewer page faults in torch
  run python3 "$tools/options.py" "$settings" "$@" || status=$?
  while IFS= read -r -d '' pair; do declare -g "$pair"; done <"$settings"
  rm -f "$settings"
  [[ -n $workdir ]] || exit "$status" # --help, --check or a usage error
  source "$tools/venv.sh"
  packages
  cd "$workdir"
  lock .lock "$workdir" ${share:+--shared}
  : >"$commands"
  banner "work directory" cd "$workdir"
  IFS=, read -ra batches <<<"$batch_sizes"

  exec 9>.model.lock
  flock 9 || true # the first of several ranks makes the model, the others find it
  model
  [[ -n $study || $precision == int8 ]] || for batch in "${batches[@]}"; do compile_om "$batch"; done
  [[ -z $share ]] || python3 "$tools/shares.py" clean "$share"
  exec 9>&-
  [[ -z $share ]] || { work_share "${batches[@]}"; exit; }
  [[ $folder == . ]] || separate_folder
  label_file
  if [[ -n $study ]]; then
    step "6 Recipe and precision" python3 "$tools/study.py" run "--onnx=$onnx" "--batch_size=${batches[0]}" \
      "--images=$images" "--labels=$PWD/$labels" ${aipp:+--aipp} "--on-error=$on_error" ${subset:+"$subset"} ${seed:+"$seed"}
    return
  elif [[ -n $score ]]; then
    step "5 Offline inference: shares" python3 "$tools/shares.py" verify "${batches[@]}"
  else
    tensors
    if [[ $precision == int8 ]]; then quantize; for batch in "${batches[@]}"; do compile_om "$batch"; done; fi
    for batch in "${batches[@]}"; do infer "$batch" "./xception_bs$batch.om" "result/dumpOutput_bs$batch"; done
  fi
  [[ $reference != measure ]] || measure_reference
  for batch in "${batches[@]}"; do accuracy "$batch" "${batches[0]}"; done
  [[ -z $deploy ]] ||
    step "6 Accuracy: f32 and fp16" python3 "$tools/side_by_side.py" "$onnx" "--batch_size=${batches[0]}" \
      "--labels=$labels" "--soc_version=$soc_version" "--device_ids=$device_ids" ${engine:+"--engine=$engine"} \
      ${dumps:+"--dumps=$dumps"} ${partial:+"$partial"}
  summary
  return "$verdict"
}

main "$@"; exit # on one line: bash must read no further, should this file change while it runs
