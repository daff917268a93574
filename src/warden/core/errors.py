"""The house's exceptions. Two questions name each: whose fault is it, and does trying again help?"""


class WardenError(Exception):
    """Anything Warden raises on purpose. The message is lower-case and starts with where."""


class MalformedMessage(WardenError):
    """A peer sent something that is not what it says it is: the peer's fault, trying again does not help.

    Parsers of peer input raise this and nothing else. `status` is the SIP response the RFC allows for it,
    or None where the message cannot be answered and is dropped.
    """

    def __init__(self, what: str, status: int | None = None) -> None:
        super().__init__(what)
        self.status = status


class Unavailable(WardenError):
    """A dependency (store, media process, database, resolver) does not answer: nobody's fault, trying again helps."""


class NotAdmitted(Unavailable):
    """A dependency answers, and knows us not (user, password, name of the database): the operator's fault. To a node
    that runs it is away; to one that starts for the first time trying again is no help.
    """


class Fenced(WardenError):
    """The seat has a new holder with a higher `epoch` (0: not known): this node must stop speaking for it. Never
    retried.
    """

    def __init__(self, text: str, epoch: int = 0) -> None:
        super().__init__(text)
        self.epoch = epoch


class ConfigError(WardenError):
    """The operator's settings are wrong; `problems` names every one of them, with line and key."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems
