# Print whether this container can open the control device of its GPU.
if ( : < /dev/nvidiactl ) 2> /dev/null; then
    echo opens
else
    echo cannot open
fi
