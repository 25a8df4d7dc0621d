"""A resolver of names that a test knows, instead of a DNS server."""

from ipaddress import ip_address

from acmeca.validation.dns_client import ResolutionError, ResolutionFailure
from acmeca.validation.networks import IPAddress


class Hosts:
    """A resolver with a list of answers per name, the last one again and again; it counts what it is asked.

    A name is given with underscores for its dots.
    """

    def __init__(self, **names: list[list[str]]) -> None:
        self._names = {name.replace("_", "."): answers for name, answers in names.items()}
        self.asked: list[str] = []

    async def addresses(self, name: str) -> tuple[IPAddress, ...]:
        self.asked.append(name)
        answers = self._names.get(name)
        if answers is None:
            raise ResolutionError(ResolutionFailure.NO_SUCH_NAME, "the test says that it does not exist")
        return tuple(map(ip_address, answers.pop(0) if len(answers) > 1 else answers[0]))
