# Send SIGTERM to the programs of this session, and print the number of programs.
#
# Connections, shells and terminal multiplexers continue, so that users see the last output of their programs. The
# user's before-end continues as well.

count=0
for process in /proc/[0-9]*; do
    id=${process#/proc/}
    case $id in 1 | $$) continue ;; esac
    read -r name < "$process/comm" || continue
    case $name in
        sshd* | sftp-server | start | shell | before-end | tmux* | screen | SCREEN) continue ;;
        sh | bash | dash | ash | ksh* | mksh | zsh | fish | csh | tcsh | busybox) continue ;;
    esac
    if kill -TERM "$id"; then count=$((count + 1)); fi
done 2> /dev/null
echo "$count"
