"""Decisions from the scores of good images: thresholds, p-values, and whether new scores still match them."""

from mendiff.calibration.limits import MIN_FOR_OUTLIERS as MIN_FOR_OUTLIERS
from mendiff.calibration.limits import MINIMUM as MINIMUM
from mendiff.calibration.limits import ROUNDING as ROUNDING
from mendiff.calibration.limits import are_lower as are_lower
from mendiff.calibration.limits import fewest_scores as fewest_scores
from mendiff.calibration.limits import find_outliers as find_outliers
from mendiff.calibration.limits import upper_bound as upper_bound
from mendiff.calibration.thresholds import FALSE_ALARM_RATE as FALSE_ALARM_RATE
from mendiff.calibration.thresholds import Calibration as Calibration
