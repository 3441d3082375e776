# Write a text to every terminal of this session, and print to how many: tell TEXT
#
# A terminal that others may not write to is left out, as `mesg n` or `chmod g-w $(tty)` asks for. So is the
# terminal around tmux or screen: their panes are terminals, too, and get the text. A stopped or full terminal
# takes nothing and delays nothing.

around_multiplexers=
for process in /proc/[0-9]*; do
    read -r name < "$process/comm" || continue
    case $name in
        'tmux: client' | screen) around_multiplexers="$around_multiplexers $(readlink "$process/fd/0") " ;;
    esac
done 2> /dev/null

told=0
for terminal in /dev/pts/[0-9]*; do
    case $around_multiplexers in *" $terminal "*) continue ;; esac
    case $(stat -c %A "$terminal") in ?????w*) ;; *) continue ;; esac
    printf '%s' "$1" | timeout 2 dd of="$terminal" bs=4096 oflag=nonblock conv=nocreat,notrunc || continue
    told=$((told + 1))
done 2> /dev/null
echo "$told"
