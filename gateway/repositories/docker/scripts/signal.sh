# Send SIGTERM to the programs of this session, and print to how many.
#
# Connections, shells and terminal multiplexers go on, so that people see what their programs say at the end. So
# does the user's own before-end.

asked=0
for process in /proc/[0-9]*; do
    id=${process#/proc/}
    case $id in 1 | $$) continue ;; esac
    read -r name < "$process/comm" || continue
    case $name in
        sshd* | sftp-server | start | shell | before-end | tmux* | screen | SCREEN) continue ;;
        sh | bash | dash | ash | ksh* | mksh | zsh | fish | csh | tcsh | busybox) continue ;;
    esac
    if kill -TERM "$id"; then asked=$((asked + 1)); fi
done 2> /dev/null
echo "$asked"
