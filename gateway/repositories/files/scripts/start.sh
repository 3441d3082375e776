#!/bin/sh
# The first process of a session. It runs sshd, and closes its own access to the container's log before a user can
# log in, so that only sshd writes to the log. A user can trace a process only if the user can read its program. If
# sshd's programs are readable, another process could write in sshd's name, so the log of sshd is off.
config=/etc/gateway/sshd_config

readable() {
    for program in /usr/sbin/sshd /usr/lib*/openssh/sshd-* /usr/lib*/ssh/sshd-* /usr/libexec/*/sshd-*; do
        if [ -r "$program" ]; then return 0; fi
    done
    return 1
}

if readable; then
    /usr/sbin/sshd -t -f "$config" || exit
    echo "The log of sshd is off, because $program is readable in this image: see docs/images.md." >&2
    exec 3> /dev/null
else
    exec 3>&2
fi
exec < /dev/null > /dev/null 2>&1
/usr/sbin/sshd -D -e -f "$config" 2>&3 3>&- &
sshd=$!
exec 3>&-
trap 'kill "$sshd"; wait "$sshd"; exit $?' TERM
wait "$sshd"
