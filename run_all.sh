#!/usr/bin/env bash
# From checkpoint to top-N accuracy and throughput: the steps of README.md, in its order.
#
# Usage:    bash run_all.sh [--weights F --datasets_path D] [--batch_sizes 1,16] [--workdir work]
#                           [--resize 333] [--interpolation bilinear] [--aipp] [--on-error fail|skip]
#                           [--sweep | --study] [--soc_version CHIP]
#                           [--device_ids 0] [--engine benchmark|ais_bench|host]
#                           [--reference T1,T5] [--precision f32|fp16|bf16]
#                           [--labels F [--synsets MAP]] [--limit N | --sample N [--seed 0]]
# Example:  bash run_all.sh
#               everything, on shipped photos with demo weights that know nothing of ImageNet
#           bash run_all.sh --weights xception-c0a72b38.pth.tar --datasets_path /opt/npu
#               the real thing; D holds imagenet/val and imagenet/val_label.txt (or val and val_label.txt)
#
#   --weights F         checkpoint, or an .onnx that xception_pth2onnx.py made elsewhere
#   --datasets_path D   the labelled images
#   --batch_sizes LIST  one om and one run for each, comma-separated (default 1,16)
#   --labels F          where the classes are told, if not in D's val_label.txt or class folders: see labels.py --help
#   --synsets MAP       which of ImageNet's synsets is which class, for --labels or class folders that need it
#   --reference T1,T5   the accuracy to hold, percent (default: the published one, for ImageNet's 1000 classes only;
#                       measure: that of plain PyTorch on the same images, as for the demo)
#   --precision NAME    f32, fp16 or bf16, for atc (default: atc's own, fp16 with CANN and f32 on the host)
#   --limit N           a quick look at the first N images, in a folder of its own in the work directory
#   --sample N          the same, with N images drawn at random (--seed S: another draw)
#   --workdir DIR       for all that is written (default work); the same command again goes on there
#   --resize N          short side before the crop, pixels: 333 as the weights' author, 342 as the ModelZoo port
#   --interpolation I   bilinear (default), as the weights' author, or bicubic
#   --aipp              uint8 tensors, a quarter of the size, normalised on the chip (README 4)
#   --on-error skip     leave bad images out, with a list of them (default: fail, when the good ones are done)
#   --sweep             the table of README 7: batch sizes 1,4,8,16,32, data set and pure inference, and a CSV
#   --study             what recipe and precision do to the accuracy, on the CPU (README 6.5): --resize 333 and 342,
#                       bilinear and bicubic, in f32, fp16 and bf16
#   --check             only look whether this run could start: a line for each thing that it needs, with the cure
#   --quiet             neither commands nor progress, only what the steps find
#   --score             score what several ranks have made (README 5.2)
#   --soc_version CHIP  for atc (default: what npu-smi says; where there is none, Ascend310)
#   --device_ids LIST   chips to run on at the same time, e.g. 0,1,2,3 (default: the first healthy one)
#   --engine NAME       benchmark, ais_bench, or host for the CPU stand-ins (default: see README 5)
#
# With CANN (see env.sh) atc and the inference tool are the real ones, else the CPU stand-ins in host/.
# Exit: 0 the accuracy gate is met; 1 it is not, or batch sizes disagree; else the status of the step that failed;
# 130 and 143 interrupted. Killed in whatever way, the same command goes on where it stopped.
set -euo pipefail
unset CDPATH # with which cd may go elsewhere, and say so

suite=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
benchmark=benchmark.$(uname -m)
weights='' datasets='' images='' labels='' synsets='' batch_sizes='' workdir=work resize=333 interpolation='' aipp=''
sweep='' study='' score='' precision='' reference=published seed=''
soc_version='' device_ids='' engine='' on_error=fail some=() look='' check=''
# several machines or processes: torchrun's variables, Slurm's, Open MPI's (README 5.2)
rank=${RANK:-${SLURM_PROCID:-${OMPI_COMM_WORLD_RANK:-0}}}
world=${WORLD_SIZE:-${SLURM_NTASKS:-${OMPI_COMM_WORLD_SIZE:-1}}}
local_rank=${LOCAL_RANK:-${SLURM_LOCALID:-${OMPI_COMM_WORLD_LOCAL_RANK:-0}}}
dumps=dumpOutput commands=commands.txt verdict=0 child=''
export RUN_ALL_PID=$$ # the steps' scripts end with this one, even if it is killed

