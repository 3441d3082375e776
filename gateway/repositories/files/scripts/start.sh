#!/bin/sh
# The first process of a session. It runs sshd, which alone writes to the container's log: this process closes
# the log before anybody can log in. The kernel lets nobody trace or read a process whose program they cannot
# read, so sshd's lines are sshd's own only if the user cannot read its programs. Otherwise they are left out.
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
