# Print how many programs have a GPU open, whether they compute or not; `unknown` if one cannot be examined. The
# processes of sshd cannot be examined, and open no GPU.

count=0
for process in /proc/[0-9]*; do
    if [ -r "$process/fd" ]; then
        case $(ls -l "$process/fd") in
            *'-> /dev/nvidia'[0-9]* | *'-> /dev/nvidia-caps/'*) count=$((count + 1)) ;;
        esac
    elif read -r name < "$process/comm"; then
        case $name in
            sshd*) ;;
            *) count=unknown; break ;;
        esac
    fi
done 2> /dev/null
echo "$count"
