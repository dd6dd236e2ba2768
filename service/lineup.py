"""Who answers whom: the version that serves and, for a share of the users, the one that is on trial."""

from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Generic, Protocol, TypeVar

_MASK = 2**64 - 1


class Named(Protocol):
    """A version."""

    @property
    def name(self) -> str:
        """The version's name."""


V = TypeVar("V", bound=Named, covariant=True)


@dataclass(frozen=True, slots=True)
class Trial:
    """A version that is tried beside the active one.

    Attributes
    ----------
    canary
        The share of users that it answers, above 0 and below 1; 0 where it answers nobody.
    shadow
        Whether it scores a copy of the traffic, to be compared.
    id
        Tells this trial from any other of the same version.
    """

    version: str
    canary: float
    shadow: bool
    id: str


@dataclass(frozen=True, slots=True)
class Lineup(Generic[V]):
    """The loaded versions, exchanged as one reference.

    Parameters
    ----------
    serving
        The version that answers whoever is in no trial.
    trial, candidate
        What is tried and the version itself; both None where nothing is, or where it cannot be loaded here.
    """

    serving: V
    trial: Trial | None = None
    candidate: V | None = None
    _salt: int = field(init=False, repr=False)
    _threshold: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        trial = self.trial
        object.__setattr__(self, "_salt", salt_of(trial.version) if trial else 0)
        object.__setattr__(self, "_threshold", int(trial.canary * 2**64) if trial else 0)

    def choose(self, user_id: int) -> V:
        """Return the version that answers a user: the same one as long as neither version nor share change."""
        if self.candidate is not None and mixed(user_id ^ self._salt) < self._threshold:
            return self.candidate
        return self.serving

    def named(self, name: str) -> V | None:
        """Return the loaded version of that name."""
        return next((version for version in self.versions if version.name == name), None)

    @property
    def versions(self) -> "tuple[V, ...]":
        """Every loaded version, once."""
        if self.candidate is None or self.candidate is self.serving:
            return (self.serving,)
        return self.serving, self.candidate

    @property
    def is_shadowed(self) -> bool:
        """Whether requests are to be scored with the version on trial as well."""
        return self.trial is not None and self.trial.shadow and self.candidate is not None


def salt_of(version: str) -> int:
    """Return 64 bits that depend on the version, so that each trial falls to users of its own."""
    return int.from_bytes(blake2b(version.encode(), digest_size=8).digest(), "little")


def mixed(value: int) -> int:
    """Return 64 bits each of which depends on every bit of the value (the finaliser of SplitMix64).

    Steele, Lea and Flood, Fast Splittable Pseudorandom Number Generators, OOPSLA 2014, section 4. In whole numbers of
    Python it takes less than a call to a hash function or to numpy.
    """
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ value >> 30) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ value >> 27) * 0x94D049BB133111EB) & _MASK
    return value ^ value >> 31
