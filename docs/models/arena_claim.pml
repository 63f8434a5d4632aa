/* Claims across fields, and the purge that races with them (core/fields, arena, arenapurge).
 *
 * An arena of FIELDS * BITS blocks. Users claim runs that cross fields, hold them, free them; a purger claims what is
 * scheduled, a field at a time, and takes its memory. Each atomic { } is one atomic operation of the code; everything
 * between two of them may be interleaved. Block states are kept beside the bitmaps, as ghosts: whose it is, and whether
 * its memory is there.
 *
 * -DFREED_TWICE: instead, two free the same run at the same time, and the purger races with both.
 * -DUNCLAIMED: a mistake made on purpose: the purger takes memory without claiming the blocks. It has to be found.
 */
#define FIELDS 2
#define BITS 3
#define BLOCKS (FIELDS * BITS)
#define PURGER 3

byte bits[4 * FIELDS];          /* four bitmaps, one after the other */
#define IN_USE 0
#define LIVE FIELDS
#define PURGE (2 * FIELDS)
#define COMMITTED (3 * FIELDS)
bool due;                       /* the expiry is set */
byte owner[BLOCKS];             /* ghost: 0 nobody, a user, or the purger */
bool memory[BLOCKS];            /* ghost: what the OS has given */
byte freed;                     /* how often the shared run was freed */
byte users_done;

inline mask_of(f, at, n, m) {   /* the bits of a run [at, at+n) that lie in field f */
  d_step {
    m = 0; k = 0;
    do
    :: k < BITS ->
         if
         :: f * BITS + k >= at && f * BITS + k < at + n -> m = m | (1 << k)
         :: else
         fi;
         k++
    :: else -> break
    od;
    k = 0
  }
}

inline own(at, n, from, to) {   /* a ghost step, with the atomic operation that it follows */
  k = at;
  do
  :: k < at + n -> assert(owner[k] == from); owner[k] = to; k++
  :: else -> break
  od;
  k = 0
}

/* fields_claim: ascending; what was claimed is given up in descending order. */
inline claim(at, n, got) {
  f = 0; got = true;
  do
  :: f < FIELDS && got ->
       mask_of(f, at, n, m);
       atomic {
         if
         :: (bits[IN_USE + f] & m) == 0 -> bits[IN_USE + f] = bits[IN_USE + f] | m
         :: else -> got = false
         fi
       }
       f++
  :: else -> break
  od;
  if
  :: !got ->
       f = f - 1;                /* the field that could not be had */
       do
       :: f > 0 -> f = f - 1; mask_of(f, at, n, m); atomic { bits[IN_USE + f] = bits[IN_USE + f] & ~m }
       :: else -> break
       od
  :: else
  fi;
  f = 0
}

inline set_bits(map, at, n) {
  f = 0;
  do
  :: f < FIELDS -> mask_of(f, at, n, m); atomic { bits[map + f] = bits[map + f] | m } f++
  :: else -> break
  od;
  f = 0
}

inline clear_bits(map, at, n) {
  f = FIELDS;
  do
  :: f > 0 -> f = f - 1; mask_of(f, at, n, m); atomic { bits[map + f] = bits[map + f] & ~m }
  :: else -> break
  od;
  f = 0
}

/* fields_take: clear bits that are all set, or none. */
inline take(map, at, n, got) {
  f = 0; got = true;
  do
  :: f < FIELDS && got ->
       mask_of(f, at, n, m);
       atomic {
         if
         :: (bits[map + f] & m) == m -> bits[map + f] = bits[map + f] & ~m
         :: else -> got = false
         fi
       }
       f++
  :: else -> break
  od;
  if
  :: !got ->
       f = f - 1;
       do
       :: f > 0 -> f = f - 1; mask_of(f, at, n, m); atomic { bits[map + f] = bits[map + f] | m }
       :: else -> break
       od
  :: else
  fi;
  f = 0
}

inline commit(at, n) {           /* the memory comes with the call, the bits after it */
  k = at;
  do
  :: k < at + n -> memory[k] = true; k++
  :: else -> break
  od;
  k = 0;
  set_bits(COMMITTED, at, n)
}

inline use(at, n) {              /* a caller writes into what it has: nobody took the memory */
  d_step {
    k = at;
    do
    :: k < at + n -> assert(owner[k] == me && memory[k]); k++
    :: else -> break
    od;
    k = 0
  }
}

inline free_run(at, n, got) {
  take(LIVE, at, n, got);
  if
  :: got ->
       set_bits(PURGE, at, n);
       atomic { due = true }     /* the bits before the expiry */
       atomic { own(at, n, me, 0) }
       clear_bits(IN_USE, at, n)
  :: else
  fi
}

