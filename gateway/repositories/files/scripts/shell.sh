#!/bin/sh
# The login shell of every user: it completes the environment, then executes bash, or sh if there is no bash.
# `shell` starts a login shell, `shell -c COMMAND` runs a command. Every image has sh and coreutils.

# Export the variables of the image's ENV, which sshd does not pass on.
import_image_environment() {
    while IFS= read -r variable; do
        name=${variable%%=*}
        case $name in
            '' | [0-9]* | *[!A-Za-z0-9_]*) ;;
            HOME | HOSTNAME | LOGNAME | MAIL | OLDPWD | PWD | SHELL | SHLVL | SSH_* | TERM | USER) ;;
            BASHOPTS | EUID | IFS | PPID | SHELLOPTS | UID) ;; # read-only in bash, or they would change how the shell works
            *) export "$variable" ;;
        esac
    done
}

has_terminal() { # has_terminal NAME: whether the image or the user has its terminfo description
    for directory in "$HOME/.terminfo" /etc/terminfo /lib/terminfo /usr/lib/terminfo /usr/share/terminfo; do
        if [ -e "$directory/${1%"${1#?}"}/$1" ]; then return 0; fi
    done
    return 1
}

warn_about_keys() {
    (. /etc/gateway/words.sh && printf "%s\n" "$say_other_keys" >&2)
}

import_image_environment << END
$(tr '\0' '\n' < /proc/1/environ 2> /dev/null)
END
export LD_LIBRARY_PATH="${LD_LIBRARY_PATH-/usr/local/nvidia/lib:/usr/local/nvidia/lib64}"
export SESSION_PATH="$HOME/.local/bin:/usr/local/nvidia/bin:/usr/local/cuda/bin:$PATH:/etc/gateway/bin"
. /etc/gateway/environment.sh
if [ -n "${TERM-}" ] && ! has_terminal "$TERM"; then export TERM=xterm-256color; fi
SHELL=/bin/bash
if [ ! -x "$SHELL" ]; then SHELL=/bin/sh; fi
export SHELL

case ${2-} in *.ssh/authorized_keys*) warn_about_keys ;; esac
if [ $# -eq 0 ]; then
    if [ -t 1 ] && [ ! -e ~/.hushlogin ]; then
        cat /etc/gateway/motd
        if [ -s ~/.ssh/authorized_keys ]; then warn_about_keys; fi
    fi
    set -- -l
fi
unset name variable directory
exec "$SHELL" "$@"
