# `up` and `down` read this file: the paths and settings of the background processes, and functions for them.

run=${GATEWAY_RUN_DIR:-/run/gpu-ssh-gateway}
gateway=$PWD/.venv/bin/gateway
router_account=gpu-ssh-router

# The settings file that every `gateway` command reads, and a link to the command in a directory of the PATH.
# With GATEWAY_RUN_DIR, the settings file is in that directory, and there is no link.
if [ -z "${GATEWAY_RUN_DIR-}" ]; then
    settings_file=/etc/default/gpu-ssh-gateway link=/usr/local/bin/gateway
else
    settings_file=$run/settings link=
fi
export GATEWAY_SETTINGS="$settings_file"
mark='# Made by `make up`; `make down` removes it.'
is_from_up() { [ "$(head -n 1 "$settings_file" 2>/dev/null)" = "$mark" ]; }

# The settings of the current (or last) run override the defaults. The caller's environment overrides both.
if is_from_up; then
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

# The scripts never print the URL of a database, because it may contain a password.
case $GATEWAY_DB in
    *://*) database='on the PostgreSQL server' database_dir= ;;
    *) database=$GATEWAY_DB database_dir=$(dirname "$GATEWAY_DB") ;;
esac

# running NAME: whether the process still runs. Its start time shows that no other process has its id now.
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

stop() { # stop NAME: waits for 70 s, which is longer than gunicorn's graceful timeout
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

# If the API has tokens, GATEWAY_TOKEN must be an operator's. A file passes it to curl, because all users can
# read command lines.
call() {
    if [ -n "${GATEWAY_TOKEN-}" ]; then
        (umask 077 && printf 'Authorization: Bearer %s\n' "$GATEWAY_TOKEN" > "$run/authorization")
        set -- --header "@$run/authorization" "$@"
    fi
    curl --silent --show-error --max-time 120 --noproxy '*' "$@"
}

# field NAME: prints the field of the JSON object on stdin; nothing if it is missing or null
field() { "$PWD/.venv/bin/python" -c 'import json, sys; print(json.load(sys.stdin).get(sys.argv[1]) or "")' "$1"; }
