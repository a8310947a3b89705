"""Controlled delay: how an adaptive mailbox lowers the limit of its normal lane under overload, and raises it again.

After CoDel (K. Nichols, V. Jacobson, "Controlling Queue Delay", ACM Queue 10(5), 2012; RFC 8289). Taken from there:
what counts is how long a message had waited when it is started, and not how many wait; a queue is bad when not one
message of a whole interval had waited less than the target, so a burst that is worked off within an interval is
good; and nothing is held against a queue that a start leaves empty. What differs is the act. A router can only drop
what it has taken in, and does so more and more often until the senders slow down. A mailbox can say no at once, so
here the limit on what may wait becomes what the agent handles within the target, by Little's law. It doubles in
each interval of good queue until it is the capacity again.
"""

from libc.math cimport exp2


@cython.final
cdef class Throttle:
    """What one adaptive mailbox knows of its queue time; under the mailbox's lock."""

    cdef Clock clock
    cdef int64_t target_ns
    cdef int64_t interval_ns
    cdef int64_t bad_since_ns         # the start that every start since has found the queue bad; 0 while it is good
    cdef int64_t good_until_ns        # how far the good queue has been credited to the limit; 0 before the first start
    cdef int64_t started              # messages since bad_since_ns that were started, other than to expire
    cdef double level                 # the limit, with its fraction

    def __init__(self):
        raise InvalidType("Throttle is made by a Cell with an adaptive policy; it cannot be constructed")


cdef Throttle new_throttle(object policy, Clock clock):
    cdef Throttle throttle = Throttle.__new__(Throttle)
    throttle.clock = clock
    throttle.target_ns = <int64_t>(<double>policy.target_queue_seconds * SECOND_NS) or 1
    throttle.interval_ns = <int64_t>(<double>policy.interval_seconds * SECOND_NS) or 1
    throttle.level = policy.capacity
    return throttle
