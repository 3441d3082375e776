# Read by up and down: where the background processes are known, and with which settings they run.

run=${GATEWAY_RUN_DIR:-/run/gpu-ssh-gateway}
gateway=$PWD/.venv/bin/gateway

# The settings file that every `gateway` command reads, and the command itself on everybody's PATH. With a
# directory of its own, a gateway keeps to it.
if [ -z "${GATEWAY_RUN_DIR-}" ]; then
    settings_file=/etc/default/gpu-ssh-gateway link=/usr/local/bin/gateway
else
    settings_file=$run/settings link=
fi
export GATEWAY_SETTINGS="$settings_file"
mark='# Made by `make up`; `make down` removes it.'
is_ours() { [ "$(head -n 1 "$settings_file" 2>/dev/null)" = "$mark" ]; }

# The settings of what runs (or last ran) come before defaults, and after what the caller asks for.
if is_ours; then
    while IFS='=' read -r name value; do
        case $name in GATEWAY_*) ;; *) continue ;; esac
        value=${value#\'} value=${value%\'}
        eval "export $name=\"\${$name-\$value}\""
    done < "$settings_file"
fi
export GATEWAY_PORT="${GATEWAY_PORT:-8080}"
export GATEWAY_DB="${GATEWAY_DB:-/var/lib/orchestrator/sessions.db}"
export GATEWAY_PIPER_CONFIG="${GATEWAY_PIPER_CONFIG:-/etc/sshpiper/pipe.yaml}"
export GATEWAY_WORKSPACE_ROOT="${GATEWAY_WORKSPACE_ROOT:-/srv/workspaces}"
export GATEWAY_NETWORK="${GATEWAY_NETWORK:-worknet}"
api=http://127.0.0.1:$GATEWAY_PORT
piper_dir=$(dirname "$GATEWAY_PIPER_CONFIG")

# Never shown or used whole: the URL of a database may hold a password.
case $GATEWAY_DB in
    *://*) database='on the PostgreSQL server' database_dir= ;;
    *) database=$GATEWAY_DB database_dir=$(dirname "$GATEWAY_DB") ;;
esac

# What runs under a name: its process id is still that of the program it was started as.
running() {
    _pid=$(cat "$run/$1.pid" 2>/dev/null) && [ -e "/proc/$_pid/stat" ] &&
        [ "$(cut -d' ' -f22 "/proc/$_pid/stat" 2>/dev/null)" = "$(cat "$run/$1.started")" ]
}

in_background() { # in_background NAME COMMAND…
    _name=$1
    shift
    (umask 077 && : >> "$run/$_name.log")
    setsid "$@" >>"$run/$_name.log" 2>&1 </dev/null &
    echo $! > "$run/$_name.pid"
    cut -d' ' -f22 "/proc/$!/stat" > "$run/$_name.started"
}

stop() { # stop NAME: longer than gunicorn's grace
    if ! running "$1"; then echo "note: not running"; return; fi
    kill "$_pid"
    for _ in $(seq 700); do
        running "$1" || break
        sleep 0.1
    done
    if running "$1"; then
        kill -9 "$_pid"
        echo "note: killed after 70 s"
    fi
    rm -f "$run/$1.pid" "$run/$1.started"
}

# Once there are tokens, GATEWAY_TOKEN must hold an operator's; by a file, for everybody can read a command line.
call() {
    if [ -n "${GATEWAY_TOKEN-}" ]; then
        (umask 077 && printf 'Authorization: Bearer %s\n' "$GATEWAY_TOKEN" > "$run/authorization")
        set -- --header "@$run/authorization" "$@"
    fi
    curl --silent --show-error --max-time 120 --noproxy '*' "$@"
}

# field NAME: of the JSON object on stdin; nothing if it is missing or null
field() { "$PWD/.venv/bin/python" -c 'import json, sys; print(json.load(sys.stdin).get(sys.argv[1]) or "")' "$1"; }
