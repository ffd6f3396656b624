#!/bin/sh
# Puts Debian 13's restic 0.18 beside the system's own: .cache/restic18/restic, for the tests. A no-op where it is there.
# Downloaded by apt, signatures checked, with a source list and state folder of its own: the system's apt is not touched.
# Needs no root. Exits 2 where Debian's archive cannot be reached or the package cannot be had.
set -eu
root=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
. "$root/ops/lib/environment.sh"

target=$root/.cache/restic18
works() { [ "$("$1" version 2>/dev/null | cut -d ' ' -f 1,2 | cut -d . -f 1,2)" = "restic 0.18" ]; }
if works "$target/restic"; then
    exit 0
fi

# The same archive as the system's own packages come from, of the next release.
archive=$(apt-get indextargets --format '$(REPO_URI) $(COMPONENT)' 'Created-By: Packages' 2>/dev/null |
    sed -n '/security/d; s/ main$//p' | head -n 1)
if [ -z "$archive" ]; then
    say "missing for the tests: Debian 13's restic (apt knows no archive to get it from)"
    exit 2
fi

mkdir -p "$root/.cache"
work=$(mktemp -d "$root/.cache/restic18.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/archives/partial" "$work/out"
cat >"$work/debian13.sources" <<SOURCES
Types: deb
URIs: $archive
Suites: trixie
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
SOURCES
# A status file of its own: apt then weighs nothing against what the system has.
: >"$work/status"

private_apt() {
    apt-get -qq \
        -o Dir::Etc::sourcelist="$work/debian13.sources" -o Dir::Etc::sourceparts=/dev/null \
        -o Dir::State::lists="$work/lists" -o Dir::State::status="$work/status" \
        -o Dir::Cache="$work" -o Dir::Cache::archives="$work/archives" \
        -o APT::Sandbox::User="$(id -un)" -o Acquire::Languages=none \
        "$@" </dev/null >&2
}

say "getting Debian 13's restic into .cache/restic18"
if ! private_apt update || ! (cd "$work/out" && private_apt download restic); then
    say "missing for the tests: Debian 13's restic (the archive could not be read)"
    exit 2
fi
dpkg-deb -x "$work"/out/restic_*.deb "$work/unpacked"
works "$work/unpacked/usr/bin/restic" || { say "Debian 13's restic does not run here or is not 0.18"; exit 2; }
mkdir -p "$target"
# One rename: two of these at once leave a whole file.
mv "$work/unpacked/usr/bin/restic" "$target/restic.$$"
mv -f "$target/restic.$$" "$target/restic"