die() { # STATUS MESSAGE
  printf 'run_all.sh: %s\n' "$2" >&2
  exit "$1"
}

run() { # COMMAND...: in a process group of its own, for which this script waits so that signals reach it at once
  local status=0
  set -m
  "$@" </dev/null &
  child=$!
  set +m
  wait "$child" || status=$?
  child=''
  return "$status"
}

# shellcheck disable=SC2329 # called by traps
stop() { # STATUS: end what runs, within two seconds
  local tenth now=${EPOCHREALTIME:-0} end # microseconds; bash 4 has no such clock, there the tenths alone count
  end=$((${now/[.,]/} + 1400000))
  trap '' HUP INT TERM
  if [[ -n $child ]]; then
    kill -TERM -- "-$child" || true
    for ((tenth = 0; tenth < 15; tenth++)); do
      if ! kill -0 -- "-$child" || ((${now/[.,]/} >= end)); then break; fi
      sleep 0.1
      [[ $now == 0 ]] || now=$EPOCHREALTIME
    done
    kill -KILL -- "-$child" || true
  fi 2>/dev/null
  die "$1" "interrupted; the same command goes on from here"
}

own() { # FILE: ends the run unless FILE, which it is to write, is its own or new
  [[ ! -L $1 && (-f $1 || ! -e $1) ]] || die 4 "$1: not a regular file: remove it from $workdir"
}

hold() { # FILE WHAT [FLOCK OPTION]: keep WHAT for this run and what it starts; the kernel drops the lock with them
  local descriptor
  own "$1"
  exec {descriptor}>>"$1"
  flock --nonblock "${@:3}" "$descriptor" || die 4 "$2: in use by $(tr -dc '[:print:]' <"$1"): wait for that run to end"
  printf 'pid %s on %s since %(%F %T)T\n' "$$" "$HOSTNAME" -1 >"$1" ||
    die 4 "$workdir/$1: cannot be written (is the disk full?)"
}

banner() { # TITLE COMMAND...: what runs, so that it can be copied; kept for run.json
  local word line=''
  for word in "${@:2}"; do
    [[ $word =~ ^[A-Za-z0-9_@%+=:,./-]+$ ]] || word=$(printf '%q' "$word")
    line+=" $word"
  done
  [[ -n ${RUN_ALL_QUIET:-} ]] || printf '\n== %s\n$%s\n' "$1" "$line" >&2
  printf '%s\n' "${line# }" >>"$commands" || die 4 "$workdir/$commands: cannot be written (is the disk full?)"
}

step() { # TITLE COMMAND...: banner, then the command; its failure ends the run by name
  local status=0
  banner "$@"
  run "${@:2}" || status=$?
  ((status == 0)) || die "$status" "step \"$1\" failed (exit status $status)"
}

