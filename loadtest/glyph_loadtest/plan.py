"""How a target is to be loaded."""

from argparse import Namespace
from dataclasses import dataclass

from glyph_loadtest.arrival import Arrivals
from glyph_loadtest.options import target_of
from glyph_loadtest.shapes import CONSTANT, SHAPES, Shape
from glyph_loadtest.target import Target, TargetError


@dataclass(frozen=True)
class Plan:
    """How a target is to be loaded.

    Attributes:
        level: in a closed loop, how many users ask at the same time, each one again as soon as it has its answer; in an
            open loop, how many requests are due in a second.
        seconds: how long to measure.
        warm_up: seconds of load before that, which do not count.
        arrivals: how the requests of an open loop follow each other; None means a closed loop.
        shape: how the level goes up and down.
        check_share: the share of the answers, 0 to 1, that is compared with the truth.
    """

    level: float
    seconds: int
    warm_up: int = 1
    arrivals: Arrivals | None = None
    shape: Shape = CONSTANT
    check_share: float = 0.1

    def __str__(self) -> str:
        if self.arrivals is not None:
            load = f"{self.level:g} requests a second ({self.arrivals.value} arrivals)"
        else:
            load = "1 user" if self.level == 1 else f"{self.level:g} users"
        return load if self.shape is CONSTANT else f"{load}, {self.shape.name}"


@dataclass(frozen=True)
class Job:
    """What one process of the load test has to do: the target, and its part of the plan.

    Attributes:
        target: what to ask.
        rate: requests a second that are due from each of Locust's users; 0 means a closed loop.
        arrivals: how they follow each other.
        shape: how the rate goes up and down.
        check_share: the share of the answers that is compared with the truth.
        first: the first second that counts (Unix time); 0 when the load has no appointed time, as under stock Locust.
        seconds: how long to measure.
        warm_up: seconds of load before that.
        parts: how many processes share the plan.
    """

    target: Target
    rate: float = 0.0
    arrivals: Arrivals = Arrivals.CONSTANT
    shape: Shape = CONSTANT
    check_share: float = 0.1
    first: int = 0
    seconds: int = 0
    warm_up: int = 0
    parts: int = 1

    @property
    def end(self) -> float:
        """When the last request is due (Unix time)."""
        return self.first + self.seconds if self.first else float("inf")


def as_options(target: Target, plan: Plan, first: int, parts: int) -> Namespace:
    """The options that carry a plan through Locust to the processes that share it."""
    return Namespace(
        model=target.model,
        payload=target.payload.value,
        batch=target.batch,
        request_timeout=target.timeout,
        ca=target.address.ca,
        check_share=plan.check_share,
        rate=plan.level / parts if plan.arrivals is not None else 0.0,
        arrivals=(plan.arrivals or Arrivals.CONSTANT).value,
        glyph_shape=plan.shape.name,
        glyph_first=first,
        glyph_seconds=plan.seconds,
        glyph_warm_up=plan.warm_up,
        glyph_parts=parts,
        headless=False,
        enable_rebalancing=False,
    )


def job_of(host: str | None, options: Namespace) -> Job:
    """The job that a host and Locust's options describe.

    Raises:
        TargetError: they describe none.
    """
    if not host:
        raise TargetError("a host is needed: --host localhost:8500, or http://localhost:8501 for REST")
    target = target_of(host, options)
    appointed = getattr(options, "glyph_first", 0)
    if not appointed:
        return Job(target, options.rate, Arrivals(options.arrivals), check_share=options.check_share)
    return Job(
        target,
        options.rate,
        Arrivals(options.arrivals),
        SHAPES[options.glyph_shape],
        options.check_share,
        appointed,
        options.glyph_seconds,
        options.glyph_warm_up,
        options.glyph_parts,
    )
