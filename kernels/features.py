"""Features of JS as a squared distance, written by benchmarks/feature_table.py; README.md says of what."""

import triton
import triton.language as tl

NARROW_RANK = tl.constexpr(6)
NARROW_SPLIT = tl.constexpr(4)  # of them to float32 accuracy
NARROW_REACH = tl.constexpr(0.36)  # largest |s|
NARROW_FLOOR = tl.constexpr(2.677e-07)  # of the bound of what the features leave out or round away
NARROW_GROWTH = tl.constexpr(0.0001705)  # times s^4

WIDE_RANK = tl.constexpr(7)
WIDE_SPLIT = tl.constexpr(5)  # of them to float32 accuracy
WIDE_REACH = tl.constexpr(0.45)  # largest |s|
WIDE_FLOOR = tl.constexpr(1.919e-07)  # of the bound of what the features leave out or round away
WIDE_GROWTH = tl.constexpr(0.000131)  # times s^4


@triton.jit
def feature(s, r: tl.constexpr, WIDE: tl.constexpr):
    """Feature r over ``(sqrt p - sqrt b) s^r``, a polynomial in s by Horner's rule."""
    if not WIDE and r == 0:
        f = s * -0.122808031 - 0.167343354
        f = f * s + 0.13170151
        f = f * s + 0.198336035
        f = f * s - 0.3332939
        f = f * s - 0.666626329
        f = f * s + 5.26691406e-07
        f = f * s + 0.999999869
    elif not WIDE and r == 1:
        f = s * -0.890610557 + 0.636983826
        f = f * s + 1.11153489
        f = f * s - 0.789109003
        f = f * s - 1.33260194
        f = f * s + 0.333140142
        f = f * s + 0.999995851
    elif not WIDE and r == 2:
        f = s * 1.93786278 + 2.70791073
        f = f * s - 1.79093477
        f = f * s - 2.70921417
        f = f * s + 0.666447083
        f = f * s + 1.33182204
    elif not WIDE and r == 3:
        f = s * 6.69659319 - 2.82745072
        f = f * s - 5.46112018
        f = f * s + 1.13634163
        f = f * s + 1.98991178
    elif not WIDE and r == 4:
        f = s * -4.24056158 - 5.80385051
        f = f * s + 1.90259219
        f = f * s + 2.82676848
    elif not WIDE and r == 5:
        f = s * -9.54188172 + 1.88627239
        f = f * s + 4.24741005
    elif WIDE and r == 0:
        f = s * 0.0672873745 - 0.116285967
        f = f * s - 0.183459924
        f = f * s + 0.130358464
        f = f * s + 0.199522285
        f = f * s - 0.333217945
        f = f * s - 0.666654588
        f = f * s - 9.68209617e-07
        f = f * s + 0.999999955
    elif WIDE and r == 1:
        f = s * -0.568483161 - 0.781254077
        f = f * s + 0.761925853
        f = f * s + 1.08587977
        f = f * s - 0.797373906
        f = f * s - 1.33091017
        f = f * s + 0.333333126
        f = f * s + 0.999980058
    elif WIDE and r == 2:
        f = s * -2.70639419 + 1.7622487
        f = f * s + 3.44396947
        f = f * s - 1.75370732
        f = f * s - 2.77256628
        f = f * s + 0.663257237
        f = f * s + 1.33289018
    elif WIDE and r == 3:
        f = s * 3.75867962 + 5.27169516
        f = f * s - 3.54398739
        f = f * s - 5.10007013
        f = f * s + 1.18444793
        f = f * s + 1.97434396
    elif WIDE and r == 4:
        f = s * 10.1189992 - 4.19672202
        f = f * s - 9.24758933
        f = f * s + 1.80007805
        f = f * s + 3.05692042
    elif WIDE and r == 5:
        f = s * -4.99144371 - 6.70631328
        f = f * s + 2.64891249
        f = f * s + 3.70636542
    elif WIDE and r == 6:
        f = s * -8.99094462 + 1.93166764
        f = f * s + 4.91981909
    return f


@triton.jit
def js_to_base_of(square):
    """JS of a class and its base over ``(sqrt p - sqrt b)^2``, by s^2."""
    f = square * -0.00641423002 + 0.0104743855
    f = f * square - 0.0237297681
    f = f * square + 0.0333281278
    f = f * square - 0.166666508
    return f * square + 0.499999998
