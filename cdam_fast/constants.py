"""Defaults of the paper and of the authors' code, and the patch grid of a scale."""

SCALES: tuple[float, ...] = (0.25, 0.37, 0.5, 0.63, 0.75, 0.87, 1.0)
"""The set M of scales (Eq. 3)."""

TEMPERATURE = 0.1
"""Temperature of the softmax over classes."""

ATTENTION_TEMPERATURE = 0.1
"""Temperature of the row softmax of the attention map (tau of Eq. 2)."""

EPSILON = 1e-8
"""Added to the denominator of each row min-max."""

FLATNESS = (1.0, 8.0)
"""A row of the divergence is flat where its range is at most ``eps * (a + b * largest)``, eps and largest being the
resolution of the arithmetic's dtype and the row's largest divergence: what is left of such a row is rounding, which a
min-max would stretch to [0, 1]. Of 144 maps of one repeated distribution, a quarter of a left 0.33 in some."""

METRICS = ("js", "kl", "wasserstein")
ORDERS = ("official", "paper")
BACKENDS = ("auto", "reference", "portable", "triton")


def scaled_grid(height: int, width: int, scale: float) -> tuple[int, int]:
    """Patch grid at a scale: each side times the scale, truncated (28 at 0.37 is 10)."""
    return int(height * scale), int(width * scale)
