#!/usr/bin/env bash
# From a bare machine to a running server, or to a tested one. See usage below, or ./run.sh help.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

# What runs here talks to itself on loopback, which is nothing for a proxy.
export no_proxy=${no_proxy:-${NO_PROXY:-}}
no_proxy=${no_proxy:+$no_proxy,}127.0.0.1,localhost
export NO_PROXY=$no_proxy

# Without HOME it is what the list of users says; where there is no entry either, a folder here, for pip's and uv's caches.
export HOME=${HOME:-$(cd ~ 2>/dev/null && pwd)}
[[ -n $HOME && -d $HOME && -w $HOME ]] || export HOME=$PWD/.home

# Debian packages that are installed where they are missing and we are root; every one has its reason.
server_packages=(
    libcurl4 # the embedded mongod is linked with it
)
bench_packages=(
    "${server_packages[@]}"
    wrk                # puts load on what is measured
    nginx              # carries nchan,
    libnginx-mod-nchan # the bar for handing one message to many
)
test_packages=(
    "${bench_packages[@]}"
    nginx # the server is tested behind it, with conf/nginx.conf
    apache2 # the same, with mod_deflate, which changes the ETag of what it compresses
    nodejs # runs the JavaScript client against a bad network
    chromium # shows the status page to its tests
    fonts-dejavu-core # the letters on their screenshots
)
# Node's own packages bring npm with them, Debian's do not. It installs what tests/e2e/npm names.
command -v npm >/dev/null || test_packages+=(npm)

usage() {
    cat <<'END'
Usage:
  ./run.sh              install what is needed, then run the server with sample data on an embedded
                        MongoDB and S3, and print calls to try; Ctrl-C stops everything
  ./run.sh test [ARG…]  install what the tests need, then run tox (with ARG…, such as: -e py311); without ARG…, every
                        environment of tox.ini, three at a time
  ./run.sh faults [ARG…] install the same, then kill, freeze and cut off whatever the server leans on, and see that it
                        keeps what docs/guarantees.md promises (about half an hour; ARG…, such as -k primary, go to
                        pytest; FAULTS=quick: a few minutes)
  ./run.sh bench [ARG…] install what the measurements need, then measure the server beside the bare framework
                        and its peers (under 5 minutes; --full: longer and more exact; --only polls: a part)
  ./run.sh help         this text

Environment:
  PORT                  where the server listens on 127.0.0.1 (default 8888)
  GENSTATUS_DATA_DIR    where the embedded MongoDB and S3 keep their data (default: .data in this folder)
END
}

say() {
    printf 'run.sh: %s\n' "$*" >&2
}

fail() {
    say "$@"
    exit 1
}

# Runs, and is new enough; a name on PATH alone says little (pyenv's shims are there for what is not).
is_suitable() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

# pythons KIND: the interpreters of tox.ini's list, newest first, as 3.11; KIND is `promised` or `tried`.
pythons() {
    sed -n "s/^$1 = //p" tox.ini | tr -s ', ' '\n' | sed 's/^py3/3./'
}

find_python() {
    local version
    for version in $(pythons promised) 3; do
        if is_suitable "python$version"; then
            printf '%s\n' "python$version"
            return
        fi
    done
    fail 'no Python 3.11 or newer found: install one (Debian 12 and later: apt-get install python3 python3-venv)'
}