parse_arguments() {
  while (($#)); do
    case $1 in
      -h | --help) sed -n '2,/^set/{/^set/!s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" && exit 0 ;;
      --aipp) aipp=yes && shift && continue ;;
      --sweep) sweep=yes && shift && continue ;;
      --study) study=yes && shift && continue ;;
      --score) score=yes && shift && continue ;;
      --check) check=yes && shift && continue ;;
      --quiet) export RUN_ALL_QUIET=yes && shift && continue ;;
      --version) sed -n 's/^VERSION = "\(.*\)"/\1/p' "$suite/common/cli.py" && exit 0 ;;
      --*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" && continue ;;
    esac
    [[ -n ${2:-} ]] || die 2 "$1: unknown, or without its value (see --help)"
    case $1 in
      --weights) weights=$2 ;;
      --datasets_path) datasets=$2 ;;
      --batch_sizes) batch_sizes=$2 ;;
      --workdir) workdir=$2 ;;
      --resize) resize=$2 ;;
      --interpolation) interpolation=$2 ;;
      --on-error) on_error=$2 ;;
      --labels) labels=$2 ;;
      --synsets) synsets=$2 ;;
      --limit | --sample) look+=${1#--}$2 some+=("$1=$2") ;;
      --seed) seed=$2 ;;
      --reference) reference=$2 ;;
      --precision) precision=$2 ;;
      --soc_version) soc_version=$2 ;;
      --device_ids) device_ids=$2 ;;
      --engine) engine=$2 ;;
      *) die 2 "$1: unknown option (see --help)" ;;
    esac
    shift 2
  done
  batch_sizes=${batch_sizes:-${sweep:+1,4,8,16,32}} batch_sizes=${batch_sizes:-1,16}
  [[ -z $seed ]] || look+=_seed$seed some+=("--seed=$seed")
  [[ $world =~ ^[1-9][0-9]{0,5}$ && $rank =~ ^(0|[1-9][0-9]{0,5})$ && $local_rank =~ ^(0|[1-9][0-9]{0,5})$ ]] ||
    die 2 "rank $rank of $world, $local_rank on this host: not numbers (RANK, WORLD_SIZE, LOCAL_RANK; README 5.2)"
  ((rank < world)) || die 2 "rank $rank of $world: ranks count from 0 (RANK, WORLD_SIZE; README 5.2)"
  [[ -z $look || $look =~ ^(limit[1-9][0-9]{0,8}|sample[1-9][0-9]{0,8}(_seed[0-9]{1,18})?)$ ]] ||
    die 2 "${some[*]}: neither --limit N nor --sample N --seed S"
  [[ -z $look || $world$score == 1 ]] || die 2 "${some[*]}: a quick look is for one process"
  [[ -z $study || $world$score$sweep == 1 ]] || die 2 "--study: for one process, and without --sweep"
  [[ -z $study ]] || engine=host
  [[ $on_error == fail || $on_error == skip ]] || die 2 "--on-error $on_error: neither fail nor skip"
  [[ $batch_sizes =~ ^[1-9][0-9]*(,[1-9][0-9]*)*$ ]] || die 2 "--batch_sizes $batch_sizes: not a list such as 1,16"
}

find_inputs() { # sets weights, images and labels to absolute paths; without arguments, the last two to the demo's
  local root
  if [[ -z $weights && -z $datasets ]]; then
    datasets=$suite/test/data
  elif [[ -z $weights ]]; then
    die 2 "--datasets_path needs --weights F (published: xception-c0a72b38.pth.tar, see README 1)"
  elif [[ -z $datasets ]]; then
    die 2 "--weights needs --datasets_path D (with imagenet/val and imagenet/val_label.txt, see README 4)"
  elif [[ ! -f $weights && -z $check ]]; then # check.py tells of it, and goes on
    die 3 "$weights: no such file; README 1 tells where the published weights come from"
  else
    weights=$(realpath "$weights")
  fi
  for root in "$datasets/imagenet" "$datasets"; do
    if [[ -d $root/val ]]; then
      images=$(realpath "$root/val")
      [[ -n $labels || ! -s $root/val_label.txt ]] || labels=$root/val_label.txt
      [[ -n $labels || -z $(find "$images/" -mindepth 1 -maxdepth 1 -type d -print -quit) ]] || labels=$images
      [[ -n $labels ]] || continue
      [[ -e $labels ]] || die 3 "$labels: no such file; --labels tells the classes (see README 4)"
      [[ -z $synsets || -f $synsets ]] || die 3 "$synsets: no such file; --synsets tells which synset is which class"
      labels=$(realpath "$labels") synsets=${synsets:+$(realpath "$synsets")}
      return
    fi
  done
  die 3 "$datasets: neither imagenet/val with imagenet/val_label.txt in it, nor val with val_label.txt or class folders (README 4)"
}

check_options() { # those that only a later step would refuse
  [[ $engine =~ ^(benchmark|ais_bench|host)?$ ]] || die 2 "--engine $engine: not one of benchmark, ais_bench, host"
  [[ $precision =~ ^(f32|fp16|bf16)?$ ]] || die 2 "--precision $precision: not one of f32, fp16, bf16"
  [[ $reference =~ ^(published|measure|[0-9.]+,[0-9.]+)$ ]] ||
    die 2 "--reference $reference: not TOP1,TOP5, published or measure"
  [[ $reference != measure || $weights != *.onnx ]] || die 2 "--reference measure: needs --weights as a checkpoint"
  [[ $interpolation =~ ^(bilinear|bicubic)?$ ]] || die 2 "--interpolation $interpolation: neither bilinear nor bicubic"
  [[ $resize =~ ^(299|[3-9][0-9]{2}|[1-9][0-9]{3,5})$ ]] || die 2 "--resize $resize: not 299 pixels or more"
  [[ $device_ids =~ ^([0-9]+(,[0-9]+)*)?$ ]] || die 2 "--device_ids $device_ids: not a list such as 0,1"
}

