# Read by the scripts beside it: how a step shows itself, how a failure ends, how root is had.

fail() {
    echo "error: $*" >&2
    exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# Tenths of a second since boot: date's %N is not POSIX, and the wall clock may jump.
_now() { awk '{ print int($1 * 10) }' /proc/uptime; }

# step "what it does" command…   The command's own output is shown only if it fails.
step() {
    _title=$1
    shift
    _begun=$(_now)
    printf '%-52s ' "$_title"
    _log=$(mktemp)
    if ( set -e; "$@" ) >"$_log" 2>&1; then
        _took=$(($(_now) - _begun))
        _note=$(sed -n 's/^note: //p' "$_log" | paste -sd ' ')
        printf '%3d.%d s  %s\n' $((_took / 10)) $((_took % 10)) "$_note"
        rm -f "$_log"
    else
        echo failed
        tail -n 40 "$_log" >&2
        rm -f "$_log"
        exit 1
    fi
}

# become_root script args…   Docker, iptables and the users' directories are root's.
become_root() {
    [ "$(id -u)" != 0 ] || return 0
    have sudo || fail "$(basename "$1") needs root: run it as root, or install sudo"
    exec sudo --preserve-env="$(env | sed -n 's/^\(GATEWAY_[A-Z_]*\|SSH_AUTH_SOCK\)=.*/\1/p' | paste -sd ,)" -- "$@"
}
