"""Constants of the sparse stage (see ``DESIGN.md``)."""

from __future__ import annotations

import numpy as np

#: Greatest number of values of a field with a column each, and of such columns of all fields.
MOST_ONE_HOT, MOST_ONE_HOT_COLUMNS = 32, 256
#: Number of columns, and of samples, after which a new number gets no column of its own.
DENSE_COLUMNS, RARE = 256, 32
#: Greatest number of evidence columns that belong to one field each, and of classes that have such columns.
MOST_EVIDENCE, SHOWN_CLASSES = 256, 128
#: Greatest product of rows and classes (a power of two), of values and of pairs: 16 bytes each.
MOST_CELLS = 2**24
#: Prior weight a of evidence: of a field with strings; of a text, for each of its two sets of columns.
PRIOR, TEXT_PRIORS = 5.0, (1.0, 20.0)
#: Bound of the count of a value.
MOST_COUNT = 1000.0
#: Bound of a target less the first one, so that sums of `MOST_COUNT` of them are finite in float32.
MOST_DEVIATION = 1e35
#: Learning rates of the linear members; constant in the square root of the accumulators.
RATES = np.array([0.05, 0.2, 0.8])
DAMPING = 0.1
#: Samples that the mean of the squared norm of the inputs covers.
NORM_SAMPLES = 1000
#: Rate and share of the hedge within a group of linear members; bound of its losses, in nats.
GROUP_ETA, GROUP_SHARE, GROUP_LOSS = 0.1, 0.001, 9.21
#: Rate and share of the hedge of the network and the two groups. The share of the t-th sample, from 0, is
#: 1/(t + 2)² if that is more: the groups begin without weight in a learner that has learned before.
STAGE_ETA, STAGE_SHARE = 0.2, 0.001
#: Count from which a value forms pairs; greatest number of pairs of a sample.
PAIR_COUNT, MOST_PAIRS = 3.0, 300
#: Least and greatest number of rows of pairs.
FIRST_PAIRS, LAST_PAIRS = 2**14, 2**20
#: Number of samples from which a field is compared with an identifier, and doublings of it; number of values
#: for each sample that an identifier has.
IDENTIFIERS_FROM, IDENTIFIERS_SHARE = 1000, 0.95
#: Candidates for a row to be recycled.
CANDIDATES = 16
#: Magnitude from which amounts are compressed by a logarithm.
MOST_AMOUNT = 10.0
#: Least probability of the linear group as the offset of the pairs.
LEAST_OFFSET = 1e-6
#: Samples between two searches for numbers with heavy tails; least number of values, and share of clipped
#: values beyond which a number has them.
TAILS_EVERY, TAILS_FROM, TAILS_SHARE = 50, 200, 0.01