find_tools() { # README 2 and 5: sets soc_version and device_ids where they were not given
  local chip
  # shellcheck source=env.sh
  source "$suite/env.sh"
  if [[ $engine == host && $ATC_ENGINE != host ]]; then
    ATC_ENGINE=host PATH=$suite/host:$PATH
  fi
  [[ $ATC_ENGINE == cann || ! $engine =~ ^(benchmark|ais_bench)$ ]] ||
    die 4 "--engine $engine: runs what CANN's atc compiled, and there is no CANN here (README 2)"
  if [[ $ATC_ENGINE == cann ]]; then
    command -v atc >/dev/null ||
      die 4 "atc: not found, though CANN is: install its toolkit, or name another with ASCEND_INSTALL_PATH (README 2)"
    [[ ! -x ./$benchmark ]] || PATH=$PWD:$PATH # the binary is handed out alone
    python3 "$suite/tools/infer.py" --which ${engine:+"--engine=$engine"} >/dev/null ||
      die 4 "no inference tool for the chip (README 5)"
    if [[ -z $soc_version || -z $device_ids ]] && command -v npu-smi >/dev/null; then
      chip=$(python3 "$suite/tools/chips.py" --first) || die 4 "no chip to run on; name it: --soc_version and --device_ids"
      soc_version=${soc_version:-${chip% *}} device_ids=${device_ids:-${chip#* }}
    fi
  fi
  ((world == 1)) || device_ids=$local_rank
  soc_version=${soc_version:-Ascend310} device_ids=${device_ids:-0}
}

check() { # README 8: finds inputs and tools as a run does, but goes on after a failure
  local said status=0
  check_options
  if said=$(find_inputs 2>&1); then find_inputs; else printf '✗ inputs: %s\n' "${said#run_all.sh: }" && status=3; fi
  if said=$(find_tools 2>&1); then
    printf '✓ tools: %s\n' "$(sed -n 's/^env.sh: //p' <<<"$said")"
    find_tools 2>/dev/null
  else
    printf '✗ tools: %s\n' "$(tr '\n' ' ' <<<"$said")" && status=4
    source "$suite/env.sh" 2>/dev/null
  fi
  [[ ! -d $suite/.venv/bin ]] || PATH=$suite/.venv/bin:$PATH
  python3 "$suite/tools/check.py" "--weights=$weights" "--images=$images" "--labels=$labels" "--synsets=$synsets" \
    "--workdir=$workdir${look:+/$look}" "--batch_sizes=$batch_sizes" ${aipp:+--aipp} ${study:+--study} \
    "--on-error=$on_error" "${some[@]}" "--engine=${ATC_ENGINE:-host}" "--tool=$engine" "--device_ids=$device_ids" \
    "--soc_version=$soc_version" || status=$?
  return "$status"
}

set_up_python() { # .venv with requirements.txt, unless there is no .venv and python3 has what this run needs
  local venv=$suite/.venv modules=(numpy PIL tqdm) options=()
  if [[ $ATC_ENGINE == cann ]]; then
    options=(--system-site-packages) # CANN's atc calls python3 too, and needs packages of its own (README 2)
  else
    modules+=(onnx openvino)
  fi
  [[ $weights == *.onnx ]] || modules+=(onnx openvino torch)
  [[ -n $weights ]] || modules+=(torchvision)
  [[ -d $venv ]] || ! python3 -c 'import sys; sys.path = [place for place in sys.path if place]
import importlib.util as u; sys.exit(None in map(u.find_spec, sys.argv[1:]))' \
    "${modules[@]}" || return 0
  if ! cmp -s "$suite/requirements.txt" "$venv/requirements.txt"; then
    printf 'run_all.sh: installing requirements.txt into %s: some minutes, about 6 GB\n' "$venv" >&2
    [[ -x $venv/bin/python3 ]] || python3 -m venv "${options[@]}" "$venv" ||
      die 4 "python3 -m venv failed (Debian: python3-venv)"
    run "$venv/bin/python3" -m pip install --quiet -r "$suite/requirements.txt" >&2 ||
      die 4 "pip could not install requirements.txt into $venv (no network? README 2 tells what an NPU host needs)"
    cp "$suite/requirements.txt" "$venv/requirements.txt" # last: says that all of it is there
  fi
  PATH=$venv/bin:$PATH
}

model() { # README 1 and 3: checkpoint to ONNX; sets onnx, and demo if the weights are
  if [[ -z $weights ]]; then
    weights=demo.pth.tar
    step "1 Model: demo weights" python3 "$suite/tools/make_demo.py" "$images" "$labels" demo.pth.tar
  fi
  onnx=xception.onnx
  if [[ $weights == *.onnx ]]; then
    onnx=$weights
  else
    step "3 Conversion: PyTorch to ONNX" python3 "$suite/xception_pth2onnx.py" "$weights" xception.onnx
  fi
  demo=$(grep -aoF -m1 'demo weights' "$onnx" || true)
  [[ -z $demo || $weights != *.onnx ]] ||
    die 2 "$weights holds demo weights: give their checkpoint, to measure a reference from"
}

made_of() { # COMMAND FILE...: a text that says what was done, and the sha256 of each file (faster than sha256sum)
  printf '# %s\n' "$1"
  python3 -I -c 'import sys; sys.path.insert(0, sys.argv[1]); from common.files import hash_of
for name in sys.argv[2:]: print(hash_of(name), "", name)' "$suite" "${@:2}" # -I: no module from this folder
}

precision_flag() { # f32, fp16 or bf16: how atc is told
  case $1 in
    f32) echo --precision_mode=must_keep_origin_dtype ;;
    fp16) echo --precision_mode=force_fp16 ;;
    bf16) echo --precision_mode_v2=mixed_bfloat16 ;;
  esac
}

