"""Results of a probe made by hand: as a model with inputs gives them, and of the weights alone."""

from dataclasses import replace

from erestore.results.probe import (
    AllocationPoint,
    AllocationProbe,
    FeaturesUsed,
    PerturbPoint,
    PerturbProbe,
    ProbeResult,
    StiefelPoint,
    StiefelProbe,
    TruncatePoint,
    TruncateProbe,
)

WHOLE = ProbeResult(
    revision="task</script><b>",
    commit="0" * 64,
    base="base",
    pattern="*atten*",
    tensors=5,
    matrices=3,
    relative_norm=0.0123,
    left_out=("bad\x1b[31m",),
    features=FeaturesUsed("last hidden state", 12, 0.5),
    perturb=PerturbProbe(
        7,
        (
            PerturbPoint("weights", 0.1, 0.01, 20.04, 0.75),
            PerturbPoint("weights", 0.5, 0.3, 123456.0, None),
            PerturbPoint("residual", 0.1, 0.01, 0.01, 0.999996),
            PerturbPoint("residual", 0.5, 0.3, 0.3, 0.98),
        ),
    ),
    truncate=TruncateProbe(
        (
            TruncatePoint("weights", 1.0, 0.0, 0.0, 1.0),
            TruncatePoint("weights", 0.5, 0.25, 9.99, 0.25),
            TruncatePoint("residual", 1.0, 0.0, 0.0, 1.0),
            TruncatePoint("residual", 0.5, 0.125, 0.125, 0.9375),
        )
    ),
    allocation=AllocationProbe(
        4,
        3,
        3,
        (
            AllocationPoint("uniform", None, 1200, 0, 0.5, 0.875),
            AllocationPoint("ere", 0.0, 1100, 1, 0.625, 0.75),
            AllocationPoint("ere", 0.5, 1190, 0, 0.375, 0.9375),
        ),
    ),
    stiefel=StiefelProbe(
        4,
        0.5,
        3,
        (
            StiefelPoint(2, True, 800, 0.75, 0.625),
            StiefelPoint(4, True, 1190, 0.375, 0.9375),
            StiefelPoint(2, False, 800, 0.875, 0.5),
            StiefelPoint(4, False, 1190, 0.4375, 0.90625),
        ),
    ),
)
WEIGHTS_ALONE = replace(
    WHOLE,
    revision="task",
    pattern=None,
    left_out=(),
    features=None,
    allocation=None,
    stiefel=None,
    perturb=replace(WHOLE.perturb, points=tuple(replace(point, cosine=None) for point in WHOLE.perturb.points)),
    truncate=replace(WHOLE.truncate, points=tuple(replace(point, cosine=None) for point in WHOLE.truncate.points)),
)
