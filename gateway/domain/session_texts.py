"""The sentences of the files in a session: the labels of the message of the day, and what `lease` prints."""

from collections.abc import Mapping

from gateway.languages import LANGUAGES, translations


def lease_label(language: str) -> str:
    """The label of the line of the message of the day that says when the lease ends."""
    _ = translations(language).gettext
    return _("Lease ends")


def lease_labels() -> Mapping[str, str]:
    """The same label by language."""
    return {language: lease_label(language) for language in LANGUAGES}


def notice_labels(language: str) -> Mapping[str, str]:
    """The label of each notice of the message of the day, by its English."""
    _ = translations(language).gettext
    return {
        "Last time": _("Last time"),
        "Warning": _("Warning"),
        "Ends soon": _("Ends soon"),
        "Message": _("Message"),
    }


def welcome(language: str, user_id: str) -> str:
    """The first line of the message of the day."""
    _ = translations(language).gettext
    return _("Welcome, {user}.").format(user=user_id)


def card(language: str, memory_mib: int | None, gpu: str, is_simulated: bool) -> str:
    """What follows the profile of a slice: its memory, if that is known, and its GPU."""
    _ = translations(language).gettext
    whole = _(" of {gpu}") if memory_mib is None else _(", {memory} MiB of {gpu}")
    simulated = f" ({_('simulated')})" if is_simulated else ""
    return whole.format(memory=memory_mib, gpu=gpu) + simulated


def facts(language: str, slice_: str, hosts: str | None) -> Mapping[str, str]:
    """The lines of the message of the day that never change, by their labels. `hosts` are those that the
    session reaches by its proxy, None without a proxy."""
    _ = translations(language).gettext
    lines = {
        _("GPU slice"): slice_,
        _("Files"): _("your home directory is kept for your next session; the rest is not"),
    }
    if hosts is not None:
        lines[_("Network")] = _("{hosts} by $http_proxy, and nothing else").format(hosts=hosts)
    return lines


def script_texts(language: str) -> Mapping[str, str]:
    """What the scripts of a session print, by the names of their variables. `%s` is an argument."""
    _ = translations(language).gettext
    return {
        "say_usage": _(
            "Usage: lease                         show the lease of this session\n"
            "       lease extend DURATION         extend it, for example by 90m, 2h, 1d or 1h30m\n"
            "       lease extend max              extend it as far as possible\n"
            "       lease why                     show whether the session counts as used, "
            "and when it ends otherwise\n"
            "       lease keep DURATION           keep the session for so long, even if nobody uses it; "
            "0 takes it back\n"
            "       lease end [--yes]             end the session; the files in your home are kept\n"
            "With --json, the output is the answer of the gateway's API.\n"
            "Exit status: 0 done, 1 refused, 75 may succeed later."
        ),
        "say_no_client": _("this image has neither curl nor python3."),
        "say_no_answer": _("the gateway does not answer; try again in a moment."),
        "say_too_often": _("this session has asked too often; try again in a moment."),
        "say_how_long": _("say by how much: lease extend 2h"),
        "say_keep_how_long": _("say for how long: lease keep 8h"),
        "say_no_duration": _("'%s' is not a duration: use minutes, hours or days such as 90m, 2h or 1d."),
        "say_no_terminal": _("there is no terminal to ask on: give --yes to end the session."),
        "say_end": _("End this session? What runs in it is killed; the files in your home are kept [y/N]: "),
        "say_goes_on": _("the session goes on."),
        "say_other_keys": _(
            "Note: this session does not read ~/.ssh/authorized_keys. Your administrator sets your SSH keys."
        ),
    }
