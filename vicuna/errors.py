"""The mistakes that people can make, as types. Everything else is a bug and keeps its traceback."""


class VicunaError(Exception):
    """Something a person can put right. The message is one line: what was wrong, where, and what to do."""

    exit_status = 1
    """Exit status of the command that this error ends."""
    label = "error: "
    """What the line begins with on the screen."""


class ConfigError(VicunaError):
    """A setting is unknown, of the wrong type, missing, or breaks an invariant."""

    exit_status = 2


class InputError(VicunaError):
    """A file or a record that was given is missing, unreadable or wrong."""


class IncompleteError(VicunaError):
    """An artefact has no manifest or does not match it, so it must not be used."""
