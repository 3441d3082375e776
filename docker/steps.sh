# The other scripts read this file: functions to report a step, to fail, to become root, and to find the
# package mirror of this host.

PATH=$PATH:/usr/sbin:/sbin

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
    _started_at=$(_now)
    printf '%-52s ' "$_title"
    _log=$(mktemp)
    set +e # in the condition of an `if`, the shell would ignore every failure except the last
    ( set -e; "$@" ) >"$_log" 2>&1
    _status=$?
    set -e
    if [ $_status = 0 ]; then
        _duration=$(($(_now) - _started_at))
        _note=$(sed -n 's/^note: //p' "$_log" | paste -sd ' ')
        printf '%3d.%d s  %s\n' $((_duration / 10)) $((_duration % 10)) "$_note"
        rm -f "$_log"
    else
        echo failed
        tail -n 40 "$_log" >&2
        rm -f "$_log"
        exit 1
    fi
}

# become_root script args…   Docker, iptables and the users' directories need root.
become_root() {
    [ "$(id -u)" != 0 ] || return 0
    have sudo || fail "$(basename "$1") needs root: run it as root, or install sudo"
    exec sudo --preserve-env="$(env | sed -n 's/^\(GATEWAY_[A-Z_]*\|SSH_AUTH_SOCK\|SSHPIPER_IMAGE\|DEBIAN_IMAGE\)=.*/\1/p' | paste -sd ,)" -- "$@"
}

# mirror PATTERN   Prints the first URI in apt's sources whose suite matches, if any.
mirror() {
    {
        cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null |
            sed -n 's/^deb *\(\[[^]]*\] *\)\{0,1\}\([^ ]*\) *\([^ ]*\) .*/\3 \2/p'
        cat /etc/apt/sources.list.d/*.sources 2>/dev/null |
            awk 'tolower($1) == "uris:" { uri = $2 }
                 tolower($1) == "suites:" { for (i = 2; i <= NF; i++) print $i, uri }'
    } | awk -v wanted="$1" '$1 ~ wanted && !found { print $2; found = 1 }'
}
