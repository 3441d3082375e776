#!/bin/sh
# Show, extend, keep and end this session: `lease --help` explains it. It needs sh, and curl or python3.
door=/etc/gateway/door.sock url=http://localhost token=
if [ -s /etc/gateway/door ]; then { read -r url && read -r token; } < /etc/gateway/door; fi
accept=text/plain
. /etc/gateway/words.sh # the sentences, in the language of the gateway

fail() { # fail STATUS TEXT
    printf "lease: %s\n" "$2" >&2
    exit "$1"
}

fact() { # fact NAME: a value from the file that the gateway keeps up to date
    while IFS='=' read -r name value; do
        if [ "$name" = "$1" ]; then echo "$value"; fi
    done < /etc/gateway/lease
}

minutes() { # minutes DURATION
    rest=$1 total=0
    while [ -n "$rest" ]; do
        number=${rest%%[!0-9]*}
        rest=${rest#"$number"}
        unit=${rest%"${rest#?}"}
        rest=${rest#?}
        case $number in '' | 0* | ???????*) return 1 ;; esac
        case $unit in
            d) total=$((total + number * 1440)) ;;
            h) total=$((total + number * 60)) ;;
            m) total=$((total + number)) ;;
            *) return 1 ;;
        esac
    done
    [ "$total" -gt 0 ] && echo "$total"
}

not_a_duration() { # not_a_duration TEXT
    fail 1 "$(printf "$say_no_duration" "$1")"
}

by_curl() { # by_curl METHOD PATH BODY: print the answer, and its status in the last line
    method=$1 path=$2 body=$3
    if [ -n "$token" ]; then set -- --header "Authorization: Bearer $token"; else set -- --unix-socket "$door"; fi
    curl -q --silent --noproxy '*' --max-time 90 "$@" --request "$method" --data "$body" \
        --header 'Host: localhost' --header "Accept: $accept" --header 'Content-Type: application/json' \
        --write-out '\n%{http_code}' "$url$path"
}

by_python() { # as by_curl
    python3 -I -c '
import http.client, socket, sys
door, url, token, accept, method, path, body = sys.argv[1:]
class Door(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(90)
        self.sock.connect(door)
connection = http.client.HTTPConnection(url[7:], timeout=90) if token else Door("localhost")
headers = {"Host": "localhost", "Accept": accept, "Content-Type": "application/json"}
if token:
    headers["Authorization"] = "Bearer " + token
try:
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    text = answer.read().decode()
except (OSError, http.client.HTTPException):
    sys.exit(1)
print(text, answer.status, sep="\n")
' "$door" "$url" "$token" "$accept" "$@"
}

send() { # as by_curl
    if command -v curl > /dev/null; then
        by_curl "$@"
    elif command -v python3 > /dev/null; then
        by_python "$@"
    else
        fail 1 "$say_no_client"
    fi || fail 75 "$say_no_answer"
}

ask() { # ask METHOD PATH BODY: the gateway takes one request a second, and a few at once
    for pause in 2 ''; do
        answer=$(send "$@") || exit
        status=${answer##*"$newline"}
        if [ "$status" != 429 ] || [ -z "$pause" ]; then break; fi
        sleep "$pause"
    done
    text=${answer%"$newline"*}
    text=${text%"$newline"}
    case $status in
        2??) if [ -n "$text" ]; then printf "%s\n" "$text"; fi ;;
        429) fail 75 "$say_too_often" ;;
        503) fail 75 "$text" ;;
        *) fail 1 "$text" ;;
    esac
}

extend() { # extend DURATION
    case ${1-} in
        max) more='"max"' ;;
        '') fail 1 "$say_how_long" ;;
        *) more=$(minutes "$1") || not_a_duration "$1" ;;
    esac
    ask POST "/sessions/$session/extend" "{\"minutes\": $more, \"ends\": \"$(fact ends)\"}"
}

keep() { # keep DURATION
    case ${1-} in
        0) more=0 ;;
        '') fail 1 "$say_keep_how_long" ;;
        *) more=$(minutes "$1") || not_a_duration "$1" ;;
    esac
    ask POST "/sessions/$session/keep" "{\"minutes\": $more}"
}

end() { # end [--yes]
    if [ "${1-}" != --yes ]; then
        if [ ! -t 0 ]; then fail 1 "$say_no_terminal"; fi
        printf "%s" "$say_end"
        read -r confirmed
        case $confirmed in [yY]*) ;; *) fail 1 "$say_goes_on" ;; esac
    fi
    ask DELETE "/sessions/$session" ''
}

newline='
'
session=$(fact session)
if [ "${1-}" = --json ]; then accept=application/json; shift; fi
case ${1-} in
    '') ask GET "/sessions/$session" '' ;;
    extend) extend "${2-}" ;;
    why) ask GET "/sessions/$session/activity" '' ;;
    keep) keep "${2-}" ;;
    end) end "${2-}" ;;
    -h | --help) printf "%s\n" "$say_usage" ;;
    *) printf "%s\n" "$say_usage" >&2; exit 1 ;;
esac