proctype user(byte me; byte at; byte n) {
  byte f, k, m, rounds;
  bool got, ignored;
  do
  :: rounds < 2 ->
       rounds++;
       claim(at, n, got);
       if
       :: got ->
            atomic { own(at, n, 0, me) }
            commit(at, n);
            clear_bits(PURGE, at, n);
            set_bits(LIVE, at, n);
            use(at, n);
            free_run(at, n, ignored);
            assert(ignored)
       :: else
       fi
  :: else -> break
  od;
  atomic { users_done++ }
}

#ifdef FREED_TWICE
/* Two who free the same run at the same time: one succeeds, the other is told. */
proctype freer(byte me; byte at; byte n) {
  byte f, k, m;
  bool got;
  take(LIVE, at, n, got);
  if
  :: got ->
       atomic { freed++ }
       set_bits(PURGE, at, n);
       atomic { due = true }
       atomic { own(at, n, 1, 0) }
       clear_bits(IN_USE, at, n)
  :: else
  fi;
  atomic { users_done++ }
}
#endif

proctype purger() {
  byte f, k, m, g, i, claimed, stop, tries;
  do
  :: tries < 2 ->
       tries++;
       if
       :: atomic { due -> due = false }
       :: else -> goto again
       fi;
       g = 0;
       do
       :: g < FIELDS ->
            i = 0;
            do
            :: i < BITS && (bits[PURGE + g] & (1 << i)) != 0 ->
                 /* fields_claim_some: the clear bits from i on that are scheduled */
#ifdef UNCLAIMED
                 stop = i + 1;
#else
                 atomic {
                   stop = i;
                   do
                   :: stop < BITS && (bits[PURGE + g] & (1 << stop)) != 0 && (bits[IN_USE + g] & (1 << stop)) == 0 ->
                        bits[IN_USE + g] = bits[IN_USE + g] | (1 << stop);
                        assert(owner[g * BITS + stop] == 0);
                        owner[g * BITS + stop] = PURGER;
                        stop++
                   :: else -> break
                   od
                 }
#endif
                 claimed = stop;
                 k = i;
                 do
                 :: k < claimed ->
                      if
                      :: (bits[PURGE + g] & (1 << k)) != 0 ->     /* looked at again: it may have been in use meanwhile */
                           memory[g * BITS + k] = false;
                           atomic { bits[COMMITTED + g] = bits[COMMITTED + g] & ~(1 << k) }
                           atomic { bits[PURGE + g] = bits[PURGE + g] & ~(1 << k) }
                      :: else
                      fi;
                      k++
                 :: else -> break
                 od;
                 k = i;
                 do
                 :: k < claimed && owner[g * BITS + k] != PURGER -> k++
                 :: k < claimed && owner[g * BITS + k] == PURGER -> atomic { owner[g * BITS + k] = 0; bits[IN_USE + g] = bits[IN_USE + g] & ~(1 << k) } k++
                 :: k >= claimed -> break
                 od;
                 k = 0;
                 if
                 :: claimed > i -> i = claimed
                 :: else -> i++
                 fi
            :: i < BITS && (bits[PURGE + g] & (1 << i)) == 0 -> i++
            :: i >= BITS -> break
            od;
            g++
       :: else -> break
       od;
       /* what is left is tried again */
       if
       :: bits[PURGE + 0] != 0 || bits[PURGE + 1] != 0 -> atomic { due = true }
       :: else
       fi;
       again: skip
  :: else -> break
  od
}

init {
  atomic {
#ifdef FREED_TWICE
    bits[IN_USE + 0] = 6; bits[IN_USE + 1] = 3; bits[LIVE + 0] = 6; bits[LIVE + 1] = 3; bits[COMMITTED + 0] = 6; bits[COMMITTED + 1] = 3;
    owner[1] = 1; owner[2] = 1; owner[3] = 1; owner[4] = 1;
    memory[1] = true; memory[2] = true; memory[3] = true; memory[4] = true;
    run freer(1, 1, 4);
    run freer(2, 1, 4);
#else
    run user(1, 0, 5);          /* both cross the fields, and overlap */
    run user(2, 2, 4);
#endif
    run purger()
  }
  (_nr_pr == 1);
  /* All is quiet: nothing is held, and what is scheduled will be purged. */
  assert(bits[IN_USE + 0] == 0 && bits[IN_USE + 1] == 0 && bits[LIVE + 0] == 0 && bits[LIVE + 1] == 0);
  assert((bits[PURGE + 0] == 0 && bits[PURGE + 1] == 0) || due);
  byte b = 0;
  do
  :: b < BLOCKS ->
       assert(owner[b] == 0);
       assert((bits[COMMITTED + b / BITS] & (1 << (b % BITS))) == 0 || memory[b]);
       b++
  :: else -> break
  od;
#ifdef FREED_TWICE
  assert(freed == 1)
#endif
}