compile_om() { # BATCH [PRECISION FLAG]: README 3
  local name="3 Conversion: ONNX to om, batch $1${2:+, $2}" om=xception_bs$1${2:+_$2}.om command made
  command=(atc --framework=5 "--model=$onnx" "--output=${om%.om}" --input_format=NCHW
    "--input_shape=image:$1,3,299,299" --log=error "--soc_version=$soc_version"
    ${aipp:+"--insert_op_conf=$suite/tools/xception_aipp.cfg"} "${@:3}")
  made="$(command -v atc) ${command[*]}"
  if [[ -s $om && -s $om.made && $(made_of "$made" "$onnx" "$om") == "$(<"$om.made")" ]]; then
    banner "$name" "${command[@]}"
    printf '%s is there, of this ONNX and command: kept\n' "$om" >&2
    return
  fi
  rm -f "$om" "$om.made"
  step "$name" "${command[@]}"
  # atc's word is not proof (README 3)
  python3 "$suite/host/om.py" "$om" || die 4 "step \"$name\": atc left no whole $om"
  made_of "$made" "$onnx" "$om" >"$om.made.part" || die 4 "$workdir/$om.made: cannot be written (is the disk full?)"
  mv "$om.made.part" "$om.made"
}

tensors() { # [--share=R/W]: README 4
  step "4 Data set: images to tensors" python3 "$suite/img_preprocess.py" "$images" ./prep_dataset "--resize=$resize" \
    ${interpolation:+"--interpolation=$interpolation"} ${aipp:+--aipp} "--on-error=$on_error" "${some[@]}" "$@"
  step "4 Data set: info file" python3 "$suite/gen_dataset_info.py" bin ./prep_dataset ./xception.info 299 299
}

label_file() { # README 4: sets labels to a val_label.txt, where they are told in another way, or for some images
  rm -f classes.txt # of another data set
  [[ $labels != */val_label.txt || -n $look ]] || return 0
  step "4 Data set: labels" python3 "$suite/tools/labels.py" "$labels" val_label.txt ${synsets:+"--synsets=$synsets"} \
    --names=classes.txt ${look:+--of=./prep_dataset}
  labels=$PWD/val_label.txt
}

quick_look() { # README 4: goes on in a folder of its own, with links to the model
  local name
  mkdir -p "$look"
  cp commands.txt "$look"
  cd "$look"
  for name in ../demo.pth.tar ../xception.onnx ../xception_bs*.om; do
    [[ ! -e $name ]] || ln -sf "$name" .
  done
}

