#!/bin/sh
# Makes Warden's spoken prompts: 8 kHz, mono, 16-bit WAV, trimmed, peaks at -6 dBFS, into src/warden/media/prompts.
# Needs Debian's espeak-ng and sox. Run from anywhere: prompts/make.sh [TARGET_FOLDER]
# The words are below: one prompt a line, its name and what is said. A new prompt is a new line.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
target=${1:-$here/../src/warden/media/prompts}
mkdir -p "$target"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

while IFS='|' read -r name words; do
    [ -n "$name" ] || continue
    espeak-ng -v en-us+f3 -s 150 -p 45 -w "$work/spoken.wav" "$words" </dev/null
    # Both ends are cut where the voice begins and ends (1 %), a little silence is left so that words do not run together.
    sox -D "$work/spoken.wav" -r 8000 -b 16 -c 1 "$target/$name.wav" \
        rate 8000 highpass 200 \
        silence 1 0.01 1% fade t 0.005 reverse silence 1 0.01 1% fade t 0.01 reverse \
        pad 0.02 0.06 norm -6
done <<'WORDS'
0|zero
1|one
2|two
3|three
4|four
5|five
6|six
7|seven
8|eight
9|nine
10|ten
11|eleven
12|twelve
13|thirteen
14|fourteen
15|fifteen
16|sixteen
17|seventeen
18|eighteen
19|nineteen
20|twenty
30|thirty
40|forty
50|fifty
hundred|hundred
oh|oh
o-clock|o'clock
am|A M
pm|P M
and|and
seconds|seconds
precisely|precisely
the-time-is|The time is
at-the-tone|At the tone, the time will be
hours|hours
minutes|minutes
echo-test|This is an echo test. Whatever you say is sent back to you.
goodbye|Goodbye.
not-available|The person you have called is not available.
not-in-service|The number you have dialled is not in service.
please-wait|Please wait.
WORDS