apt_updated=
need_packages() {
    local package missing=()
    command -v dpkg-query >/dev/null || return 0
    for package in "$@"; do
        [[ $(dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null) == ii* ]] || missing+=("$package")
    done
    ((${#missing[@]})) || return 0
    if ((EUID)); then
        say "not installed: ${missing[*]}; if something fails below: sudo apt-get install ${missing[*]}"
        return 0
    fi
    say "installing ${missing[*]}"
    if [[ -z $apt_updated ]]; then
        apt-get -qq update
        apt_updated=yes
    fi
    DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends --yes "${missing[@]}" >/dev/null
}

# make_venv FOLDER: a virtual environment that runs, whatever was there before.
make_venv() {
    local python
    if is_suitable "$1/bin/python"; then
        [[ -f $1/installed-for ]] || "$1/bin/python" -m ensurepip >/dev/null
        return
    fi
    python=$(find_python)
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        need_packages python3-venv
        "$python" -c 'import ensurepip, venv' 2>/dev/null ||
            fail "$python cannot make virtual environments: install its venv module (Debian: apt-get install python3-venv)"
    fi
    "$python" -m venv --clear "$1"
}

# install_once VENV KEY ARG…: pip install ARG… unless that was done for the same KEY, in the same place.
install_once() {
    local venv=$1 stamp=$1/installed-for key
    key=$(printf '%s\n' "$PWD" "$2" "${@:3}")
    if [[ -f $stamp && $(<"$stamp") == "$key" ]]; then
        return
    fi
    rm -f "$stamp"
    say "installing into $venv (less than a minute as a rule): ${*:3}"
    "$venv/bin/python" -m pip install -qq --disable-pip-version-check "${@:3}"
    printf '%s\n' "$key" >"$stamp"
}

run_server() {
    make_venv .venv
    need_packages "${server_packages[@]}"
    # Editable: the server that runs is the one that is being edited.
    install_once .venv "$(<setup.py)" --editable '.[embedded]'
    export GENSTATUS_PORT=${PORT:-${GENSTATUS_PORT:-8888}}
    export GENSTATUS_DATA_DIR=${GENSTATUS_DATA_DIR:-$PWD/.data}
    exec .venv/bin/python -m genstatus_server demo
}

# All of pyenv's suitable interpreters at once, where there is a pyenv: otherwise only its chosen one runs.
show_pyenv_interpreters() {
    local wanted versions
    command -v pyenv >/dev/null || return 0
    wanted=$({ pythons promised && pythons tried; } | sed 's/\./\\./' | paste -sd '|')
    versions=$(pyenv versions --bare | grep -E "^($wanted)\.[0-9]+$" | paste -sd :) || return 0
    export PYENV_VERSION=$versions
}

# Coverage makes tests slower, and shows the same on each Python: it is measured on the newest one of this machine, and
# only where the report is wanted. tox.ini asks RUN_py311 and its like what to run pytest with; by itself it measures.
# Where all Pythons are run, what is marked as one_python is run on that one, too.
choose_what_is_measured() {
    local environment measured=
    if ((!$#)) || [[ $* == *coverage* ]]; then
        measured=$(newest_environment)
    fi
    for environment in $({ pythons promised && pythons tried; } | sed 's/3\./py3/') lowest; do
        [[ $environment != "$measured" ]] || continue
        export "RUN_$environment=python"
        # Two workers: the processors are the limit, and the run ends with the one that is measured.
        (($#)) || export "SUITE_PART_$environment=--without-one-python -n 2"
    done
}

# The name of the environment with the newest Python that is promised and there.
newest_environment() {
    local version
    for version in $(pythons promised); do
        if is_suitable "python$version"; then
            printf 'py%s\n' "${version/./}"
            return
        fi
    done
}

# uv, which fills tox's environments, reads no pip configuration: hand it pip's index where one is set.
show_pip_index() {
    local index
    index=${PIP_INDEX_URL:-$(.venv-tox/bin/python -m pip config get global.index-url 2>/dev/null || true)}
    if [[ -n $index ]]; then
        export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-$index}
    fi
}

# Out of tox's output: what came of each environment and how long it took, and the last line of its pytest.
# Those that were skipped come first, those with tests last.
closing_lines() {
    awk -v promised=" $(pythons promised | paste -sd ' ') " '
        /^[a-z0-9_-]+: commands\[/ { name = substr($0, 1, index($0, ":") - 1) }
        /^=+ .* in [0-9.]+s.* =+$/ { last[name] = $0 }
        /^py3[0-9]+: skipped because could not find python/ { missing[substr($1, 1, length($1) - 1)] = 1 }
        /^  [a-z0-9_-]+: (OK|SKIP|IGNORED FAIL|FAIL)/ {
            name = substr($1, 1, length($1) - 1)
            line = $0
            sub(/^ *[^ ]+ /, "", line)
            result[name] = line
            order[++count] = name
        }
        END {
            for (i = 1; i <= count; i++) if (order[i] in missing) {
                version = "3." substr(order[i], 4)
                if (index(promised, " " version " "))
                    print order[i] ": SKIPPED, there is no python" version " here: install it with its venv module" \
                        " (Debian: apt-get install python" version "-venv, or pyenv install " version ")"
            }
            for (i = 1; i <= count; i++) if (!(order[i] in last) && !(order[i] in missing))
                print order[i] ": " result[order[i]]
            for (i = 1; i <= count; i++) if (order[i] in last)
                print order[i] ": " result[order[i]] "\n" last[order[i]]
        }
    ' "$1"
}

run_tests() {
    local log status=0 closing how=(run)
    show_pyenv_interpreters
    make_venv .venv-tox
    need_packages "${test_packages[@]}"
    install_once .venv-tox 1 'tox>=4.40,<5' 'tox-uv>=1.20,<2'
    show_pip_index
    choose_what_is_measured "$@"
    export UV_PYTHON_DOWNLOADS=never
    # Once for each environment, rather than by all processes that tests start at the same time.
    export UV_COMPILE_BYTECODE=1
    # Trust what the machine trusts, as pip does.
    export UV_SYSTEM_CERTS=${UV_SYSTEM_CERTS:-true}
    if ((!$#)); then
        # Tests wait, and so do installations: what one environment leaves of the processors another one takes.
        how=(run-parallel --parallel 3)
        say 'three environments at a time, the output of each when it is through; on one Python only: what pytest marks one_python'
    fi
    log=$(mktemp)
    # shellcheck disable=SC2064 # the name as it is now
    trap "rm -f '$log'" EXIT
    .venv-tox/bin/tox "${how[@]}" "$@" 2>&1 </dev/null | tee "$log" || status=$?
    closing=$(closing_lines "$log")
    ((status == 0)) || say "tox FAILED with status $status (see its summary above); the environments closed with"
    printf '%s\n' "$closing"
    if ran_no_test "$closing"; then
        say 'NO TEST RAN: no environment with pytest found an interpreter, or none came as far (see above)'
        (($#)) || return 1
    fi
    return "$status"
}

# ran_no_test CLOSING: no pytest closed, though one was asked for.
ran_no_test() {
    ! grep -qE '^=+ .* in [0-9.]+s' <<<"$1" && { [[ -z $1 ]] || grep -qE '^(py3|faults|e2e|lowest)' <<<"$1"; }
}

# On the wheel that this folder gives. Without a path among the arguments, all of them.
run_faults() {
    export FAULTS=${FAULTS:-full}
    [[ $* == *tests/faults* ]] || set -- tests/faults "$@"
    run_tests -e faults -- "$@"
}

run_bench() {
    make_venv .venv-bench
    need_packages "${bench_packages[@]}"
    install_once .venv-bench "$(cat setup.py benchmarks/requirements.txt)" \
        --editable '.[embedded]' --requirement benchmarks/requirements.txt
    exec .venv-bench/bin/python -m benchmarks "$@"
}

case ${1-} in
'') run_server ;;
test) run_tests "${@:2}" ;;
faults) run_faults "${@:2}" ;;
bench) run_bench "${@:2}" ;;
help | -h | --help) usage ;;
*)
    usage >&2
    exit 2
    ;;
esac
