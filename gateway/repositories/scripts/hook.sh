# Start ~/.config/gateway/before-end once for a lease: hook SECONDS_LEFT LEASE
#
# Its output is in ~/.config/gateway/before-end.log.

hook=$HOME/.config/gateway/before-end
done=/tmp/.gateway-before-end-$2
if [ ! -f "$hook" ] || [ ! -x "$hook" ]; then
    echo none
    exit
fi
if ! mkdir "$done" 2> /dev/null && [ -d "$done" ]; then
    echo already
    exit
fi
shell=/etc/gateway/shell
if [ ! -x "$shell" ]; then shell=/bin/sh; fi
log=$hook.log
if ! (: > "$log") 2> /dev/null; then log=/dev/null; fi
cd "$HOME" || exit
GATEWAY_SECONDS_LEFT=$1 "$shell" -c 'exec ~/.config/gateway/before-end' < /dev/null > "$log" 2>&1 &
echo started
