"""Decisions from the scores of good images: thresholds, p-values, and whether new scores still match them."""

from mendiff.calibration.thresholds import FALSE_ALARM_RATE as FALSE_ALARM_RATE
from mendiff.calibration.thresholds import MIN_FOR_OUTLIERS as MIN_FOR_OUTLIERS
from mendiff.calibration.thresholds import MINIMUM as MINIMUM
from mendiff.calibration.thresholds import ROUNDING as ROUNDING
from mendiff.calibration.thresholds import Calibration as Calibration
from mendiff.calibration.thresholds import are_lower as are_lower
from mendiff.calibration.thresholds import fewest_scores as fewest_scores
from mendiff.calibration.thresholds import find_outliers as find_outliers
from mendiff.calibration.thresholds import upper_bound as upper_bound
