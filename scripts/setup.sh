#!/usr/bin/env bash
# Makes .venv with everything that ForeAct needs, and finds a way to render. Run again, it returns at once.
#   PYTHON           the interpreter (default: the first suitable of python3, python3.13, python3.12, python3.11)
#   VENV             the folder of the virtual environment (default .venv)
#   TORCH_INDEX_URL  the package index to take torch from, such as a mirror or another CUDA version
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${VENV:-.venv}
torch_cpu_index=https://download.pytorch.org/whl/cpu

say() { printf '%s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }
# Twice quiet: errors only.
venv_pip() { "$venv/bin/python" -m pip --disable-pip-version-check --quiet --quiet "$@"; }

find_python() {
    local candidate version found=""
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        version=$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2> /dev/null) || continue
        case $version in
            3.11 | 3.12 | 3.13) command -v "$candidate"; return ;;
        esac
        found+="${found:+, }$candidate is $version"
    done
    fail "ForeAct needs Python 3.11, 3.12 or 3.13; found ${found:-no ${PYTHON:-python3}}." \
        "Install one (Debian 12, Ubuntu 24.04: apt-get install python3 python3-venv) or name one: make setup PYTHON=/path/to/python3.12"
}

make_venv() {
    local version
    version=$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    "$1" -c 'import ensurepip, venv' 2> /dev/null ||
        fail "$1 cannot make virtual environments. On Debian and Ubuntu: apt-get install python$version-venv"
    say "Making $venv with $1 (Python $version)"
    rm -rf "$venv"
    mkdir -p "$venv"
    touch "$venv/foreact.place" # even a half-made one is known as ours
    "$1" -m venv "$venv"
    echo "$place" > "$venv/foreact.place"
}

# The CPU build has no `nvidia-*` dependencies; the default build of the public index brings gigabytes of them. Its version
# ends in "+cpu", which the public index does not carry, so asking for exactly that finds it in sources that the user
# has configured (a mirror, a folder of wheels) or fails at once; then PyTorch's own CPU index serves it.
install_torch() {
    local version=$1
    if [ -n "${TORCH_INDEX_URL:-}" ]; then
        say "Installing torch $version from TORCH_INDEX_URL"
        venv_pip install --no-deps --index-url "$TORCH_INDEX_URL" "torch==$version" ||
            fail "no torch $version for this Python at TORCH_INDEX_URL=$TORCH_INDEX_URL (pip's reason is above)"
    elif [ "$gpu" = yes ]; then
        say "Installing torch $version with CUDA: nvidia-smi shows a GPU (several gigabytes)"
        venv_pip install -c constraints.txt "torch==$version"
    elif [ "$(uname -s)" != Linux ]; then
        venv_pip install --no-deps "torch==$version" # only Linux has two builds
    else
        say "Installing torch $version, CPU build: nvidia-smi shows no GPU"
        venv_pip install --no-deps "torch==$version+cpu" 2> /dev/null ||
            venv_pip install --no-deps --index-url "$torch_cpu_index" "torch==$version+cpu" ||
            fail "the CPU build of torch $version was found neither in pip's configured sources nor at $torch_cpu_index" \
                "(pip's reason is above). Name an index that has it: make setup TORCH_INDEX_URL=..."
    fi
}

# Headless rendering: MuJoCo draws through EGL or OSMesa. What already works is taken as it is; else Mesa's EGL, the faster one.
find_renderer() {
    "$venv/bin/python" scripts/pick_gl.py > "$venv/gl.log" 2>&1 && return
    local packages=(libegl1 libgl1 libgl1-mesa-dri) sudo=""
    [ "$(id -u)" = 0 ] || sudo="sudo -n"
    if command -v apt-get > /dev/null && $sudo true 2> /dev/null; then
        say "Installing Debian packages for headless rendering: ${packages[*]}"
        { $sudo apt-get update -qq && $sudo env DEBIAN_FRONTEND=noninteractive \
            apt-get install -y -qq --no-install-recommends "${packages[@]}"; } >> "$venv/gl.log" 2>&1 || true
        "$venv/bin/python" scripts/pick_gl.py >> "$venv/gl.log" 2>&1 && return
    fi
    cat "$venv/gl.log" >&2
    say "setup: no way to render was found (above); the simulator needs one, training from stores does not." >&2
    say "setup: on Debian and Ubuntu: sudo apt-get install ${packages[*]}, then make setup again" >&2
    return 1
}

gpu=no
if nvidia-smi -L 2> /dev/null | grep -q GPU; then gpu=yes; fi
python=$(find_python)
# A virtual environment holds absolute paths and one interpreter; a moved folder or another Python needs a new one.
place="$PWD $venv $("$python" -VV | tr '\n' ' ')"
key=$({ cat pyproject.toml constraints.txt scripts/setup.sh; echo "$gpu ${TORCH_INDEX_URL:-}"; } | sha256sum)
if [ -n "$(ls -A "$venv" 2> /dev/null)" ] && [ ! -e "$venv/foreact.place" ]; then
    fail "$venv is there already and was not made by this script. Remove it, or name another place: make setup VENV=..."
fi
if [ "$(cat "$venv/foreact.place" 2> /dev/null)" != "$place" ]; then
    make_venv "$python"
fi
if [ "$(cat "$venv/foreact.key" 2> /dev/null)" != "$key" ]; then
    install_torch "$(sed -n 's/^torch==//p' constraints.txt)"
    say "Installing ForeAct and its libraries (a minute or two)"
    venv_pip install -c constraints.txt --editable '.[sim,train,data,lora,robot,zenoh,dev]'
    echo "$key" > "$venv/foreact.key"
    if [ "$gpu" = yes ] && ! "$venv/bin/python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
        say "setup: nvidia-smi shows a GPU but torch cannot use it, so ForeAct will run on the CPU. If the driver is old," \
            "a build for an older CUDA helps: make clean, then make setup TORCH_INDEX_URL=https://download.pytorch.org/whl/cu126" >&2
    fi
fi
if [ ! -e "$venv/foreact.gl" ] && find_renderer; then
    mv "$venv/gl.log" "$venv/foreact.gl"
    say "Ready ($(tail -n 1 "$venv/foreact.gl")). Next: make demo, or: source $venv/bin/activate"
fi
