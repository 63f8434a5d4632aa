# summary.pxd: how many pages of a stretch are free: at its start, in its longest run, at its end.
#
# Pure arithmetic on words, any thread. The body imports nothing, so that it also runs uncompiled (tests/core/test_pages.py).
# Does not: know bitmaps or addresses.

# counts to 2^21 - 1, or all three 2^21
cdef unsigned long long summary_pack(unsigned long long start, unsigned long long longest, unsigned long long end) noexcept nogil
cdef unsigned long long summary_free(unsigned level) noexcept nogil       # the word of a stretch at this level with every page free
cdef unsigned long long summary_start(unsigned long long word) noexcept nogil
cdef unsigned long long summary_max(unsigned long long word) noexcept nogil
cdef unsigned long long summary_end(unsigned long long word) noexcept nogil
cdef unsigned long long summary_merge(const unsigned long long *words, unsigned level) noexcept nogil  # eight children, each ^ summary_free(level)