infer() { # BATCH OM OUT: README 5; with --sweep also on made-up data (README 7)
  local options=("--batch_size=$1" "--device_ids=$device_ids" ${engine:+"--engine=$engine"})
  step "5 Offline inference, batch $1" python3 "$suite/tools/infer.py" "$2" "$3" \
    --info=./xception.info "${options[@]}"
  [[ -z $sweep ]] ||
    step "7 Pure inference, batch $1" python3 "$suite/tools/infer.py" "$2" "result/pure_bs$1" \
      --round=20 "${options[@]}"
}

reference() { # README 6: sets reference, if it is to be measured, as that of demo weights always is
  [[ -z $demo ]] || reference=measure
  [[ $reference == measure ]] || return 0
  step "6 Accuracy: reference, plain PyTorch on the same photos" \
    python3 "$suite/tools/pytorch_reference.py" "$weights" "$images" "$labels" "--resize=$resize" >reference.txt
  reference=$(<reference.txt)
}

accuracy() { # BATCH [FIRST BATCH]: README 6; a gate that is not met is remembered, so that the tables still come
  local command status=0
  command=(python3 "$suite/imagenet_acc_eval.py" "result/${dumps}_bs$1" "$labels" . "result_bs$1.json"
    "--reference=$reference" --max-drop=1.0 "--details=details_bs$1.csv" ${2:+"--same-as=result_bs$2.json"})
  [[ $on_error == fail ]] || command+=(--allow-missing)
  banner "6 Accuracy, batch $1" "${command[@]}"
  run "${command[@]}" >"accuracy_bs$1.txt" || status=$?
  ((status <= 1)) || die "$status" "step \"6 Accuracy, batch $1\" failed (exit status $status)"
  ((status == 0)) || verdict=1
  grep -v '^top-' "accuracy_bs$1.txt"
}

tables() { # BATCH...: what the run found
  local batch records=() pure=()
  for batch in "$@"; do
    if [[ -n $score ]]; then
      shares_of "$batch"
      records+=("${shares[@]}")
    else
      records+=("result/dumpOutput_bs$batch.json")
    fi
    [[ -z $sweep ]] || pure+=("result/pure_bs$batch.json")
  done
  python3 "$suite/tools/throughput.py" "${records[@]}" "--soc_version=$soc_version" \
    ${sweep:+--csv=throughput.csv --pure "${pure[@]}"} >throughput.txt
  printf '\n== Accuracy, batch %s\n%s\n' "$1" "$(sed -n 2p throughput.txt)"
  [[ -z $look ]] || printf 'A quick look at some of the images: %s\n' "${some[*]}"
  [[ -z $demo ]] || printf 'Demo weights, fitted to these photos: they know nothing of ImageNet.\n'
  cat "accuracy_bs$1.txt"
  for batch in "${@:2}"; do sed -n "s/^\(FAILED\|DISAGREES\)/batch $batch: &/p" "accuracy_bs$batch.txt"; done
  printf '\n== '
  cat throughput.txt
}

show() { # README 7: report.html; a run without its packages is a run all the same
  local status=0
  rm -f report.html
  run python3 "$suite/tools/report.py" . || status=$?
  ((status == 0)) || printf 'run_all.sh: no report.html, for the reason above; the figures are whole\n' >&2
}

compare_precisions() { # BATCH: README 6.5: each recipe in a folder of its own, each precision on its tensors
  local top=$PWD place partial=()
  [[ $on_error == fail ]] || partial=(--allow-missing)
  for resize in 333 342; do
    for interpolation in bilinear bicubic; do
      place=study/${resize}_$interpolation
      mkdir -p "$place"
      cd "$place"
      tensors
      label_file
      for precision in f32 fp16 bf16; do
        infer "$1" "../../xception_bs$1_$precision.om" "result/dump_$precision"
        step "6 Accuracy, $resize $interpolation, $precision" python3 "$suite/imagenet_acc_eval.py" \
          "result/dump_$precision" "$labels" . "result_$precision.json" "--details=details_$precision.csv" \
          "${partial[@]}"
      done
      cd "$top"
    done
  done
  step "6 Recipe and precision" python3 "$suite/tools/study.py" study "--onnx=$onnx"
}

