# Print what the session does: CONNECTIONS TERMINAL CPU PEERS
#
# CONNECTIONS is the number of SSH connections. TERMINAL is how many seconds ago the last terminal was typed or
# printed on, `none` without a terminal. CPU is the time that all programs have used, in microseconds. What cannot
# be read is `unknown`. PEERS are the remote ports of the connections, `-` without one. The connection by which this
# script runs, if it does, does not count.

own=
if [ -n "${SSH_CONNECTION-}" ]; then
    own=${SSH_CONNECTION#* }
    own=$(printf "%04X" "${own%% *}")
fi
connections=unknown
peers=
for table in /proc/net/tcp /proc/net/tcp6; do
    [ -r "$table" ] || continue
    [ "$connections" != unknown ] || connections=0
    while read -r _ local remote state _; do
        case $local:$state in
            *:08AE:01) # port 2222, ESTABLISHED
                if [ "${remote##*:}" = "$own" ]; then continue; fi
                connections=$((connections + 1))
                peers=$peers,${remote##*:}
                ;;
        esac
    done < "$table"
done

terminal=none
now=$(date +%s)
for each in /dev/pts/[0-9]*; do
    for used in $(stat -c '%X %Y' "$each"); do
        ago=$((now > used ? now - used : 0))
        if [ "$terminal" = none ] || [ "$ago" -lt "$terminal" ]; then terminal=$ago; fi
    done
done 2> /dev/null

cpu=unknown
if [ -r /sys/fs/cgroup/cpu.stat ]; then
    while read -r name value; do
        if [ "$name" = usage_usec ]; then cpu=$value; fi
    done < /sys/fs/cgroup/cpu.stat
fi
for usage in /sys/fs/cgroup/cpuacct/cpuacct.usage /sys/fs/cgroup/cpu,cpuacct/cpuacct.usage; do
    if [ "$cpu" = unknown ] && [ -r "$usage" ]; then
        read -r value < "$usage"
        cpu=$((value / 1000))
    fi
done
peers=${peers#,}
echo "$connections $terminal $cpu ${peers:--}"
