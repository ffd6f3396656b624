# Sourced by the commands in ops/ and .ci/, which set $root first: the Python environment in $root/.venv, from the
# locks in ops/lock, and Debian's packages. POSIX sh.

say() { printf '%s\n' "$*" >&2; }

# is_python COMMAND: it runs and is new enough.
is_python() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

# find_python: the name of a Python >= 3.11; fails without a word where there is none.
find_python() {
    for name in python3 python3.11 python3.12 python3.13 python3.14 /usr/bin/python3; do
        if is_python "$name"; then
            printf '%s\n' "$name"
            return 0
        fi
    done
    return 1
}

can_apt() { [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null 2>&1; }

# apt_install PACKAGE...: as root, without a question. RUNLEVEL=1 keeps the packages from starting their services.
apt_install() {
    say "installing: $*"
    if command -v debconf-set-selections >/dev/null 2>&1; then
        echo 'postfix postfix/main_mailer_type select No configuration' | debconf-set-selections
    fi
    export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
    apt-get install -y -qq --no-install-recommends "$@" </dev/null >&2 && return 0
    apt-get update -qq </dev/null >&2
    apt-get install -y -qq --no-install-recommends "$@" </dev/null >&2
}

# require_python: sets $python, able to make an environment; exits 2 and names what is missing where that fails.
require_python() {
    if python=$(find_python) && "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        return 0
    fi
    if can_apt; then
        apt_install python3 python3-venv || true
        for python in "$(find_python)" /usr/bin/python3; do
            is_python "$python" && "$python" -c 'import ensurepip, venv' 2>/dev/null && return 0
        done
    fi
    say "missing: Python 3.11 or newer with its venv module (Debian: apt-get install python3 python3-venv)"
    exit 2
}

# lock_hash: one word that changes when the locks or the project file change.
lock_hash() {
    cat "$root/ops/lock/runtime.txt" "$root/ops/lock/dev.txt" "$root/pyproject.toml" | sha256sum | cut -d ' ' -f 1
}

# ensure_environment runtime|dev: $root/.venv holds that lock's packages and the project itself (editable).
# A no-op while the locks and the project file stay as they were. Exits 2 where no fit Python can be had.
ensure_environment() {
    wanted=$1
    stamp=$root/.venv/.installed
    hash=$(lock_hash)
    case "$wanted $(cat "$stamp" 2>/dev/null || true)" in
    "$wanted $wanted $hash $root" | "runtime dev $hash $root")
        is_python "$root/.venv/bin/python" && return 0
        ;;
    esac
    # Two commands started at once must not install into one environment together.
    if [ -z "${SMARTMAIL_ENVIRONMENT_LOCKED:-}" ] && command -v flock >/dev/null 2>&1; then
        exec 9<"$root/ops/lib/environment.sh"
        flock 9
        SMARTMAIL_ENVIRONMENT_LOCKED=1
        ensure_environment "$wanted"
        unset SMARTMAIL_ENVIRONMENT_LOCKED
        exec 9<&-
        return 0
    fi
    if ! is_python "$root/.venv/bin/python" || ! "$root/.venv/bin/python" -m pip --version >/dev/null 2>&1; then
        require_python
        say "making .venv with $("$python" --version)"
        "$python" -m venv --clear "$root/.venv"
    fi
    say "installing the $wanted lock into .venv"
    rm -f "$stamp"
    PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
    export PIP_DISABLE_PIP_VERSION_CHECK PIP_NO_INPUT
    "$root/.venv/bin/python" -m pip install -q --require-hashes -r "$root/ops/lock/$wanted.txt" </dev/null >&2
    "$root/.venv/bin/python" -m pip install -q --no-deps --no-build-isolation -e "$root" </dev/null >&2
    printf '%s %s %s\n' "$wanted" "$hash" "$root" >"$stamp"
}

# missing_packages: the Debian packages of ops/lib/packages.txt that are not here, on one line.
missing_packages() {
    while read -r package command _; do
        case "$package" in '' | '#'*) continue ;; esac
        if [ "$command" != - ]; then
            PATH=$PATH:/usr/sbin:/sbin command -v "$command" >/dev/null 2>&1 && continue
        fi
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] && continue
        printf '%s ' "$package"
    done <"$root/ops/lib/packages.txt"
}

# ensure_packages: installs them as root; else names them and exits 2.
ensure_packages() {
    missing=$(missing_packages)
    [ -n "$missing" ] || return 0
    # shellcheck disable=SC2086 # a list of words
    if can_apt && apt_install $missing; then
        missing=$(missing_packages)
        [ -n "$missing" ] || return 0
    fi
    say "missing for the tests: $missing"
    say "install them (apt-get install $missing), run as root, or run ops/test --fast"
    exit 2
}

# ensure_npm: nodemailer as ops/lock/npm has it, into .cache/npm.
ensure_npm() {
    target=$root/.cache/npm
    if cmp -s "$root/ops/lock/npm/package-lock.json" "$target/.installed"; then
        return 0
    fi
    mkdir -p "$target"
    cp "$root/ops/lock/npm/package.json" "$root/ops/lock/npm/package-lock.json" "$target/"
    npm ci --prefix "$target" --no-audit --no-fund --ignore-scripts --loglevel=error </dev/null >&2
    cp "$root/ops/lock/npm/package-lock.json" "$target/.installed"
}
