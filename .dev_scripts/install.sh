#!/usr/bin/env bash
# Make the virtual environment that `make` runs in: install.sh PYTHON VENV MMINSTALL,
# the last being the requirements file of the OpenMMLab libraries.
# Can be run again after a failure: what is already installed is kept.
set -euo pipefail

base_python=$1
venv=$2
mminstall=$3
python=$venv/bin/python
logs=$venv/logs

fail() {  # REASON REMEDY
    printf '\nInstallation stopped: %s\nWhat to do: %s\n' "$1" "$2" >&2
    exit 1
}

check_machine() {
    "$base_python" -c '' 2>/dev/null ||
        fail "'$base_python' does not run." \
            'install Python 3.11, or name yours: make PYTHON=/path/to/python3.11'
    "$base_python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        fail "'$base_python' is $("$base_python" --version 2>&1), older than 3.10." \
            'name a newer one: make PYTHON=/path/to/python3.11'
    "$base_python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "'$base_python' has no venv module." \
            'on Debian: apt-get install python3-venv'
    local include
    include=$("$base_python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
    echo '#include <Python.h>' |
        ${CXX:-c++} -x c++ -fsyntax-only -I"$include" - 2>/dev/null ||
        fail "the C++ compiler '${CXX:-c++}' is missing or does not find Python.h in $include; mmcv is compiled here." \
            'on Debian: apt-get install g++ python3-dev'
}

# Long steps say every 30 s that they are alive, and how far mmcv's build is
# (ninja writes "[12/90] c++ ..." into the log).
report_progress() {  # LOG
    local start=$SECONDS compiled
    # The sleep outlives a kill: it must not keep a pipe open behind make.
    while sleep 30 >/dev/null 2>&1; do
        compiled=$(grep -o '^ *\[[0-9]*/[0-9]*\]' "$1" | tail -n 1 | tr -d ' []') || true
        echo "      $(((SECONDS - start) / 60)) min $(((SECONDS - start) % 60)) s" \
            "${compiled:+($compiled files compiled)}"
    done
}

pip_install() {  # STEP REMEDY PIP_ARGUMENTS...
    local step=$1 remedy=$2 log=$logs/$1.log reporter status=0
    shift 2
    report_progress "$log" &
    reporter=$!
    trap "kill $reporter 2>/dev/null" EXIT
    "$python" -m pip install -v "$@" </dev/null >"$log" 2>&1 || status=$?
    kill $reporter 2>/dev/null || true
    wait $reporter 2>/dev/null || true
    trap - EXIT
    if [ $status -ne 0 ]; then
        grep -iE '(^|[^a-z])(error|killed|fatal)' "$log" | cut -c1-300 | tail -n 15 >&2 || true
        fail "step '$step' failed; everything it said is in $log." "$remedy"
    fi
}

# opencv-python needs the libraries of a desktop, which a server or container
# may lack; the headless build of the same version does without.
ensure_cv2() {
    local error version
    error=$("$python" -c 'import cv2' 2>&1) && return
    version=$("$python" -c 'from importlib.metadata import version; print(version("opencv-python"))' 2>/dev/null) &&
        grep -qE 'lib[A-Za-z0-9_.+-]+\.so[0-9.]*: cannot open shared object file' <<<"$error" ||
        fail "cv2 does not import: ${error##*$'\n'}" 'make clean, then make again'
    echo "      ${error##*$'\n'}"
    echo "      taking opencv-python-headless $version in place of opencv-python"
    # Both own the folder cv2: the first must go before the second comes.
    "$python" -m pip uninstall -y opencv-python opencv-python-headless >"$logs/cv2.log" 2>&1
    pip_install cv2-headless 'on Debian: apt-get install libgl1 libglib2.0-0, then make clean and make again' \
        --no-deps "opencv-python-headless==$version"
    error=$("$python" -c 'import cv2' 2>&1) ||
        fail "cv2 does not import: ${error##*$'\n'}" 'on Debian: apt-get install libgl1 libglib2.0-0'
}

network='see that pip reaches its package index (pip download --no-deps six), then make again: it goes on from here'
export PIP_DISABLE_PIP_VERSION_CHECK=1
export MAX_JOBS=${MAX_JOBS:-$(nproc)}

check_machine
echo "Installing into $venv; logs in $logs."
"$python" -c '' 2>/dev/null || "$base_python" -m venv --clear "$venv" ||
    fail "'$base_python -m venv' failed." 'on Debian: apt-get install python3-venv'
mkdir -p "$logs"

echo '[1/4] torch and what mmcv is built with'
pip_install build "$network" -r requirements/build.txt
echo '[2/4] mmcv, mmengine, mmdet, mmseg'
echo "      mmcv has no binary package: the first time, pip compiles it, about 12 minutes on 2 cores."
echo '      pip keeps what it compiled: later installations take seconds.'
pip_install mminstall "if the compiler was killed, memory ran out: make MAX_JOBS=1; with a GPU: docs/install.md; otherwise $network" \
    --no-build-isolation -r "$mminstall"
ensure_cv2
echo '[3/4] runtime and test requirements'
pip_install tests "$network" -r requirements/runtime.txt -r requirements/tests.txt
echo '[4/4] mmgcnl itself, editable'
pip_install mmgcnl "$network" --no-build-isolation --no-deps -e .

"$python" -c 'import cv2, mmcv.ops, mmdet, mmseg, mmgcnl' >/dev/null ||
    fail 'the installed libraries do not import together (error above).' \
        "an mmcv compiled for another torch may have been kept: $python -m pip cache remove '*mmcv*'; make clean; make again"
echo 'Installed.'
