#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Make the speech to train on, and held-out sets that share nothing with it:
#   configs/speech.sh WORK [SPEECH]
# writes WORK/train.jsonl and WORK/{questions,dialogue,accented,read}.jsonl. Requires
# Debian's wordnet-base, flite and espeak-ng, and 15 GB of disk. By default Kokoro speaks
# 10,000 lines, which takes two cores some hours. Run it again to resume.
#
# SPEECH is a folder of human speech, one subfolder per source with a manifest.jsonl:
#   fotaq_dialogue, speechocean762, kathleen, picovoice_barista, picovoice_wakewords
#   train; drascula_en, vctk_excerpt, ljspeech_excerpt and twelve speakers are held out.
# Without it there is synthetic speech only. Download human speech yourself, and prepare
# each where it was unpacked, with data_pipeline.prepare --output=NAME/prepared and
#   LibriSpeech   openslr.org/12             --corpus=librispeech --input=LibriSpeech
#   VCTK 0.92     datashare.ed.ac.uk         --corpus=vctk --input=VCTK-Corpus-0.92
#   Common Voice  commonvoice.mozilla.org    --corpus=common_voice --input=cv-corpus/en
# and train on all of them:
#   --config.data.train='WORK/prepared,librispeech/prepared*2,vctk/prepared'
# Leave out of training what you evaluate on: LibriSpeech's test-clean, and of VCTK the
# speakers p225 to p228, who are in vctk_excerpt.
set -euo pipefail
[ $# -ge 1 ] || { echo "usage: $0 WORK [SPEECH]" >&2; exit 1; }
mkdir -p "$1/text"
work=$(realpath "$1") speech=${2:+$(realpath "$2")}
cd "$(dirname "$0")/.."
python=.venv/bin/python
asked=${ASKED:-6000}            # questions and requests by Kokoro
asked_fast=${ASKED_FAST:-4000}  # and by the fast engines
read=${READ:-4000}              # lines made from WordNet by Kokoro
read_fast=${READ_FAST:-45000}   # and by the fast engines

repeat() { for _ in $(seq "$1"); do printf '%s,' "$2"; done; }
synthesize() { # NAME VOICES SEED: speak WORK/text/NAME.txt
  $python -m data_pipeline.synthesize --input="$work/text/$1.txt" \
    --output="$work/$1" --voices="$2" --seed="$3"
}

# Sixteen voices of Kokoro and fourteen blends; bf_isabella and am_onyx stay unheard.
kokoro=$(printf 'kokoro:%s,' af_{heart,bella,nicole,sarah,nova,alloy} \
  am_{michael,fenrir,puck,adam,liam} bf_{emma,alice} bm_{george,fable,daniel} \
  af_heart+bf_emma af_bella+am_fenrir af_sarah+af_aoede af_kore+bf_lily \
  af_jessica+am_echo af_river+bm_lewis af_sky+af_nicole am_michael+bm_george \
  am_eric+am_puck am_santa+bm_fable am_adam+bm_daniel am_liam+bf_alice \
  bf_lily+bm_lewis af_nova+am_echo)
natural=$(repeat 8 flite:slt)$(repeat 8 flite:awb)$(repeat 4 flite:kal16)
robots=$(printf 'espeak-ng:%s,' en-us+{f1,f2,f4,m1,m2,m3,m7,linda,Annie,Andy} \
  en-gb+{f3,m5} en-gb-scotland+m7 en-029+f3 en-gb-x-rp+m1 en-gb-x-gbclan+f2)

$python -m data_pipeline.questions --count="$asked" --output="$work/text/asked.txt"
$python -m data_pipeline.questions --count="$asked_fast" --seed=1 \
  --output="$work/text/asked_fast.txt"
$python -m data_pipeline.sentences --count="$((read + read_fast))" \
  --output="$work/text/lines"
head -n "$read" "$work/text/lines.txt" > "$work/text/read_aloud.txt"
tail -n "+$((read + 1))" "$work/text/lines.txt" > "$work/text/read_aloud_fast.txt"
synthesize asked_fast "$natural${robots%,}" 1
synthesize read_aloud_fast "$natural${robots%,}" 0
synthesize asked "${kokoro%,}" 0
synthesize read_aloud "${kokoro%,}" 1

# Held-out questions: fifteen by each of four unheard voices, the first one by all.
$python -m data_pipeline.questions --split=heldout --count=57 \
  --output="$work/text/questions.txt"
first=2
for voice in kokoro:bf_isabella kokoro:am_onyx piper:asset:joe-voice flite:rms; do
  name=questions-${voice##*:}
  { head -n 1 "$work/text/questions.txt"
    tail -n "+$first" "$work/text/questions.txt" | head -n 14
  } > "$work/text/$name.txt"
  synthesize "$name" "$voice" 0
  first=$((first + 14))
done

training=$(printf "$work/%s," asked asked_fast read_aloud read_aloud_fast)
training+=data_pipeline/recordings
held_out=(--held_out="questions:all:$(printf "$work/questions-%s," \
  bf_isabella am_onyx joe-voice rms)")
if [ -n "$speech" ]; then
  training+=$(printf ",$speech/%s" fotaq_dialogue speechocean762 \
    speechocean762/manifest_heavy_accent.jsonl kathleen picovoice_barista \
    picovoice_wakewords)
  # Six children and six adults, whom Whisper base understands well, partly and hardly.
  accented=$(printf '@so762_%s,' 3208 5414 5406 0054 0096 8153 \
    2621 2129 1030 2089 9617 9633)
  held_out+=(--held_out="dialogue:150:$speech/drascula_en"
    --held_out="accented:120:$accented"
    --held_out="read:100:$speech/vctk_excerpt,$speech/ljspeech_excerpt")
fi
$python -m data_pipeline.hold_out --output="$work" --train="$training" "${held_out[@]}"
$python -m data_pipeline.prepare --input="$work/train.jsonl" --output="$work/prepared"
