#!/usr/bin/env bash
# Make the virtual environment that `make` runs in:
#
#     install.sh PYTHON VENV MMINSTALL all|segmentation
#
# MMINSTALL is the requirements file of the OpenMMLab libraries. `segmentation` is enough for
# the demo and compiles nothing: no mmdet, and mmcv without its operators. `all` adds the
# rest to the same environment. After a failure the script can be run again; it keeps what
# is already installed.
set -euo pipefail

base_python=$1
venv=$2
mminstall=$3
part=$4
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
    [ "$part" = all ] || return 0
    local include
    include=$("$base_python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
    echo '#include <Python.h>' |
        ${CXX:-c++} -x c++ -fsyntax-only -I"$include" - 2>/dev/null ||
        fail "the C++ compiler '${CXX:-c++}' is missing or does not find Python.h in $include; mmcv is compiled here." \
            'on Debian: apt-get install g++ python3-dev'
}

# Print the elapsed time of a long step every 30 s, and how many files of mmcv are compiled
# (ninja writes "[12/90] c++ ..." into the log).
report_progress() {  # LOG
    local start=$SECONDS compiled
    # A killed reporter leaves its sleep behind, which must not keep make's output open.
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
        fail "step '$step' failed; its output is in $log." "$remedy"
    fi
}

# opencv-python needs desktop libraries, which a server or container may lack; the headless
# build of the same version does not.
ensure_cv2() {
    local error version
    error=$("$python" -c 'import cv2' 2>&1) && return
    version=$("$python" -c 'from importlib.metadata import version; print(version("opencv-python"))' 2>/dev/null) &&
        grep -qE 'lib[A-Za-z0-9_.+-]+\.so[0-9.]*: cannot open shared object file' <<<"$error" ||
        fail "cv2 does not import: ${error##*$'\n'}" 'make clean, then run make again'
    echo "      ${error##*$'\n'}"
    echo "      taking opencv-python-headless $version in place of opencv-python"
    # Both packages own the folder cv2, so remove one before installing the other.
    "$python" -m pip uninstall -y opencv-python opencv-python-headless >"$logs/cv2.log" 2>&1
    pip_install cv2-headless 'on Debian: apt-get install libgl1 libglib2.0-0, then make clean and make again' \
        --no-deps "opencv-python-headless==$version"
    error=$("$python" -c 'import cv2' 2>&1) ||
        fail "cv2 does not import: ${error##*$'\n'}" 'on Debian: apt-get install libgl1 libglib2.0-0'
}

network='check that pip reaches its package index (pip download --no-deps six), then run make again: it continues from here'
export PIP_DISABLE_PIP_VERSION_CHECK=1
export MAX_JOBS=${MAX_JOBS:-$(nproc)}

# Another index for torch, or a folder of wheels: TORCH_INDEX.
torch_index=()
if [ -n "${TORCH_INDEX:-}" ]; then
    if [ -d "$TORCH_INDEX" ]; then
        torch_index=(--find-links "$TORCH_INDEX")
    else
        torch_index=(--extra-index-url "$TORCH_INDEX")
    fi
fi

has_operators() {
    "$python" -c 'import importlib.util, sys; sys.exit(not importlib.util.find_spec("mmcv._ext"))' 2>/dev/null
}

check_machine
echo "Installing into $venv; logs in $logs."
"$python" -c '' 2>/dev/null || "$base_python" -m venv --clear "$venv" ||
    fail "'$base_python -m venv' failed." 'on Debian: apt-get install python3-venv'
mkdir -p "$logs"

echo '[1/4] torch and the build tools'
pip_install build "$network" ${torch_index[@]+"${torch_index[@]}"} -r requirements/torch.txt -r requirements/build.txt
if [ "$part" = segmentation ]; then
    echo '[2/4] mmengine, mmseg, and mmcv without its operators'
    grep -vE '^#|mmdet|pycocotools' "$mminstall" >"$logs/segmentation.txt"
    if ! has_operators; then
        # OpenMMLab's mmcv without operators has a name of its own.
        sed -i 's/^mmcv==/mmcv-lite==/' "$logs/segmentation.txt"
        grep 'mmcv' "$logs/segmentation.txt" >"$logs/mmcv.txt"
        # Not into pip's cache: a later installation would take it for the complete package.
        # torch's build commands call a compiler even when there is nothing to compile; any
        # program that exits with 0 will do.
        MMCV_WITH_OPS=0 CXX=true pip_install mmcv "$network" \
            --no-cache-dir --no-deps --no-build-isolation -r "$logs/mmcv.txt"
    fi
    pip_install segmentation "$network" --no-build-isolation -r "$logs/segmentation.txt"
    extra=()
    modules='cv2, mmseg, mmgcnl'
else
    echo '[2/4] mmcv, mmengine, mmdet, mmseg'
    if ! has_operators; then
        echo '      mmdet needs the operators of mmcv, and there is no binary package of them.'
        echo '      pip compiles them once, about 12 minutes on 2 cores, and keeps the result.'
        "$python" -m pip uninstall -y mmcv mmcv-lite onedl-mmcv >"$logs/mmcv.log" 2>&1 || true
    fi
    pip_install mminstall "if the compiler was killed, memory ran out: make MAX_JOBS=1; with a GPU: docs/install.md; otherwise $network" \
        --no-build-isolation -r "$mminstall"
    extra=(-r requirements/explorer.txt -r requirements/export.txt -r requirements/tests.txt)
    modules='cv2, mmcv.ops, mmdet, mmseg, mmgcnl'
fi
ensure_cv2
echo '[3/4] other requirements'
pip_install others "$network" -r requirements/tools.txt -r requirements/studies.txt ${extra[@]+"${extra[@]}"}
echo '[4/4] mmgcnl itself, editable'
pip_install mmgcnl "$network" --no-build-isolation --no-deps -e .

"$python" -c "import $modules" >/dev/null ||
    fail 'the installed libraries do not import together (error above).' \
        "an mmcv compiled for another torch, or without operators, may have been kept: $python -m pip cache remove '*mmcv*'; make clean; make again"
echo 'Installed.'
