# Close every SSH connection into this session but the one that runs this script, and print their number.
#
# Programs in the session continue. The processes above this script are its own connection and sshd itself.

own=
process=$$
while [ "$process" -gt 1 ]; do
    own="$own $process "
    parent=1
    while read -r name value; do
        if [ "$name" = PPid: ]; then parent=$value; fi
    done < "/proc/$process/status"
    process=$parent
done

count=0
for process in /proc/[0-9]*; do
    id=${process#/proc/}
    case $own in *" $id "*) continue ;; esac
    read -r name < "$process/comm" || continue
    case $name in sshd*) ;; *) continue ;; esac
    if kill -TERM "$id"; then count=$((count + 1)); fi
done 2> /dev/null
echo "$count"