work_share() { # BATCH...: README 5.2: one rank's share of the images, on device LOCAL_RANK
  local batch name=share${rank}of$world
  hold "$name.lock" "$workdir/$name"
  mkdir -p "$name"
  cd "$name"
  tensors "--share=$rank/$world"
  for batch in "$@"; do infer "$batch" "../xception_bs$batch.om" "../result/dumpShares_bs$batch/$name"; done
  printf 'share %s of %s is done; when all are: the same command without torchrun and with --score\n' "$rank" "$world"
}

shares_of() { # BATCH: sets shares to the records of its shares, as infer.py names them
  local record
  shares=()
  for record in "result/dumpShares_bs$1"/share*of*.json; do
    [[ ! ${record##*/} =~ ^share[0-9]{1,6}of[1-9][0-9]{0,5}\.json$ ]] || shares+=("$record")
  done
}

check_shares() { # BATCH: README 5.2: refuses while a share is missing or unfinished
  local all
  shares_of "$1"
  ((${#shares[@]})) || die 3 "$workdir/result/dumpShares_bs$1: no share of the images there: run the ranks first"
  all=${shares[0]##*of} all=${all%.json}
  ((${#shares[@]} == all)) ||
    die 3 "$workdir/result/dumpShares_bs$1: ${#shares[@]} of $all shares: run the missing ranks first"
  python3 "$suite/tools/throughput.py" "${shares[@]}" >/dev/null || die 3 "not all shares of batch $1 are finished"
}

main() {
  local batch batches first=''
  parse_arguments "$@"
  trap 'stop 129' HUP
  trap 'stop 130' INT
  trap 'stop 143' TERM
  if [[ -n $check ]]; then
    check
    return
  fi
  find_inputs
  check_options
  find_tools
  set_up_python
  mkdir -p "$workdir" || die 4 "$workdir: the folder cannot be made"
  workdir=$(realpath "$workdir")
  cd "$workdir"
  [[ -w . ]] || die 4 "$workdir: no permission to write there, or a read-only disk"
  if ((world == 1)); then hold .lock "$workdir"; else hold .lock "$workdir" --shared; fi
  ((world == 1)) || commands=$workdir/commands_$rank.txt
  own "$commands"
  : >"$commands"
  banner "work directory" cd "$workdir"

  IFS=, read -ra batches <<<"$batch_sizes"
  own .model.lock
  exec 9>.model.lock
  flock 9 # the first of several ranks makes the model, the others find it
  model
  if [[ -n $study ]]; then
    for precision in f32 fp16 bf16; do
      compile_om "${batches[0]}" "$precision" "$(precision_flag "$precision")"
    done
    exec 9>&-
    [[ -z $look ]] || quick_look
    compare_precisions "${batches[0]}"
    return
  fi
  for batch in "${batches[@]}"; do compile_om "$batch" "" ${precision:+"$(precision_flag "$precision")"}; done
  ((world == 1)) || find . -maxdepth 3 -regextype posix-extended \
    -regex '\./(result/dumpShares_bs[0-9]+/)?share[0-9]+of[0-9]+(\.json|\.lock)?' \
    ! -regex ".*of$world(\.json|\.lock)?" -exec rm -rf {} + # another split's
  exec 9>&-
  if ((world > 1)); then
    work_share "${batches[@]}"
    return
  fi

  if [[ -n $score ]]; then
    dumps=dumpShares
    for batch in "${batches[@]}"; do check_shares "$batch"; done
  else
    [[ -z $look ]] || quick_look
    tensors
    for batch in "${batches[@]}"; do infer "$batch" "./xception_bs$batch.om" "result/dumpOutput_bs$batch"; done
  fi
  label_file
  reference
  for batch in "${batches[@]}"; do
    accuracy "$batch" "$first"
    first=${batches[0]}
  done
  step "7 What ran, on record" python3 "$suite/tools/run_record.py" "--weights=$weights" "--onnx=$onnx" \
    "--batch_sizes=$batch_sizes" "--soc_version=$soc_version" "--reference=$reference" ${score:+--score} \
    ${demo:+--demo} ${look:+"--quick_look=${some[*]}"}
  tables "${batches[@]}"
  show
  return "$verdict"
}

main "$@"; exit # on one line: bash must read no further, should this file change while it runs
